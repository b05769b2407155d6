"""The methods say what the records say, in order, each reference once and with a number."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gen3d.cohort.methods import MODELS, chain, citations, methods_text
from gen3d.core.artefact import Artefact, read, write_record

KEYS = re.compile(r"\[([a-z0-9]+(?:, [a-z0-9]+)*)\]")


def written(folder: Path, verb: str, config: dict[str, Any], *inputs: Artefact, **summary: Any) -> Artefact:
    folder.mkdir(parents=True)
    items = [{"path": str(one.folder), "verb": one.verb, "key": one.key} for one in inputs]
    record = {"gen3d": "0.1.0", "verb": verb, "key": f"{verb}-{folder.name}", "status": "finished", "config": config}
    write_record(folder, record | {"inputs": {"from": items}, "summary": summary, "finished_at": "", "files": None})
    return read(folder)


def test_the_steps_are_told_in_the_order_of_the_data(tmp_path: Path) -> None:
    prepared = written(tmp_path / "prepared", "prepare", {"spacing_mm": 2.5, "bias_correction": False})
    run = written(tmp_path / "run", "train", {"model": {"kind": "restorer"}, "cross_fit": 5}, prepared)
    maps = written(
        tmp_path / "maps", "anomaly", {"q": 0.1, "empirical_null": False, "covariates": ["age", "sex"]}, prepared, run
    )
    assert [one.verb for one in chain([maps])] == ["prepare", "train", "anomaly"]
    text = methods_text([maps, prepared])
    assert text.index("2.5 mm") < text.index("cross-fitted in 5 folds") < text.index("false discovery rate of 0.1")
    assert text.count("were prepared with gen3d 0.1.0") == 1
    assert "a linear model of age and sex" in text
    assert "N4" not in text, "nothing was corrected"
    assert "empirical null" not in text
    assert "deep" not in text


def test_references_are_numbered_as_they_are_mentioned_and_none_is_left_out(tmp_path: Path) -> None:
    prepared = written(tmp_path / "prepared", "prepare", {"spacing_mm": 2})
    text = methods_text([written(tmp_path / "maps", "anomaly", {}, prepared)])
    body, listed = text.split("## References")
    mentioned = [int(number) for found in re.findall(r"\[(\d+(?:, \d+)*)\]", body) for number in found.split(", ")]
    assert sorted(set(mentioned)) == list(range(1, len(re.findall(r"^\d+\. ", listed, re.MULTILINE)) + 1))
    assert list(dict.fromkeys(mentioned)) == sorted(set(mentioned))
    assert not [key for found in KEYS.findall(body) for key in found.split(", ") if key in citations()]
    assert "Tustison" in listed


def test_every_model_mentions_references_that_are_there() -> None:
    for text in MODELS.values():
        assert all(key in citations() for found in KEYS.findall(text) for key in found.split(", "))


def test_what_is_gone_is_not_told(tmp_path: Path) -> None:
    prepared = written(tmp_path / "elsewhere" / "prepared", "prepare", {"spacing_mm": 2})
    maps = written(tmp_path / "maps", "anomaly", {}, prepared)
    (tmp_path / "elsewhere" / "prepared" / "artefact.json").unlink()
    assert "were prepared" not in methods_text([maps])
    assert methods_text([]).count("[") == 0

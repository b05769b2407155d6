"""The objective out of tables, trees and logs, and the sentence when it is not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gen3d.core.errors import UserError
from gen3d.sweep.results import measure
from gen3d.sweep.settings import Objective


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "metrics.tsv").write_text(
        "key\trole\tchannel\tpsnr\n"
        "a\ttrain\tt1w\t40\n"
        "b\tcalibration\tt1w\t20\n"
        "c\tcalibration\tt1w\t22\n"
        "c\tcalibration\tlog_jacobian\t30\n"
        "d\ttest\tt1w\tn/a\n"
    )
    rows = [
        {"maps": "vae", "measure": "voxel AUROC", "condition": condition, "value": value}
        for condition, value in (("lesion", 0.8), ("ad", 0.6), ("null", None))
    ]
    tree = {"headline": rows, "summary": {"t1w calibration": {"ssim": 0.9}, "broken": None, "with.dot": 3}}
    (tmp_path / "metrics.json").write_text(json.dumps(tree))
    log = [{"member": m, "step": s, "loss": 10 * m + s} for m in (0, 1) for s in (1, 2)]
    (tmp_path / "log.jsonl").write_text("\n".join(json.dumps(entry) for entry in log) + '\n{"member": 0, "st')
    return tmp_path


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        ({"key": "psnr"}, 24.0),
        ({"key": "psnr", "where": {"role": "calibration", "channel": "t1w"}}, 21.0),
        ({"file": "metrics.json", "key": "summary.t1w calibration.ssim"}, 0.9),
        ({"file": "metrics.json", "key": "summary.with.dot"}, 3.0),
        ({"file": "metrics.json", "key": "headline.value", "where": {"condition": "lesion"}}, 0.8),
        ({"file": "log.jsonl", "key": "loss", "where": {}}, 7.0),
    ],
)
def test_the_mean_over_the_rows_that_count(folder: Path, keys: dict[str, Any], value: float) -> None:
    assert measure(Objective.model_validate(keys), folder) == pytest.approx(value)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"key": "pnsr"}, "has no `pnsr`; there are psnr, key, role, channel"),
        ({"where": {"role": "calibrations"}}, "has role = calibrations; there role is train, calibration, test"),
        ({"where": {"rolle": "train"}}, "has rolle = train; there rolle is not a column"),
        ({"where": {"role": "test"}}, "is 'n/a', not a number"),
        ({"file": "metric.tsv"}, "holds log.jsonl, metrics.json, metrics.tsv"),
        ({"file": "maps.nii"}, "is none of .tsv, .json, .jsonl"),
        (
            {"file": "metrics.json", "key": "summary.ssim"},
            "summary.t1w calibration.ssim, headline.maps",
        ),
        ({"file": "metrics.json", "key": "headline.value"}, "no row of `headline.value`"),
        ({"file": "metrics.json", "key": "summary.broken"}, "is None, not a number"),
    ],
)
def test_what_is_not_there_is_one_sentence_that_lists_what_is(
    folder: Path, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(UserError) as error:
        measure(Objective.model_validate(keys), folder)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)

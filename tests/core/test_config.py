from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from gen3d.core.config import Config, Folder, Folders, Verb, execution, load
from gen3d.core.errors import UserError
from gen3d.core.help import describe


class Round(Config):
    kind: Literal["round"] = "round"
    radius_mm: float = Field(1.0, gt=0, description="radius, mm")


class Square(Config):
    kind: Literal["square"] = "square"
    edge_mm: float = Field(1.0, description="edge, mm")


class Draw(Verb):
    source: Folders = Field(description="what to draw")
    run_folder: Folder = Field(Path("r"), alias="run", description="a run")
    shape: Annotated[Round | Square, Field(discriminator="kind")] = Field(default_factory=Round, description="shape")
    parts: dict[str, Round] = Field({"eye": Round(), "nose": Round()}, description="further shapes, by name")
    workers: int = execution(1, "processes")
    rate: float = Field(0.1, description="rate")


def test_overrides_reach_nested_keys_and_lists() -> None:
    verb = load(Draw, None, ["source=[a,b]", "out=o", "shape.kind=square", "shape.edge_mm=3", "rate=1e-4", "run=x"])
    assert verb.source == (Path("a"), Path("b"))
    assert isinstance(verb.shape, Square)
    assert verb.shape.edge_mm == 3
    assert verb.rate == pytest.approx(1e-4)
    assert verb.run_folder == Path("x")


def test_one_path_is_a_list_of_one() -> None:
    assert load(Draw, None, ["source=a", "out=1"]).source == (Path("a"),)


def test_yaml_then_overrides(tmp_path: Path) -> None:
    file = tmp_path / "draw.yaml"
    file.write_text("source: a\nout: o\nrate: 0.5\n")
    assert load(Draw, file, ["rate=0.25"]).rate == 0.25


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["source=a", "out=o", "rat=1"], "`rat` is not a key of `draw`; did you mean `rate`?"),
        (["source=a", "out=o", "shape.radius=1"], "did you mean `radius_mm`?"),
        (["source=a", "out=o", "shape.kind=oval"], "the kinds are 'round', 'square'"),
        (["source=a"], "`out` is missing"),
        (["source=a", "out=o", "rate=fast"], "`rate`"),
        (["source=a", "out=o", "shape.radius_mm=-1"], "greater than 0"),
        (["source=a", "out=o", "rate"], "not of the form key=value"),
        (["source=a", "out=o", "rate=2", "rate.x=1"], "`rate` holds 2"),
        (["source=[a", "out=o"], "not valid YAML"),
    ],
)
def test_mistakes_are_sentences(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        load(Draw, None, overrides)
    assert sentence in str(error.value)


@pytest.mark.parametrize(("text", "sentence"), [("- a\n", "holds a list"), ("a: [1", "not a YAML file")])
def test_damaged_yaml(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load(Draw, file, [])


def test_execution_fields_do_not_change_the_settings() -> None:
    few = load(Draw, None, ["source=a", "out=o", "workers=1"])
    many = load(Draw, None, ["source=a", "out=o", "workers=9"])
    assert few.settings() == many.settings()
    assert few.settings() != load(Draw, None, ["source=a", "out=o", "rate=9"]).settings()


def test_describe_unfolds_groups_and_aliases() -> None:
    keys = {key: (kind, default) for key, kind, default, _ in describe(Draw)}
    assert keys["run"] == ("path", "r")
    assert keys["source"] == ("list of path", "(required)")
    assert keys["shape[kind=square].edge_mm"] == ("number", "1.0")
    assert keys["parts"] == ("group", "eye, nose"), "their names, not every setting of each"
    assert keys["parts.NAME.radius_mm"] == ("number", "1.0")


def test_frozen() -> None:
    verb = load(Draw, None, ["source=a", "out=o"])
    with pytest.raises(ValueError):
        verb.rate = 2


class Words(Verb):
    codes: dict[str, str] = Field(default_factory=dict, description="codes")
    names: tuple[str, ...] | None = Field(None, description="names")
    word: str | None = Field(None, description="a word")
    switch: Literal["auto", "on", "off"] = Field("auto", description="a switch")
    flag: bool = Field(False, description="a flag")
    number: float | None = Field(None, description="a number")
    anything: dict[str, int | float | str | tuple[int | float | str | None, ...]] = Field(
        default_factory=dict, description="values"
    )


@pytest.mark.parametrize(
    "word",
    ["no", "yes", "on", "off", "1", "0", "010", "1e3", "1_000", "12:30", "2020-01-01", "0x10", "true", "1.0", "=1"],
)
def test_a_word_stays_as_it_was_typed(word: str, tmp_path: Path) -> None:
    typed = [f"names=[{word}, {word}]", f"codes={{{word}: {word}}}", f"word={word}", f"out={word}"]
    file = tmp_path / "words.yaml"
    file.write_text(f"names: [{word}, {word}]\ncodes: {{{word}: {word}}}\nword: {word}\nout: {word}\n")
    for verb in (load(Words, None, typed), load(Words, file, [])):
        assert (verb.names, verb.codes, verb.word) == ((word, word), {word: word}, word)
        assert verb.out == Path(word)


def test_what_is_no_word_is_still_read_as_yaml(tmp_path: Path) -> None:
    verb = load(
        Words, None, ["out=o", "switch=on", "flag=yes", "number=1e-3", "anything={a: [1, null], b: no, c: 010}"]
    )
    assert (verb.switch, verb.flag, verb.number) == ("on", True, 1e-3)
    assert verb.anything == {"a": (1, None), "b": "no", "c": "010"}
    file = tmp_path / "w.yaml"
    file.write_text("out: o\nnumber: 3\nword: x\nnames: [a]\n")
    assert load(Words, file, ["number=null", "word=~", "names="]).model_dump(include={"number", "word", "names"}) == {
        "number": None,
        "word": None,
        "names": None,
    }
    assert load(Words, None, ["out=o", "word=Results #3: a & b", "names=['null', \"1\"]"]).names == ("null", "1")
    assert Words(out=Path("o"), names=(1, "a")).names == ("1", "a"), "from Python, where the type is known"


def test_a_key_twice_and_a_few_bytes_that_unfold_to_millions_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "w.yaml"
    file.write_text("out: o\nword: a\nword: b\n")
    with pytest.raises(UserError, match="`word` is given twice"):
        load(Words, file, [])
    laughs = "\n".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))
    file.write_text(f"a0: &a0 [x]\n{laughs}\n")
    with pytest.raises(UserError, match="unfolds to more than"):
        load(Words, file, [])

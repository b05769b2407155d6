"""What holds for every verb: how it works on its folder, and which safeguards it lets a user waive."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gen3d.core.artefact import read
from gen3d.core.config import load, models_in, read_yaml, waived
from gen3d.core.errors import Stopped, UserError
from gen3d.core.output_folder import LOCK, Work, begin
from gen3d.core.work import FINISHED_BEFORE, FolderVerb, Identity
from gen3d.train.engine.shared_work import SharedVerb
from gen3d.verbs import VERBS, verb_class
from tests.contracts.test_configs import FILES, needed, verb_of

STORIES = ("demo", "serve")
"""The verbs that write no folder of their own: they run the others."""
WRITERS = [name for name in VERBS if name not in STORIES]
SAFEGUARDS = {
    ("anomaly", "few_site_controls"): ["allow"],
    ("norm", "few_site_controls"): ["allow"],
    ("sample", "extrapolate"): [True],
    ("forecast", "extrapolate"): [True],
    ("sample", "waiver"): None,
    ("classify", "seen"): ["waive"],
    ("classify", "duplicates"): ["waive"],
    ("train", "model.twin"): [False],
    ("prepare", "orientation.assume"): None,
    ("prepare", "orientation.prefer"): ["sform", "qform"],
}


def configured(name: str, out: Path, write: Any, open_inputs: Any = lambda: None) -> FolderVerb:
    """A verb with the settings of its debug config whose inputs and work are given; all else is its own."""
    verb_type = verb_class(name)
    assert issubclass(verb_type, FolderVerb)
    shared = issubclass(verb_type, SharedVerb)
    verb_type = type(
        verb_type.__name__,
        (verb_type,),
        {
            "__module__": __name__,
            "open_inputs": lambda self: open_inputs(),
            "identity": lambda self, opened: Identity({}),
            "notes": lambda self, opened: {"backend": "gloo"},
            "describe": lambda self, work, opened: None,
            "check_finished": lambda self, opened: None,
            "conclude": lambda self, summary: None,
            "share" if shared else "write": lambda self, *given: write(self.out),
        },
    )
    file = next(file for file in FILES if file.parent.name == "debug" and verb_of(file) == name)
    given = read_yaml(file)
    names = {field.alias or key for key, field in verb_type.model_fields.items()}
    words = [f"{key}={value}" for key, value in needed(file, given).items() if key in names and key not in given]
    verb = load(verb_type, file, [*words, f"out={out}"])
    assert isinstance(verb, FolderVerb)
    return verb


def _write(out: Path) -> dict[str, Any]:
    (out / "part").write_text("1")
    return {"n": 1}


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file() and path.name != LOCK}


def test_the_index_names_every_verb_as_the_folder_does() -> None:
    assert {name: verb_class(name).verb_name() for name in VERBS} == {name: name for name in VERBS}


@pytest.mark.parametrize(
    "failure", [UserError("no"), KeyboardInterrupt(), Stopped(15), RuntimeError("a mistake of ours")], ids=repr
)
@pytest.mark.parametrize("name", WRITERS)
def test_any_failure_lets_go_of_the_folder_and_the_same_command_goes_on(
    name: str, failure: BaseException, tmp_path: Path
) -> None:
    out = tmp_path / "out"

    def fail(folder: Path) -> dict[str, Any]:
        _write(folder)
        raise failure

    with pytest.raises(type(failure)) as caught:  # the traceback holds every frame, as while an error is being told
        configured(name, out, fail).run()
    with pytest.raises(UserError, match="never finished there; run the same command again"):
        read(out)
    assert configured(name, out, _write).run() == out
    assert read(out, (name,)).summary == {"n": 1}
    del caught


@pytest.mark.parametrize("name", WRITERS)
def test_inputs_that_cannot_be_used_leave_nothing_behind(name: str, tmp_path: Path) -> None:
    def broken() -> None:
        raise UserError("no such cohort")

    with pytest.raises(UserError, match="no such cohort"):
        configured(name, tmp_path / "out", _write, broken).run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", [name for name in WRITERS if not verb_class(name).reopens])  # type: ignore[attr-defined]
def test_a_finished_folder_is_left_as_it_is(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    configured(name, out, _write).run()
    before = _files(out)
    capsys.readouterr()

    def again(folder: Path) -> dict[str, Any]:
        raise AssertionError("written twice")

    configured(name, out, again).run()
    assert capsys.readouterr().out == f"{out}: {FINISHED_BEFORE}\n"
    assert _files(out) == before


def test_a_finished_folder_needs_its_inputs_no_more(tmp_path: Path) -> None:
    def gone() -> None:
        raise UserError("the scans were deleted")

    for name in ("encode", "anomaly", "classify", "report"):
        configured(name, tmp_path / name, _write).run()
        configured(name, tmp_path / name, _write, gone).run()


def test_a_sweep_opens_its_folder_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in (1, 2):
        configured("sweep", out, lambda folder, n=n: {"n": n}).run()
        assert read(out).summary == {"n": n}
    configured("sweep", out, lambda folder: None).run()  # SLURM has it
    assert read(out).summary == {"n": 2}  # what was finished stays readable meanwhile


@pytest.mark.parametrize("name", WRITERS)
def test_nobody_writes_run_a_second_time(name: str) -> None:
    verb = verb_class(name)
    template = SharedVerb if issubclass(verb, SharedVerb) else FolderVerb
    assert verb.run is template.run or name == "sweep", "the template of run() is in core/work.py"


def _fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        yield prefix + (field.alias or name), field
        for below in models_in(field.annotation):
            yield from _fields(below, f"{prefix}{name}.")


def test_every_safeguard_that_can_be_waived_is_known() -> None:
    marked = {
        (name, key): field.json_schema_extra["waives"]
        for name in VERBS
        for key, field in _fields(verb_class(name))
        if isinstance(field.json_schema_extra, dict) and "waives" in field.json_schema_extra
    }
    assert marked == SAFEGUARDS


@pytest.mark.parametrize("name", VERBS)
def test_a_value_that_sounds_like_a_waiver_is_one(name: str) -> None:
    for key, field in _fields(verb_class(name)):
        kinds = str(field.annotation)
        if "'waive'" in kinds or "'allow'" in kinds or key.rpartition(".")[2] in ("waiver", "force", "ignore"):
            assert (name, key) in SAFEGUARDS, f"{name}.{key} must be declared with waiver(...)"


@pytest.mark.parametrize(("name", "key"), SAFEGUARDS)
def test_a_waived_safeguard_is_recorded_and_none_by_default(name: str, key: str, tmp_path: Path) -> None:
    verb = configured(name, tmp_path / "out", _write)
    assert waived(verb) == []
    value = (SAFEGUARDS[name, key] or ["looked at every scan"])[0]
    group, _, last = key.rpartition(".")
    update = {group: getattr(verb, group).model_copy(update={last: value})} if group else {last: value}
    verb.model_copy(update=update).run()
    assert read(tmp_path / "out").waivers == (f"{key}={value}",)


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    verb = configured("encode", tmp_path / "out", _write)
    with begin(verb, "encode", {}) as work:
        assert isinstance(work, Work)
        with pytest.raises(UserError, match="another gen3d process is writing there"):
            verb.run()
    assert verb.run() == tmp_path / "out"


@pytest.mark.parametrize("name", WRITERS)
def test_a_dry_run_finds_in_the_folder_what_the_run_finds(name: str, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("x")
    for out, sentence in ((foreign, "not written by gen3d"), (foreign / "thesis.txt" / "x", "cannot be written")):
        with pytest.raises(UserError, match=sentence) as in_run:
            configured(name, out, _write).run()
        with pytest.raises(UserError, match=sentence) as in_plan:
            configured(name, out, _write).outlook()
        assert str(in_plan.value).split(":")[0] == str(in_run.value).split(":")[0]
    done = configured(name, tmp_path / "done", _write)
    assert done.outlook() == (False, "")
    done.run()
    assert done.outlook() == (not done.reopens, f"{done.out}: {FINISHED_BEFORE}")
    with begin(done.model_copy(update={"out": tmp_path / "busy"}), name, {}) as work:
        assert isinstance(work, Work)
        with pytest.raises(UserError, match="another gen3d process is writing there"):
            done.model_copy(update={"out": tmp_path / "busy"}).outlook()
    assert "goes on where it stopped" in done.model_copy(update={"out": tmp_path / "busy"}).outlook()[1]

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path

import pytest
from pydantic import Field

from gen3d.core import artefact
from gen3d.core.artefact import RECORD, digest, read
from gen3d.core.config import Config, Folder, Verb, execution, waiver
from gen3d.core.disk import PARTIAL
from gen3d.core.errors import UserError
from gen3d.core.output_folder import LOCK, begin


class Copy(Verb):
    source: Folder = Field(description="what to copy")
    times: int = Field(1, description="how often")
    workers: int = execution(1, "processes")


class Guard(Config):
    few: str = waiver("refuse", "few people", waives=("allow",), execution=True)


class Guarded(Verb):
    guard: Guard = Field(default_factory=Guard, description="safeguards")
    reason: str | None = waiver(None, "a reason to go without", execution=True)


def make(tmp_path: Path, **changes: object) -> Copy:
    source = tmp_path / "in.txt"
    if not source.exists():
        source.write_text("a")
    return Copy.model_validate({"source": source, "out": tmp_path / "out", **changes})


def start(verb: Copy):
    return begin(verb, "copy", {"source": verb.source})


def test_begin_finish_read(tmp_path: Path) -> None:
    work = start(make(tmp_path))
    assert not work.finished
    assert not work.resumed
    work.finish({"n": 3})
    artefact = read(tmp_path / "out", ("copy",))
    assert artefact.summary == {"n": 3}
    assert artefact.inputs["source"][0]["key"]


def test_interrupted_goes_on_with_other_workers(tmp_path: Path) -> None:
    start(make(tmp_path)).release()
    with start(make(tmp_path, workers=7)) as work:
        assert work.resumed
        assert not work.finished


def test_finished_is_not_done_again(tmp_path: Path) -> None:
    start(make(tmp_path)).finish()
    assert start(make(tmp_path)).finished


def test_a_finished_folder_that_may_grow_stays_locked_and_readable(tmp_path: Path) -> None:
    start(make(tmp_path)).finish({"n": 1})
    verb = make(tmp_path)
    with begin(verb, "copy", {"source": verb.source}, extendable=True) as work:
        assert (work.finished, work.resumed) == (True, True)
        assert read(tmp_path / "out").summary == {"n": 1}
        with pytest.raises(UserError, match="another gen3d process"):
            begin(verb, "copy", {"source": verb.source}, extendable=True)
        work.finish({"n": 2})
    assert read(tmp_path / "out").summary == {"n": 2}


def test_a_record_that_cannot_be_written_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, value: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(artefact, "write_json", full)
        with pytest.raises(OSError, match="No space"):
            start(make(tmp_path))
    start(make(tmp_path)).finish()


def test_what_is_waived_is_recorded_of_the_latest_start(tmp_path: Path) -> None:
    def record(**changes: object) -> tuple[str, ...]:
        verb = Guarded.model_validate({"out": tmp_path / "guarded", **changes})
        begin(verb, "guarded", {}, extendable=True).finish()
        return read(tmp_path / "guarded").waivers

    assert record() == ()
    assert record(reason="I looked at them", guard={"few": "allow"}) == ("guard.few=allow", "reason=I looked at them")
    assert record() == ()


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    start(make(tmp_path)).finish()
    with pytest.raises(UserError, match=r"times was 1 and is now 2"):
        start(make(tmp_path, times=2))


def test_other_input_content_is_refused(tmp_path: Path) -> None:
    start(make(tmp_path)).finish()
    (tmp_path / "in.txt").write_text("b")
    with pytest.raises(UserError, match="other inputs"):
        start(make(tmp_path))


def test_a_moved_input_is_the_same_input(tmp_path: Path) -> None:
    start(make(tmp_path)).finish()
    moved = tmp_path / "moved.txt"
    moved.write_text("a")
    assert start(make(tmp_path, source=moved)).finished


def test_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.docx").write_text("x")
    with pytest.raises(UserError, match="not written by gen3d"):
        start(make(tmp_path))
    assert (tmp_path / "out" / "thesis.docx").read_text() == "x"


def test_a_folder_that_was_killed_before_its_record_was_there_is_used(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "volumes").mkdir(parents=True)
    for name in (LOCK, f"{PARTIAL}a1b2", f"{PARTIAL}c3d4"):
        (out / name).write_text("{")
    (out / "volumes").rmdir()
    with start(make(tmp_path)) as work:
        assert not work.resumed
        assert {path.name for path in out.iterdir()} == {LOCK, RECORD}


def test_what_was_in_the_making_when_it_was_killed_goes_when_it_goes_on(tmp_path: Path) -> None:
    with start(make(tmp_path)):
        (tmp_path / "out" / f"{PARTIAL}a1b2.nii").write_text("half")
        (tmp_path / "out" / "part").write_text("whole")
    with start(make(tmp_path)) as work:
        assert work.resumed
        assert {path.name for path in work.folder.iterdir()} == {LOCK, RECORD, "part"}


def test_nothing_of_a_process_at_work_is_removed(tmp_path: Path) -> None:
    with start(make(tmp_path)) as work:
        (work.folder / f"{PARTIAL}a1b2.nii").write_text("half")
        with pytest.raises(UserError, match="another gen3d process"):
            start(make(tmp_path))
        assert (work.folder / f"{PARTIAL}a1b2.nii").exists()


def test_missing_input(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        start(make(tmp_path, source=tmp_path / "nowhere"))


def test_out_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        start(make(tmp_path, out=tmp_path / "file" / "out"))


def test_reading_what_is_not_there_or_not_finished(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"holds no artefact\.json"):
        read(tmp_path)
    work = start(make(tmp_path))
    with pytest.raises(UserError, match="never finished"):
        read(tmp_path / "out")
    work.finish()
    with pytest.raises(UserError, match="an output folder of `gen3d train` is needed"):
        read(tmp_path / "out", ("train",))
    (tmp_path / "out" / "artefact.json").write_text('{"half')
    with pytest.raises(UserError, match="damaged"):
        read(tmp_path / "out")


def _try_to_write(verb: Copy, queue) -> None:  # type: ignore[no-untyped-def]
    try:
        start(verb)
        queue.put("written")
    except UserError as error:
        queue.put(str(error))


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    verb = make(tmp_path)
    work = start(verb)
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_try_to_write, args=(verb, queue))
    process.start()
    assert "another gen3d process" in queue.get(timeout=300)
    process.join()
    work.finish()


def test_record_is_json_and_digest_ignores_order(tmp_path: Path) -> None:
    start(make(tmp_path)).finish()
    record = json.loads((tmp_path / "out" / "artefact.json").read_text())
    assert record["verb"] == "copy"
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})

"""A finished folder is what its verb left, or opening it says which file is not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import Field

from gen3d.core import seal as sealing
from gen3d.core.artefact import changes_explained, discard, read
from gen3d.core.config import Folder, Verb
from gen3d.core.errors import UserError
from gen3d.core.inputs import find_input, input_of
from gen3d.core.output_folder import begin


class Made(Verb):
    source: Folder | None = Field(None, description="what it is made from")
    times: int = Field(1, description="how often")


def make(out: Path, source: Path | None = None, **files: str) -> Path:
    """A finished folder with weights, a volume, a table and settings."""
    inputs = {} if source is None else {"source": source}
    with begin(Made(out=out, source=source), "made", inputs) as work:
        content = {
            "weights.safetensors": "0123456789",
            "volumes/a.nii": "voxels",
            "people.tsv": "key\na\n",
            "s.json": "{}",
        }
        for name, text in (content | files).items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        work.finish({"n": 1})
    return out


def _flip(path: Path, keep_time: bool = False) -> None:
    times = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    if keep_time:
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("name", ["weights.safetensors", "volumes/a.nii", "people.tsv", "s.json"])
def test_a_flipped_bit_is_named_however_often_the_folder_was_opened(name: str, tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    assert read(folder).summary == read(folder).summary == {"n": 1}
    _flip(folder / name)
    with pytest.raises(UserError, match=rf"{name}: was changed after `gen3d made` finished"):
        read(folder)


def test_weights_are_compared_by_content_even_where_size_and_time_are_the_same(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    read(folder)
    _flip(folder / "weights.safetensors", keep_time=True)
    with pytest.raises(UserError, match="was changed"):
        read(folder)


def test_two_files_exchanged_are_noticed(tmp_path: Path) -> None:
    folder = make(tmp_path / "out", **{"volumes/b.nii": "others"})
    (folder / "volumes/a.nii").rename(tmp_path / "a")
    (folder / "volumes/b.nii").rename(folder / "volumes/a.nii")
    (tmp_path / "a").rename(folder / "volumes/b.nii")
    with pytest.raises(UserError, match="was changed"):
        read(folder)


def test_what_is_missing_or_no_file_any_more_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    (folder / "people.tsv").unlink()
    with pytest.raises(UserError, match=r"people\.tsv: is missing, though `gen3d made` wrote it"):
        read(folder)
    os.mkfifo(folder / "people.tsv")
    with pytest.raises(UserError, match=r"people\.tsv: was changed"):
        read(folder)


def test_a_copy_with_other_times_and_something_added_is_the_same_folder(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy, copy_function=shutil.copyfile)
    (copy / "notes.txt").write_text("looked at")
    (copy / ".DS_Store").write_text("x")
    assert read(copy).key == read(folder).key


@pytest.mark.parametrize(
    "change",
    [{"status": "finished "}, {"key": "0" * 16}, {"summary": {"n": 2}}, {"inputs": {"source": []}}, {"files": {}}],
    ids=str,
)
def test_an_edited_record_is_noticed(change: dict[str, object], tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    record = json.loads((folder / "artefact.json").read_text())
    (folder / "artefact.json").write_text(json.dumps(record | change))
    with pytest.raises(UserError, match=r"artefact\.json: was changed after gen3d wrote it"):
        read(folder)
    with pytest.raises(UserError, match=r"artefact\.json: was changed after gen3d wrote it"):
        make(folder)


def test_a_finished_folder_that_was_changed_is_not_called_finished(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    (folder / "people.tsv").unlink()
    with pytest.raises(UserError, match="delete it and run `gen3d made` again"):
        begin(Made(out=folder), "made", {})


def test_a_folder_without_hashes_is_read_and_that_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make(tmp_path / "out")
    record = json.loads((folder / "artefact.json").read_text())
    for name in ("files", "checksum", "folder"):
        record.pop(name)
    (folder / "artefact.json").write_text(json.dumps(record))
    capsys.readouterr()
    assert read(folder).key == read(folder).key
    assert capsys.readouterr().err.count("was written before gen3d kept hashes") == 1


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a\0b"])
def test_a_list_of_files_that_leads_elsewhere_is_damaged(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="damaged"):
        sealing.check(tmp_path, {name: "1 1 0123456789abcdef"}, "made")
    with pytest.raises(UserError, match="damaged"):
        sealing.check(tmp_path, {"a": "one"}, "made")


def _linked_folder(out: Path, elsewhere: Path) -> None:
    (out / "volumes").symlink_to(elsewhere)


def _linked_file(out: Path, elsewhere: Path) -> None:
    (out / "people.tsv").symlink_to(elsewhere / "people.tsv")


def _linked_lock(out: Path, elsewhere: Path) -> None:
    (elsewhere / "kept").write_text("content")
    (out / ".lock").unlink()
    (out / ".lock").symlink_to(elsewhere / "kept")


def _pipe_as_lock(out: Path, elsewhere: Path) -> None:
    (out / ".lock").unlink()
    os.mkfifo(out / ".lock")


@pytest.mark.parametrize("plant", [_linked_folder, _linked_file, _linked_lock, _pipe_as_lock])
def test_nothing_is_written_through_links_in_an_output_folder(
    plant: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    begin(Made(out=out), "made", {}).release()
    plant(out, elsewhere)
    before = {path.name: path.read_text() for path in elsewhere.iterdir()}
    with pytest.raises(UserError, match=r"(is a special file or a link out of the folder|cannot be written)"):
        make(out)
    assert before == {path.name: path.read_text() for path in elsewhere.iterdir()}


def test_links_within_an_output_folder_are_fine(tmp_path: Path) -> None:
    out = tmp_path / "out"
    begin(Made(out=out), "made", {}).release()
    (out / "newest").symlink_to("s.json")
    assert read(make(out)).summary == {"n": 1}


def test_an_output_folder_may_itself_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "large_disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "large_disk")
    assert read(make(tmp_path / "out")).summary == {"n": 1}


def test_a_record_is_read_under_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may finish the folder between the first look and the lock."""
    from gen3d.core import output_folder

    out, lock = tmp_path / "out", output_folder._lock_folder

    def late(folder: Path) -> object:
        monkeypatch.setattr(output_folder, "_lock_folder", lock)
        make(folder)
        return lock(folder)

    monkeypatch.setattr(output_folder, "_lock_folder", late)
    with begin(Made(out=out), "made", {}) as work:
        assert work.finished
    make_other = Made(out=tmp_path / "other")

    def taken(folder: Path) -> object:
        monkeypatch.setattr(output_folder, "_lock_folder", lock)
        begin(Made(out=folder, times=2), "made", {}).finish()
        return lock(folder)

    monkeypatch.setattr(output_folder, "_lock_folder", taken)
    with pytest.raises(UserError, match="times was 2 and is now 1"):
        begin(make_other, "made", {})


def _study(root: Path, text: str = "key\na\n") -> tuple[Path, Path]:
    prepared = make(root / "prepared", **{"people.tsv": text})
    return prepared, make(root / "latents", prepared)


def test_an_input_is_found_where_it_was_and_after_both_moved_or_it_was_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    _, latents = _study(Path())
    item = read(latents).inputs["source"][0]
    assert item["path"] == str(tmp_path / "here" / "prepared")
    monkeypatch.chdir(tmp_path)
    assert find_input(read(Path("here/latents")), item) == tmp_path / "here" / "prepared"
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert find_input(read(Path("there/latents")), item) == tmp_path / "there" / "prepared"
    (tmp_path / "there" / "prepared").rename(tmp_path / "there" / "renamed")
    assert find_input(read(Path("there/latents")), item) == tmp_path / "there" / "renamed"


def test_an_exchanged_input_is_told_with_both_keys_and_never_used(tmp_path: Path) -> None:
    _, latents = _study(tmp_path / "study")
    item = read(latents).inputs["source"][0]
    shutil.rmtree(tmp_path / "study" / "prepared")
    with pytest.raises(
        UserError, match=r"was made from .*prepared, which is no longer there .*; give prepared=FOLDER\."
    ):
        input_of(read(latents), item, "give prepared=FOLDER")
    with begin(Made(out=tmp_path / "study" / "prepared", times=3), "made", {}) as work:
        work.finish()
    other = read(tmp_path / "study" / "prepared").key
    with pytest.raises(UserError, match=rf"holds something else now \(key {other} instead of {item['key']}\)"):
        input_of(read(latents), item, "give prepared=FOLDER")


def test_a_failure_on_a_folder_without_hashes_is_a_sentence_and_behind_a_seal_a_mistake_of_ours(tmp_path: Path) -> None:
    folder = make(tmp_path / "out")
    with pytest.raises(KeyError), changes_explained():
        raise KeyError(read(folder).summary["n"])
    record = json.loads((folder / "artefact.json").read_text())
    for name in ("files", "checksum", "folder"):
        record.pop(name)
    (folder / "artefact.json").write_text(json.dumps(record))
    with (
        pytest.raises(UserError, match=r"out: something in there is not as gen3d writes it \(KeyError: 1\)"),
        changes_explained(),
    ):
        raise KeyError(read(folder).summary["n"])


def test_what_a_sweep_discards_of_a_finished_folder_leaves_it_whole(tmp_path: Path) -> None:
    folder = make(tmp_path / "out", **{"volumes/b.nii": "others", "volumes2/c.nii": "kept"})
    discard(folder, "volumes")
    assert not (folder / "volumes").exists()
    assert read(folder).summary == {"n": 1}
    (folder / "volumes2/c.nii").unlink()
    with pytest.raises(UserError, match=r"c\.nii: is missing"):
        read(folder)

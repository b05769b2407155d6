"""Files of finished folders, edited or written by something else: a sentence or the same result, never another error.

The seal notices every edit. Here folders are sealed again afterwards, as another tool would write them, so that the readers
themselves are tried.
"""

from __future__ import annotations

import json
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.models.normative.pca import PCAConfig
from tests.cohorts import write_cohort
from tests.end_to_end.readers import READERS
from tests.genotypes.people import write_genotypes
from tests.models.test_run import write_run
from tests.sealing import reseal
from tests.world import build
from tests.world_heads import build_heads

LARGE = ("volumes", "maps", "figures", "thumbnails", "cluster_maps", "transforms")
"""Folders of pictures and volumes, which are copied as links: no reader here opens them."""
TREES, TABLES = (".json", ".yaml"), (".tsv",)
NOT_READ = {"dataset_description.json", "participants.json"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A small finished folder of every verb that there is a reader of, by verb."""
    root = tmp_path_factory.mktemp("finished")
    world = build(root / "world", models=("pca",))
    found = {read(path.parent).verb: path.parent for path in sorted(world.root.rglob("artefact.json"))}
    found |= {read(path).verb: path for path in build_heads(root / "heads", world.plan)}
    found["train"] = write_run(root / "run", PCAConfig(num_components=3))
    found["prepare"] = write_cohort(root / "cohort", num_controls=6, num_patients=2)
    (root / "genes").mkdir()
    found["genotypes"] = write_genotypes(root / "genes")
    for verb in ("sample", "classify"):  # their other readers open what only the verbs themselves write
        found.pop(verb, None)
    return {verb: reseal(folder) for verb, folder in found.items()}


def _copy(folder: Path, to: Path) -> Path:
    """A folder whose large parts are links."""
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for item in folder.iterdir():
        if item.is_dir() and item.name in LARGE:
            (to / item.name).symlink_to(item)
        elif item.is_dir():
            shutil.copytree(item, to / item.name)
        elif item.name != ".lock":
            shutil.copy2(item, to / item.name)
    return to


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and path.name not in NOT_READ | {"artefact.json"} and path.parent.name not in LARGE
    ]


def _edited_trees(text: str, suffix: str) -> Iterator[tuple[str, bytes]]:
    """A file of JSON or YAML with parts missing, of other kinds, or impossible."""
    tree = json.loads(text) if suffix == ".json" else yaml.safe_load(text)
    dump: Callable[[Any], str] = json.dumps if suffix == ".json" else yaml.safe_dump
    yield "a list", b"[]"
    yield "nothing", b"null"
    yield "empty", b""
    yield "half", text.encode()[: len(text) // 2]
    yield "deep", b"[" * 3000
    yield "another encoding", text.encode("utf-16")
    yield "with a mark", text.encode("utf-8-sig")
    if isinstance(tree, dict):
        for name in list(tree)[:6]:
            yield f"without {name}", dump({key: value for key, value in tree.items() if key != name}).encode()
            for wrong in (None, [], {"a": [1]}, -1e30):
                yield f"{name} is {wrong!r}", dump(tree | {name: wrong}).encode()
    if suffix == ".json":
        yield "twice", b'{"a": 1, "a": 2}'
        yield "not finite", text.replace("1", "1e999").encode()


def _edited_tables(text: str) -> Iterator[tuple[str, bytes]]:
    """A table with parts missing, of other kinds, or impossible."""
    header, *rows = text.splitlines()
    names, cells = header.split("\t"), [row.split("\t") for row in rows]
    yield "empty", b""
    yield "without rows", f"{header}\n".encode()
    yield "binary", bytes(range(256))
    yield "another encoding", text.encode("utf-16")
    yield "ragged", f"{text.rstrip()}\tmore\n".encode()
    yield "twice", "\n".join([f"{header}\t{names[0]}", *(f"{row}\tx" for row in rows)]).encode()
    yield "out of the folder", "\n".join([header, *("../../" + row for row in rows)]).encode()
    for place, name in list(enumerate(names))[:8]:
        without = [names[:place] + names[place + 1 :], *(row[:place] + row[place + 1 :] for row in cells)]
        yield f"without {name}", "\n".join("\t".join(row) for row in without).encode()
        for wrong in ("word", "1e999"):
            other = [names, *([*row[:place], wrong, *row[place + 1 :]] for row in cells)]
            yield f"{name} is {wrong}", "\n".join("\t".join(row) for row in other).encode()


def _edits(path: Path) -> Iterator[tuple[str, bytes]]:
    text = path.read_text(encoding="utf-8")
    return _edited_tables(text) if path.suffix in TABLES else _edited_trees(text, path.suffix)


READER = READERS | {  # of folders that hold only what the report reads, and a simulated cohort without its truth
    "simulate": READERS["prepare"],
    "harmonise": READERS["evaluate"],
    "stratify": READERS["evaluate"],
}
VERBS = [
    "simulate", "prepare", "train", "encode", "harmonise", "reconstruct", "anomaly", "change", "evaluate", "quality", "stratify",
    "predict", "genotypes",
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
def test_an_edited_file_is_a_sentence_or_changes_nothing(
    verb: str, folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, reader = _copy(folders[verb], tmp_path / "folder"), READER[verb]
    reader(folder)
    wrong: list[str] = []
    for path in _files(folder, (*TREES, *TABLES)):
        sound = path.read_bytes()
        for what, content in _edits(path):
            path.write_bytes(content)
            reseal(folder)
            try:
                reader(folder)
            except UserError:
                pass
            except Exception as error:
                wrong.append(f"{path.relative_to(folder)} {what}: {type(error).__name__}: {str(error)[:100]}")
            path.write_bytes(sound)
    assert not wrong, f"{len(wrong)} of {verb}:\n" + "\n".join(wrong)


@pytest.mark.parametrize("verb", VERBS)
def test_one_changed_bit_of_any_file_is_noticed(verb: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    shutil.copytree(folders[verb], folder)
    random = np.random.default_rng(zlib.crc32(verb.encode()))
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    assert read(folder).verb == verb
    for path in files:
        content = bytearray(path.read_bytes())
        place = int(random.integers(len(content)))
        content[place] ^= 1 << int(random.integers(8))
        sound = path.read_bytes()
        path.write_bytes(bytes(content))
        with pytest.raises(UserError, match=f"{path.name}: (was changed|damaged)"):
            read(folder)
        path.unlink()
        with pytest.raises(UserError, match=f"{path.name}"):
            read(folder)
        path.write_bytes(sound)
    assert read(folder).verb == verb

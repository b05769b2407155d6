"""Regular files are opened; a pipe, a socket, a device, a folder or an impossible name is one sentence, at once."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from gen3d.core.artefact import file_digest
from gen3d.core.errors import UserError
from gen3d.core.files import open_regular, require_regular


def _pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe")
    return folder / "pipe"


def _linked_pipe(folder: Path) -> Path:
    (folder / "link").symlink_to(_pipe(folder))
    return folder / "link"


def _socket(folder: Path) -> Path:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{(handle := os.open(folder, os.O_RDONLY))}/socket")  # its own name may be too long
        os.close(handle)
    return folder / "socket"


def _circle(folder: Path) -> Path:
    (folder / "circle").symlink_to(folder / "circle")
    return folder / "circle"


UNUSABLE: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda folder: folder / "a", "no such file"),
    "dangling link": (lambda folder: ((folder / "a").symlink_to("b"), folder / "a")[1], "no such file"),
    "folder": (lambda folder: folder, "is a folder"),
    "pipe": (_pipe, "is a named pipe"),
    "link to a pipe": (_linked_pipe, "is a named pipe"),
    "socket": (_socket, "is a socket"),
    "device": (lambda folder: Path("/dev/zero"), "is a device"),
    "circle of links": (_circle, "cannot be opened"),
    "too long a name": (lambda folder: folder / ("a" * 4000), "cannot be opened"),
    "NUL byte": (lambda folder: folder / "a\0b", "NUL byte"),
}


@pytest.mark.parametrize("name", UNUSABLE)
@pytest.mark.parametrize("read", [require_regular, open_regular, file_digest])
def test_what_is_no_regular_file_is_one_printable_sentence(
    name: str, read: Callable[[Path], object], tmp_path: Path
) -> None:
    make, sentence = UNUSABLE[name]
    path = make(tmp_path)
    with pytest.raises(UserError, match=sentence) as error:
        read(path)
    assert isinstance(error.value, OSError)  # who copes with a missing file copes with this
    assert str(error.value).isprintable()
    assert len(str(error.value)) < 500


def test_a_file_and_a_link_to_it_are_read(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") == "ed7002b439e9ac84"
    with open_regular(tmp_path / "b") as stream:
        assert stream.read() == b"content"
    assert require_regular(tmp_path / "a").st_size == 7

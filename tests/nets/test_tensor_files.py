"""Files of weights that claim more than they hold, or hold what no figure can come of."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gen3d.core.errors import UserError
from gen3d.nets.tensor_files import load_tensors, require_finite

SOUND = {"state_dict": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(4, dtype=torch.int64)}, "epoch": 3}


@pytest.mark.parametrize("archive", [True, False], ids=["zip", "before zip"])
def test_what_torch_saved_comes_back(archive: bool, tmp_path: Path) -> None:
    torch.save(SOUND, tmp_path / "a.pt", _use_new_zipfile_serialization=archive)
    found = load_tensors(tmp_path / "a.pt")
    assert found["epoch"] == 3
    assert all(torch.equal(found["state_dict"][name], value) for name, value in SOUND["state_dict"].items())  # type: ignore[attr-defined]


def test_parameters_views_and_halves_come_back(tmp_path: Path) -> None:
    whole = torch.arange(24, dtype=torch.bfloat16)
    saved = {"view": whole.view(4, 6)[1:3].t(), "whole": whole, "parameter": torch.nn.Parameter(torch.ones(3))}
    torch.save(saved, tmp_path / "a.pt")
    found = load_tensors(tmp_path / "a.pt")
    assert torch.equal(found["view"], saved["view"])
    save_file({"whole": whole}, tmp_path / "a.safetensors")
    assert torch.equal(load_tensors(tmp_path / "a.safetensors")["whole"], whole)


def _expanded(path: Path) -> None:
    torch.save({"a": torch.zeros(1).expand(60_000, 60_000)}, path)


def _sparse(path: Path) -> None:
    torch.save(
        {"a": torch.sparse_coo_tensor(torch.zeros((2, 1)), torch.ones(1), (60_000, 60_000), check_invariants=True)},
        path,
    )


def _zip_bomb(path: Path) -> None:
    torch.save({"a": torch.zeros(5_000_000)}, path)
    with zipfile.ZipFile(path) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _larger_storage(path: Path) -> None:
    """The pickle claims more numbers than the record of the archive holds, which would be read beyond its end."""
    torch.save({"a": torch.zeros(1000)}, path)
    with zipfile.ZipFile(path) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    more = struct.pack("<H", 1000), struct.pack("<H", 60_000)
    parts = {name: content.replace(*more) if name.endswith("data.pkl") else content for name, content in parts.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def _larger_legacy(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"M" + struct.pack("<H", 1000), b"J" + struct.pack("<i", 2_000_000_000)))


def _byte_array(path: Path) -> None:
    """A pickle that calls bytearray(14 GB), which the unpickler of weights allows."""
    torch.save({"a": torch.zeros(1)}, path)
    with zipfile.ZipFile(path) as stored:
        parts = {name: stored.read(name) for name in stored.namelist()}
    call = b"\x80\x02cbuiltins\nbytearray\n" + b"\x8a\x05" + (14_400_000_000).to_bytes(5, "little") + b"\x85R."
    parts = {name: call if name.endswith("data.pkl") else content for name, content in parts.items()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_expanded, "a tensor of 3,600,000,000 numbers in a file of"),
        (_sparse, "a tensor of a kind that weights are not"),
        (_zip_bomb, "bytes when unpacked, in a file of"),
        (_larger_storage, "a tensor of 240,000 bytes, of which the file holds fewer"),
        (_larger_legacy, "tensors of 8,000,000,000 bytes in a file of"),
        (_byte_array, "it would allocate a bytearray"),
    ],
)
def test_a_small_file_that_asks_for_much_is_refused_before_it_gets_it(
    make: Callable[[Path], None], reason: str, tmp_path: Path
) -> None:
    make(tmp_path / "a.pt")
    assert (tmp_path / "a.pt").stat().st_size < 100_000
    with pytest.raises(ValueError, match=reason):
        load_tensors(tmp_path / "a.pt")


@pytest.mark.parametrize("cut", [0, 1, 10, 100, 400, -8])
@pytest.mark.parametrize("archive", [True, False], ids=["zip", "before zip"])
def test_a_torn_file_has_a_reason(cut: int, archive: bool, tmp_path: Path) -> None:
    stream = io.BytesIO()
    torch.save(SOUND, stream, _use_new_zipfile_serialization=archive)
    (tmp_path / "a.pt").write_bytes(stream.getvalue()[:cut])
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        load_tensors(tmp_path / "a.pt")


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    require_finite({"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int64)}, tmp_path / "w", "train again")
    for bad in (torch.nan, torch.inf):
        with pytest.raises(UserError, match=r"w: late\.bias holds NaN or infinite weights.*; train again\."):
            require_finite({"a": torch.ones(2), "late.bias": torch.tensor([0.0, bad])}, tmp_path / "w", "train again")

"""A checkpoint is complete or it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen3d.train.checkpoint import latest_checkpoint, save_checkpoint


def write(folder: Path) -> None:
    (folder / "state.pt").write_bytes(b"x" * 1000)


def test_the_last_two_are_kept(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    for step in (5, 10, 115):
        save_checkpoint(tmp_path, step, write)
    assert [folder.name for folder in sorted(tmp_path.iterdir())] == ["step_00000010", "step_00000115"]
    assert latest_checkpoint(tmp_path) == (115, tmp_path / "step_00000115")


def test_one_interrupted_while_written_is_never_used(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 5, write)

    def die(folder: Path) -> None:
        (folder / "state.pt").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        save_checkpoint(tmp_path, 10, die)
    assert latest_checkpoint(tmp_path) == (5, tmp_path / "step_00000005")
    save_checkpoint(tmp_path, 10, write)
    assert latest_checkpoint(tmp_path) == (10, tmp_path / "step_00000010")


@pytest.mark.parametrize("damage", ["truncate", "lose", "unrecord"])
def test_a_damaged_one_is_named_and_passed_over(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(tmp_path, 5, write)
    newest = save_checkpoint(tmp_path, 10, write)
    if damage == "truncate":
        (newest / "state.pt").write_bytes(b"x" * 999)
    else:
        (newest / ("state.pt" if damage == "lose" else "checkpoint.json")).unlink()
    assert latest_checkpoint(tmp_path) == (5, tmp_path / "step_00000005")
    assert "step_00000010: not used" in capsys.readouterr().err

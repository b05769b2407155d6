"""TensorBoard: one event file per member below tensorboard/ in the run folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from gen3d.train.tracking.sinks import Ending, NotInstalled, TrackedTraining

BOARD = "tensorboard"
"""Folder of the event files below the run folder."""


class TensorBoardSink:
    """Writes figures as scalars, pictures as images, and settings and hashes as tables of text."""

    name: ClassVar = "TensorBoard"

    def __init__(self) -> None:
        self._training: TrackedTraining | None = None
        self._board: Any = None
        self._last = 0

    def begin(self, training: TrackedTraining, known: Mapping[str, str]) -> Mapping[str, str]:
        """Nothing is kept under an id: the files are found by their place."""
        try:
            import torch.utils.tensorboard  # noqa: F401
        except ImportError:
            raise NotInstalled(self.name, "tracking") from None
        self._training = training
        return {}

    def begin_member(self, member: int, step: int) -> None:
        """Open a writer in which entries of later steps, left by an interrupted run, are hidden."""
        from torch.utils.tensorboard import SummaryWriter

        assert self._training is not None
        self._board = SummaryWriter(str(self._training.folder / BOARD / f"member_{member}"), purge_step=step + 1)
        self._last = max(step, 0)  # a model that is fitted at once begins at -1
        self._board.add_text("settings", _table(self._training.settings), self._last)
        self._board.add_text("hashes", _table(self._training.tags), self._last)

    def losses(self, member: int, step: int, values: Mapping[str, float]) -> None:
        """One scalar per figure."""
        self._last = step
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def picture(self, member: int, step: int, path: Path) -> None:
        """A copy of the picture."""
        from matplotlib.image import imread

        self._board.add_image("picture", imread(path)[..., :3], step, dataformats="HWC")

    def end_member(self, member: int, hashes: Mapping[str, str]) -> None:
        """Write the hashes of its files and close it."""
        assert self._training is not None
        self._board.add_text("hashes", _table({**self._training.tags, **hashes}), self._last)
        self._close()

    def end(self, ending: Ending, hashes: Mapping[str, str]) -> None:
        """Close the file of a member that was not finished."""
        self._close()

    def _close(self) -> None:
        if self._board is not None:
            self._board.close()
            self._board = None


def _table(values: Mapping[str, Any]) -> str:
    """Names and values as a table of Markdown, which TensorBoard draws."""
    rows = [f"| {name} | {str(value).replace('|', chr(92) + '|')} |" for name, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows])

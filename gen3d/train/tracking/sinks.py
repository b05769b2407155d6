"""What is told to trackers of trainings, and how: a failing tracker loses its record and never the training.

`log.jsonl` in the run folder is the record that counts; a tracker (`Sink`) gets a copy of it, with the settings, the pictures and
hashes by which people and weights are known again. Only the first process of a training has sinks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol

from gen3d.core.progress import say, warn

TrackerName = Literal["tensorboard", "mlflow", "wandb"]

TRACKED_WITHIN = "GEN3D_TRACKED_WITHIN"
"""Environment variable: the folder of the sweep that a training is a trial of."""

LONGEST_REASON = 160


@dataclass(frozen=True)
class TrackedTraining:
    """A training as trackers know it.

    `settings` are those that determine the result, by dotted key; `tags` hold the key of the run folder, the keys of what was
    read and a hash of the training people. `within` is the folder of the sweep it belongs to.
    """

    folder: Path
    settings: Mapping[str, Any]
    tags: Mapping[str, str]
    num_members: int
    within: Path | None = None

    @property
    def name(self) -> str:
        """The folder's name; of a trial its place in the sweep."""
        if self.within is None:
            return self.folder.name
        return os.path.relpath(self.folder, self.within)

    @property
    def home(self) -> Path:
        """Where local stores lie: beside the run folder, or beside the folder of the sweep."""
        return Path(os.path.abspath(self.within or self.folder)).parent


class Sink(Protocol):
    """A tracker. Every method may raise anything: `Tracking` warns once and asks this sink no more."""

    name: ClassVar[str]

    def begin(self, training: TrackedTraining, known: Mapping[str, str]) -> Mapping[str, str]:
        """The training begins, or goes on under the ids `known`; returns the ids under which it would go on."""
        ...

    def begin_member(self, member: int, step: int) -> None:
        """A member begins, or goes on after `step` updates: later steps may come a second time, and are to be found once."""
        ...

    def losses(self, member: int, step: int, values: Mapping[str, float]) -> None:
        """Figures after `step` updates of a member."""
        ...

    def picture(self, member: int, step: int, path: Path) -> None:
        """A picture that was drawn after `step` updates of a member."""
        ...

    def end_member(self, member: int, hashes: Mapping[str, str]) -> None:
        """A member is trained; `hashes` are those of its files, by path in the run folder."""
        ...

    def end(self, ending: Ending, hashes: Mapping[str, str]) -> None:
        """The training ends, perhaps in the middle of a member; `hashes` are those of a finished family's own files."""
        ...


Ending = Literal["finished", "stopped", "failed"]


class NotInstalled(Exception):
    """The package of a tracker is not installed; the text is a sentence with the command that installs it."""

    def __init__(self, title: str, extra: str) -> None:
        super().__init__(
            f"{title} is not installed, so this training is not recorded there (log.jsonl is written); `pip install "
            f"'gen3d[{extra}]'` adds it."
        )


@dataclass
class Tracking:
    """All trackers of a training. Without sinks, as in every process but the first, nothing is done."""

    sinks: dict[str, Sink] = field(default_factory=dict)

    def begin(self, training: TrackedTraining, known: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
        """Begin the record, or go on with it; returns the ids of each tracker that has some."""
        kept = {name: dict(ids) for name, ids in known.items()}
        for name in list(self.sinks):

            def begin_one(sink: Sink, name: str = name) -> None:
                ids = sink.begin(training, known.get(name, {}))
                if ids:
                    kept[name] = dict(ids)

            self._each(begin_one, "from the beginning", (name,))
        return kept

    def begin_member(self, member: int, step: int) -> None:
        """A member begins, or goes on after `step` updates."""
        self._each(lambda sink: sink.begin_member(member, step), f"at step {step}")

    def losses(self, member: int, step: int, values: Mapping[str, float]) -> None:
        """Figures after `step` updates of a member."""
        self._each(lambda sink: sink.losses(member, step, values), f"at step {step}")

    def picture(self, member: int, step: int, path: Path) -> None:
        """A picture that was drawn after `step` updates of a member."""
        if self.sinks and path.is_file():
            self._each(lambda sink: sink.picture(member, step, path), f"at step {step}")

    def end_member(self, member: int, hashes: Mapping[str, str]) -> None:
        """A member is trained."""
        self._each(lambda sink: sink.end_member(member, hashes), "at the last step")

    def end(self, ending: Ending, hashes: Mapping[str, str]) -> None:
        """The training ends."""
        self._each(lambda sink: sink.end(ending, hashes), "at the end")
        self.sinks.clear()

    def _each(self, action: Callable[[Sink], None], when: str, names: Sequence[str] | None = None) -> None:
        for name in names or list(self.sinks):
            try:
                action(self.sinks[name])
            except NotInstalled as absent:
                del self.sinks[name]
                say(str(absent))
            except Exception as error:  # whatever a tracker, its server or its disk does
                sink = self.sinks.pop(name)
                warn(
                    f"{sink.name}: the record of this training stops there {when} ({reason(error)}); the training goes on, and "
                    "log.jsonl holds everything."
                )


def reason(error: BaseException) -> str:
    """An error of a tracker in a few words, on one line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]}..."

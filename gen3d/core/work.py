"""How a verb does its work: inputs opened, a folder begun, written, finished, and let go of whatever happens."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from gen3d.core.artefact import RECORD, changes_explained
from gen3d.core.config import Verb
from gen3d.core.output_folder import FINISHED_BEFORE, Work, begin, outlook
from gen3d.core.progress import say

Inputs = Mapping[str, Path | Sequence[Path]]
"""Fields of a verb that name what it reads, each with its paths."""


@dataclass(frozen=True)
class Identity:
    """What determines a verb's result besides its settings: `inputs` by content, and `extra`, see `output_folder.begin`."""

    inputs: Inputs
    extra: Mapping[str, Any] = field(default_factory=dict)


class FolderVerb(Verb):
    """A verb that reads folders and writes one.

    A subclass supplies `open_inputs`, `reads` and `write`. `run` is the same for all: what is wrong with the inputs is said
    before a folder is made; a folder that was finished before is left as it is; after any error, other processes may write
    to the folder again, and the same command goes on.
    """

    reopens: ClassVar[bool] = False
    """Whether more may be added to a folder that was finished before; `write` is called again then."""

    def open_inputs(self) -> Any:
        """Read and check the inputs; nothing is written. What is returned is handed to `write`."""
        return None

    def open_to_plan(self) -> Any:
        """The inputs as `identity` needs them for a dry run, which may be on another machine than the run."""
        return self.open_inputs()

    def reads(self) -> Inputs:
        """The fields that name what is read, with their paths."""
        return {}

    def identity(self, opened: Callable[[], Any]) -> Identity:
        """What the result depends on; `opened` returns the opened inputs, for a verb that must look into them."""
        return Identity(self.reads())

    def renews(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
        """Whether a folder of the work `before` goes on as this one, because what is costly in it is the same.

        Both are identities as the record has them: verb, settings, inputs, extra and version.
        """
        return False

    def write(self, work: Work, opened: Any) -> Mapping[str, Any] | None:
        """Write the folder and return its summary, or None if it is not complete yet."""
        raise NotImplementedError(f"{type(self).__name__} defines no write()")

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Say how a finished folder turned out, whether it was finished now or before."""

    def outlook(self) -> tuple[bool, str]:
        """Whether there is nothing to do any more, and what `run()` would find in its output folder.

        Raises:
            UserError: `run()` would refuse the folder.
        """
        opened = functools.cache(self.open_to_plan)

        def identity() -> tuple[Inputs, Mapping[str, Any]]:
            found = self.identity(opened)
            return found.inputs, found.extra

        finished, sentence = outlook(self, self.verb_name(), identity, renews=self.renews)
        return finished and not self.reopens, sentence

    def run(self) -> Path:
        """Do the work and return the folder written.

        Raises:
            UserError: inputs or settings that cannot be used, a folder of other work, a folder that cannot be written.
        """
        with changes_explained():
            return self._run()

    def _run(self) -> Path:
        opened = functools.cache(self.open_inputs)
        if not (self.out / RECORD).is_file():
            opened()
        # A folder that was begun before is opened before the inputs: those were right then, and may be gone if it is finished.
        identity = self.identity(opened)
        name, inputs, extra = self.verb_name(), identity.inputs, identity.extra
        with begin(self, name, inputs, extra, extendable=self.reopens, renews=self.renews) as work:
            if work.finished and not self.reopens:
                say(f"{self.out}: {FINISHED_BEFORE}")
            else:
                summary = self.write(work, opened())
                if summary is None:
                    return self.out
                work.finish(summary)
        self.conclude(work.record["summary"])
        return self.out

"""A verb that several processes share: they meet, one writes the folder's record, and an error in one reaches all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gen3d.core.artefact import RECORD, changes_explained, digest
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work, begin
from gen3d.core.progress import say
from gen3d.core.work import FINISHED_BEFORE, FolderVerb
from gen3d.train.engine.preflight import meet, report_failure
from gen3d.train.engine.processes import Processes, launched


class SharedVerb(FolderVerb):
    """A verb that reads folders and writes one, in any number of processes that torchrun started together.

    A subclass supplies `open_inputs`, `identity`, `notes` and `share`. Every process opens the inputs; only the first begins
    the folder, finishes it, and lets go of it after any error.
    """

    @classmethod
    def check_processes(cls, num_processes: int) -> None:
        """Any number of processes can share the work."""

    @classmethod
    def cannot_begin(cls, error: UserError, num_processes: int) -> UserError:
        """Inform the other processes, which wait for this one."""
        return report_failure(str(error)) if num_processes > 1 else error

    @property
    @abstractmethod
    def longest_wait_s(self) -> float:
        """Seconds that a process waits for the others."""

    @abstractmethod
    def notes(self, opened: Any) -> Mapping[str, str]:
        """What must be the same in every process besides the settings, as fingerprints; `backend` is nccl or gloo."""

    def describe(self, work: Work, opened: Any) -> None:
        """Write the description of the work into the folder before it begins; the first process does."""

    def check_finished(self, opened: Any) -> None:
        """Refuse a folder that was finished before, if that is not enough; the first process does."""

    @abstractmethod
    def share(self, opened: Any, processes: Processes) -> Mapping[str, Any]:
        """This process's part of the work; the first one's summary is kept."""

    def run(self) -> Path:
        """Do the work together and return the folder written.

        Raises:
            UserError: in every process, what is wrong in any of them.
        """
        opened: list[Any] = []

        def inspect() -> dict[str, str]:
            with changes_explained():
                opened.append(self.open_inputs())
            return {"settings": digest(self.settings()), **self.notes(opened[0])}

        processes = meet(launched(), inspect, self.longest_wait_s)
        self._work_together(opened[0], processes)
        processes.part()
        return self.out

    def _work_together(self, opened: Any, processes: Processes) -> None:
        work: Work | None = None

        def open_folder() -> bool:
            nonlocal work
            identity = self.identity(lambda: opened)
            work = begin(self, self.verb_name(), identity.inputs, identity.extra)
            if work.finished:
                self.check_finished(opened)
            else:
                self.describe(work, opened)
            return work.finished

        try:
            if processes.on_first(open_folder):
                say(f"{self.out}: {FINISHED_BEFORE}")
                return
            processes.together(self._see_folder)
            summary = self.share(opened, processes)
            if work is not None:
                work.finish(summary)
        finally:
            if work is not None:
                work.release()

    def _see_folder(self) -> None:
        """Every process must see the folder that the first one writes: the others read from it."""
        if not (self.out / RECORD).is_file():
            raise UserError(
                f"{self.out}: not visible from here, though rank 0 writes there; out= must be on a file system that all "
                "nodes share."
            )

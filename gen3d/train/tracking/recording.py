"""A training's trackers from the beginning to the end: what they are told of the run folder, and where their ids are kept."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gen3d.core.artefact import digest, file_digest, write_record
from gen3d.core.errors import Interrupted
from gen3d.core.output_folder import Work
from gen3d.models.run_folder import DESIGN, PLAN, SETTINGS, SUBJECTS
from gen3d.train.tracking.sinks import TRACKED_WITHIN, Ending, TrackedTraining, TrackerName, Tracking
from gen3d.train.tracking.trackers import open_tracking

IDS = "tracking"
"""Entry of a run folder's record: the ids of its trackers' runs, by tracker. It is no part of the folder's key."""


def begin_tracking(names: Sequence[TrackerName], work: Work, people: Any, num_members: int) -> Tracking:
    """Open the trackers and begin, or go on with, the record of a training; the first process does.

    Args:
        names: of the trackers.
        work: the run folder; the ids of the trackers' runs are written into its record.
        people: who is learned from, as the run folder has them; trackers get a hash.
        num_members: members of the family.
    """
    tracking = open_tracking(names)
    if not names:
        return tracking
    known = work.record.get(IDS, {})
    ids = tracking.begin(_described(work, people, num_members), known)
    if ids != known:
        work.record[IDS] = ids
        write_record(work.folder, work.record)
    return tracking


def _described(work: Work, people: Any, num_members: int) -> TrackedTraining:
    record = work.record
    tags = {"gen3d.version": str(record.get("gen3d", "")), "gen3d.key": str(record.get("key", ""))}
    for name, items in record.get("inputs", {}).items():
        tags[f"gen3d.input.{name}"] = " ".join(item["key"] for item in items)
    tags["gen3d.people"] = digest(people)
    within = os.environ.get(TRACKED_WITHIN, "")
    settings = dict(_flat(record.get("identity", {}).get("settings", {})))
    return TrackedTraining(work.folder, settings, tags, num_members, Path(within) if within else None)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@contextmanager
def recorded(tracking: Tracking, folder: Path) -> Iterator[None]:
    """Within this context a training is at work; however it ends, its trackers are told."""
    ending: Ending = "failed"
    try:
        yield
        ending = "finished"
    except (KeyboardInterrupt, Interrupted):
        ending = "stopped"
        raise
    finally:
        if tracking.sinks:
            family = [folder / name for name in (SETTINGS, PLAN, SUBJECTS, DESIGN)]
            tracking.end(ending, hashes_of(folder, family) if ending == "finished" else {})


def hashes_of(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of the files that are there, 16 digits as the seal has them, by path in the folder."""
    return {str(path.relative_to(folder)): file_digest(path) for path in files if path.is_file()}

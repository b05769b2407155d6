"""An output folder being written: begun, or gone on with, under a lock, and sealed when its work is finished.

`begin` refuses to mix: a folder that holds the result of other settings or other inputs, or files that are not gen3d's, is left as
it is. `Work.finish` marks it complete and seals its files (`core.seal`).
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gen3d import __version__
from gen3d.core.artefact import FILES, PLACE, check_seal, digest, file_digest, record_of, write_record
from gen3d.core.config import Verb, waived
from gen3d.core.disk import OF_THE_DISK, cannot_be_written, is_partial, remove_partial
from gen3d.core.errors import UserError
from gen3d.core.progress import warn
from gen3d.core.seal import links_in, seal

LOCK = ".lock"
FINISHED_BEFORE = "finished before, nothing to do."
Renews = Callable[[Mapping[str, Any], Mapping[str, Any]], bool]


@dataclass
class Work:
    """A folder being written. `finished` means that the same work was completed before: there is nothing to do.

    As a context it lets other processes write again when it is left, whatever happened.
    """

    folder: Path
    record: dict[str, Any]
    finished: bool
    resumed: bool
    _lock: Any = field(default=None, repr=False)
    grows: bool = False
    """Whether more may be added after it was finished, so that its files are not sealed."""

    def finish(self, summary: Mapping[str, Any] | None = None) -> None:
        """Mark the folder complete, with the figures that a reader wants first, and seal its files."""
        self.record |= {
            "status": "finished",
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "summary": dict(summary or {}),
            FILES: None if self.grows else seal(self.folder),
        }
        write_record(self.folder, self.record)
        self.release()

    def __enter__(self) -> Work:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: Any) -> None:
        self.release()

    def release(self) -> None:
        """Let other processes write to the folder again."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def begin(
    verb: Verb,
    name: str,
    inputs: Mapping[str, Path | Sequence[Path]],
    extra: Mapping[str, Any] | None = None,
    code_version: str = __version__,
    extendable: bool = False,
    renews: Renews | None = None,
) -> Work:
    """Open `verb.out` for writing.

    Args:
        verb: the configured verb; its result-determining settings are part of the folder's key.
        name: the verb's name as a user types it.
        inputs: fields of `verb` that are paths it reads, by name; each enters the key by its content, not its place.
        extra: anything else that determines the result (for instance hashes of source files).
        code_version: version of the code that determines the result.
        extendable: whether more may be added to a finished folder, which then stays locked until it is finished again.
        renews: (identity of the folder's work, identity of this one) -> whether the folder goes on as this work, because what it
            holds so far is as good for it; None: never.

    Raises:
        UserError: the folder belongs to other settings or inputs, is not gen3d's, cannot be written, or is in use.
    """
    folder = verb.out
    hashed = {label: _describe(paths) for label, paths in inputs.items()}
    identity = _identity(verb, name, hashed, extra, code_version)
    # Looked at before there is a lock, so that none is left in a folder of somebody else, and again under it.
    _require_same_work(folder, record_of(folder), identity, renews)
    lock = _lock_folder(folder)
    try:
        existing = record_of(folder)
        renewed = _require_same_work(folder, existing, identity, renews)
        # What is waived may change from one start to the next without changing the key, so the latest start counts.
        latest = {"waivers": waived(verb)}
        if existing is not None and renewed:
            warn(
                f"{folder}: {_difference(existing, identity)}; what is costly is kept, and what was made from it no longer fits it."
            )
            _require_no_links(folder)
            if existing.get("status") == "finished":
                check_seal(folder, existing)
        if existing is None or renewed:
            record = _begun(verb, identity, hashed) | latest
            write_record(folder, record)
            return Work(folder, record, False, renewed, lock, extendable)
        finished = existing.get("status") == "finished"
        if finished and not extendable:
            check_seal(folder, existing)
            lock.close()
            return Work(folder, existing, True, True)
        _require_no_links(folder)
        return Work(folder, existing | latest, finished, True, lock, extendable)
    except BaseException:
        lock.close()
        raise


def _begun(
    verb: Verb, identity: Mapping[str, Any], hashed: Mapping[str, Sequence[Mapping[str, Any]]]
) -> dict[str, Any]:
    """The record of work that begins."""
    return {
        "gen3d": __version__,
        "verb": identity["verb"],
        "key": digest(identity),
        "status": "running",
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "identity": dict(identity),
        "config": verb.model_dump(mode="json", by_alias=True),
        "inputs": dict(hashed),
        PLACE: os.path.abspath(verb.out),
    }


def outlook(
    verb: Verb,
    name: str,
    identity: Callable[[], tuple[Mapping[str, Path | Sequence[Path]], Mapping[str, Any]]],
    code_version: str = __version__,
    renews: Renews | None = None,
) -> tuple[bool, str]:
    """Whether the work was finished in `verb.out` before, and what `begin` would find there; nothing is written.

    Args:
        verb, name, code_version, renews: as of `begin`.
        identity: gives the inputs and what else determines the result; called only where the folder has a record.

    Raises:
        UserError: as `begin` would.
    """
    folder = verb.out
    existing = record_of(folder)
    _require_writable(folder)
    if existing is None:
        _require_same_work(folder, None, {}, None)
        return False, ""
    inputs, extra = identity()
    hashed = {label: _describe(paths) for label, paths in inputs.items()}
    renewed = _require_same_work(folder, existing, _identity(verb, name, hashed, extra, code_version), renews)
    _require_no_links(folder)
    finished = existing.get("status") == "finished"
    if finished:
        check_seal(folder, existing)
    if renewed:
        return False, f"{folder}: what is there already is kept, and the rest is written anew."
    return finished, f"{folder}: {FINISHED_BEFORE if finished else 'was begun before, and goes on where it stopped.'}"


def _require_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written, or that another process writes to.

    Raises:
        UserError: why.
    """
    place = folder
    while not os.path.lexists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise UserError(f"{folder}: cannot be written ({place} is no folder); give another out=.")
    if not os.access(place, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: cannot be written (Permission denied); give another out=.")
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(folder) from None
    except OSError:  # no lock yet, or a file system without any
        return


def _in_use(folder: Path) -> UserError:
    return UserError(f"{folder}: another gen3d process is writing there; wait for it or give another out=.")


def _require_same_work(
    folder: Path, existing: Mapping[str, Any] | None, identity: Mapping[str, Any], renews: Renews | None
) -> bool:
    """Refuse a folder that holds other work than the one of this identity; returns whether it goes on as another one.

    Raises:
        UserError: it belongs to other settings or inputs, or is not gen3d's.
    """
    if existing is not None and existing.get("key") != digest(identity):
        before = existing.get("identity")
        if renews is not None and isinstance(before, dict) and renews(before, identity):
            return True
        raise UserError(f"{folder}: {_difference(existing, identity)}; give another out=, or delete the folder.")
    if (
        existing is None
        and folder.is_dir()
        and any(item.name != LOCK and not is_partial(item) for item in folder.iterdir())
    ):
        raise UserError(f"{folder}: not empty and not written by gen3d; give another out=.")
    return False


def _require_no_links(folder: Path) -> None:
    for path in links_in(folder):
        raise UserError(
            f"{path}: is a special file or a link out of the folder, and nothing is written through one; remove it, or give "
            "another out=."
        )


def _identity(
    verb: Verb,
    name: str,
    hashed: Mapping[str, Sequence[Mapping[str, Any]]],
    extra: Mapping[str, Any] | None,
    code_version: str,
) -> dict[str, Any]:
    """What determines the result; its digest is the folder's key."""
    paths = (*hashed, "out")
    return {
        "verb": name,
        "settings": {key: value for key, value in verb.settings().items() if key not in paths},
        "inputs": {label: [item["key"] for item in items] for label, items in hashed.items()},
        "extra": dict(extra or {}),
        "version": code_version,
    }


def _describe(paths: Path | Sequence[Path]) -> list[dict[str, str]]:
    listed = [paths] if isinstance(paths, Path) else list(paths)
    described = []
    for path in listed:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder.")
        record = record_of(path) if path.is_dir() else None
        if record is not None:
            key = str(record.get("key"))
        else:
            key = file_digest(path) if path.is_file() else path.resolve().name
        described.append(
            {"path": os.path.abspath(path), "verb": str(record.get("verb", "")) if record else "", "key": key}
        )
    return described


def _difference(record: Mapping[str, Any], identity: Mapping[str, Any]) -> str:
    """What distinguishes the folder's work from the work that is requested, as part of a sentence."""
    old = record.get("identity", {})
    if old.get("verb") != identity["verb"]:
        return f"holds the output of `gen3d {old.get('verb')}`"
    before, now = _flat(old.get("settings", {})), _flat(identity["settings"])
    changed = [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]
    if changed:
        shown = ", ".join(f"{name} was {before.get(name)} and is now {now.get(name)}" for name in changed[:3])
        return f"holds a result of other settings ({shown})"
    if old.get("inputs") != identity["inputs"] or old.get("extra") != identity["extra"]:
        return "holds a result from other inputs"
    return f"was written by gen3d {old.get('version')}, this is {identity['version']}"


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(tree, dict) or not tree:
        return {prefix.removesuffix("."): tree}
    return {key: value for name, below in tree.items() for key, value in _flat(below, f"{prefix}{name}.").items()}


def _open_lock(path: Path) -> Any:
    """Open or make a lock file, which is neither emptied nor reached through a link, and is no pipe.

    Raises:
        OSError: it cannot be.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    lock = os.fdopen(os.open(path, flags, 0o644), "r+b", buffering=0)
    if not stat.S_ISREG(os.fstat(lock.fileno()).st_mode):
        lock.close()
        raise OSError(errno.EINVAL, f"{LOCK} is no file")
    return lock


def _lock_folder(folder: Path) -> Any:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _open_lock(folder / LOCK)
    except OSError as error:
        if error.errno not in OF_THE_DISK:
            raise UserError(f"{folder}: cannot be written ({error.strerror}); give another out=.") from None
        raise cannot_be_written(error, folder) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_partial(folder)
    except BlockingIOError:
        lock.close()
        raise _in_use(folder) from None
    except OSError as error:
        warn(f"{folder}: this file system cannot lock ({error.strerror}), so make sure that nothing else writes there.")
    return lock

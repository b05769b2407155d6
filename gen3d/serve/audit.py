"""The audit log: who did what when and how it ended, without any data of a person.

One JSON line per event: time (UTC), event, user, first letters of the job's id, status, bytes. No address, no age, no sex, no
name of a file, no sentence about a scan.
"""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

FILE = "audit.jsonl"
MOST_BYTES = 64 << 20
"""From which on the log becomes `.1`, in place of the one before."""

SHOWN_OF_ID = 8


@dataclass
class AuditLog:
    """Appends to the log; its file is readable by its owner alone."""

    path: Path
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def note(self, event: str, user: str = "", job: str = "", **numbers: int) -> None:
        """Add an event."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        line = {"time": when, "event": event, "user": user, "job": job[:SHOWN_OF_ID], **numbers}
        kept = {name: value for name, value in line.items() if value != ""}
        with self._lock:
            handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            with os.fdopen(handle, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(kept) + "\n")
                size = stream.tell()
            if size > MOST_BYTES:
                self.path.replace(self.path.with_name(f"{FILE}.1"))

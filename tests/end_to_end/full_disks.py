"""A verb whose disk is full says so in a sentence, loses nothing, and goes on to the same result when there is room.

    python -m tests.end_to_end.full_disks FOLDER [--verbs classify encode] [--shares 0 0.5] [--table FILE]

FOLDER holds the debug configs and what they wrote (`golden make FOLDER`). Each verb writes to a file system in memory with room
for a share of what it writes at most; then the room grows and the same command runs again. Needs the right to mount.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.end_to_end.debug_configs import ORDER
from tests.end_to_end.kills import BLOCKED, OTHER, Victim, forked

PAGE_BYTES = 4096
SHARES = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97)
"""Of the size of the finished output; 0 is one page, in which not even the record fits next to the lock."""
PLENTY = "1g"
MISTAKES = (1, 2, 3)


class Confined(Victim):
    """A debug config whose output lies on a file system of its own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.disk = self.folder / "disk"
        self.out = self.disk / "out"
        self.words = [*(word for word in self.words if not word.startswith("out=")), "out=disk/out"]

    def grow(self, size: str) -> None:
        """Give the disk another size, or mount it."""
        mounted = os.path.ismount(self.disk)
        self.disk.mkdir(exist_ok=True)
        command = (
            ["mount", "-o", f"remount,size={size}"]
            if mounted
            else ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs"]
        )
        subprocess.run([*command, str(self.disk)], check=True)

    def unmount(self) -> None:
        """Take the disk away, with all that is on it."""
        if os.path.ismount(self.disk):
            subprocess.run(["umount", str(self.disk)], check=True)

    def size(self) -> int:
        """Bytes of the output, in whole pages."""
        sizes = (path.stat().st_size if path.is_file() else 0 for path in self.out.rglob("*"))
        return sum((size // PAGE_BYTES + 1) * PAGE_BYTES for size in sizes)

    def fault(self, num_bytes: int) -> str:
        """What goes wrong where there is room for so many bytes, "" if nothing does, "fits" if the verb finishes."""
        self.unmount()
        self.grow(str(max(PAGE_BYTES, num_bytes)))
        confined = forked(self.words, self.folder)
        if confined.code == 0:
            return "fits"
        sentences = [line for line in confined.said.splitlines() if line.startswith("gen3d: ")]
        told = [line for line in sentences if "full" in line or "room" in line]
        if confined.code not in MISTAKES or not told or "Traceback" in confined.said:
            return f"no sentence: exit code {confined.code}: {confined.said.strip().splitlines()[-1:]}"
        self.grow(PLENTY)
        again = forked(self.words, self.folder)
        if again.code != 0:
            return f"{BLOCKED}: exit code {again.code}: {again.said.strip().splitlines()[-1:]}"
        lost, unequal = sorted(self.files - self._files()), self._unequal()
        return f"{OTHER}: {(unequal or lost)[0]}" if unequal or lost else ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what `python -m tests.end_to_end.golden make FOLDER` wrote")
    parser.add_argument("--verbs", nargs="+", choices=ORDER, default=list(ORDER), help="debug configs")
    parser.add_argument("--shares", nargs="+", type=float, default=list(SHARES), help="of the size of the output")
    parser.add_argument("--table", type=Path, help="append rows of Markdown to this file")
    arguments = parser.parse_args()
    num_faults = 0
    for name in arguments.verbs:
        began, victim = time.monotonic(), Confined(name, arguments.folder.resolve())
        victim.grow(PLENTY)
        try:
            victim.undisturbed()
            size = victim.size()
            found = {share: victim.fault(round(share * size)) for share in arguments.shares}
        finally:
            victim.unmount()
            shutil.rmtree(victim.disk, ignore_errors=True)
        faults = {share: fault for share, fault in found.items() if fault not in ("", "fits")}
        for share, fault in faults.items():
            print(f"{name}: room for {share:.0%} of {size} bytes: {fault}")
        num_faults += len(faults)
        full = sum(fault != "fits" for fault in found.values())
        row = f"| {name} | {size / 1e6:.1f} | {full} | {full - len(faults)} | {time.monotonic() - began:.0f} |"
        print(row, flush=True)
        if arguments.table is not None:
            with arguments.table.open("a", encoding="utf-8") as stream:
                stream.write(row + "\n")
    raise SystemExit(bool(num_faults))


if __name__ == "__main__":
    main()

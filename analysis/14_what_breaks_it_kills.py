"""Killed at any durable operation of any verb, or with the disk full: does the same command go on, to the same result?

kills   every verb is killed before every file that it opens for writing and everything that it renames, links, makes or deletes,
        and in the middle of every file: with that file empty, and with half of it written.
disks   every verb writes to a disk that has room for so much of its output; then room is made. Needs the right to mount.

Each time the same command runs again, and its output is compared with that of an undisturbed run: the same files, the same
figures to the last digit. Everything is done on the debug configs, in one process. Prints a row of Markdown per verb.

    python analysis/14_what_breaks_it_kills.py --out FOLDER [--verbs classify encode] [--spread 40] [--disks]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from gen3d.cli import run_script

REPOSITORY = Path(__file__).parents[1]


def main() -> None:
    """Make the inputs once, then kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the debug configs, what they write, and the table"
    )
    parser.add_argument("--verbs", nargs="+", default=[], help="names of debug configs; all by default")
    parser.add_argument(
        "--spread", type=int, default=0, help="about so many kills of each, evenly over its run; 0: every one"
    )
    parser.add_argument("--disks", action="store_true", help="full disks instead of kills")
    arguments = parser.parse_args()
    out: Path = arguments.out.resolve()
    if not (out / "debug" / "report" / "artefact.json").is_file():
        _run("golden", "make", str(out))
    module, table = ("full_disks", "disks.md") if arguments.disks else ("kills", "kills.md")
    words = [str(out), "--table", str(out / table)]
    words += ["--verbs", *arguments.verbs] if arguments.verbs else []
    words += ["--spread", str(arguments.spread)] if not arguments.disks else []
    sys.exit(_run(module, *words, check=False))


def _run(module: str, *words: str, check: bool = True) -> int:
    command = [sys.executable, "-m", f"tests.end_to_end.{module}", *words]
    return subprocess.run(command, cwd=REPOSITORY, check=check).returncode


if __name__ == "__main__":
    run_script(main)

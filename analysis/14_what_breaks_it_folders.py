"""Finished folders that were changed, and files that another tool wrote into them: is it said before anything is computed?

changed  in every finished folder below FOLDER, every file in turn gets one flipped bit, loses its end, or goes; two files of one
         kind change places. Then the folder is opened. `noticed`: a sentence that names the file.
edited   small folders of every verb get JSON, YAML and tables with parts missing, of other kinds or impossible, and a seal that
         fits, as another tool would leave them. Then the verb's own reader opens them: a sentence, or the result as it was, is
         right; any other error is a fault.

    python analysis/14_what_breaks_it_folders.py --folders FOLDER --seed 5150
    python analysis/14_what_breaks_it_folders.py --edited
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gen3d.core.artefact import read
from gen3d.core.errors import UserError

REPOSITORY = Path(__file__).parents[1]
MOST_FILES = 60  # of one folder; a folder of volumes has hundreds that are alike


def finished(root: Path) -> list[Path]:
    """Every finished folder below `root`."""
    found = []
    for record in sorted(root.rglob("artefact.json")):
        try:
            found.append(read(record.parent).folder)
        except UserError:
            continue
    return found


def changes(folder: Path, random: np.random.Generator) -> Iterator[tuple[str, Path]]:
    """Change one file of a folder at a time, and put it back: what was done, and which file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size]
    hidden = [any(part.startswith(".") for part in path.relative_to(folder).parts) for path in files]
    files = [path for path, left in zip(files, hidden, strict=True) if not left and path.name != "artefact.json"]
    for path in random.permutation(np.array(files, dtype=object))[:MOST_FILES]:
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[int(random.integers(len(sound)))] ^= 1 << int(random.integers(8))
        for what, content in (("one bit", bytes(flipped)), ("cut", sound[: len(sound) // 2]), ("gone", None)):
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content)
            yield what, path
        path.write_bytes(sound)
    for first, second in exchangeable(files):
        contents = first.read_bytes(), second.read_bytes()
        if contents[0] == contents[1]:
            continue
        first.write_bytes(contents[1])
        second.write_bytes(contents[0])
        yield "two exchanged", first
        first.write_bytes(contents[0])
        second.write_bytes(contents[1])


def exchangeable(files: list[Path]) -> list[tuple[Path, Path]]:
    """Pairs of files of one kind, which a hasty copy may exchange: members of a family, scans of two people."""
    by_kind: dict[str, list[Path]] = {}
    for path in files:
        by_kind.setdefault(path.suffix, []).append(path)
    return [(same[0], same[-1]) for same in by_kind.values() if len(same) > 1]


def changed(root: Path, seed: int) -> None:
    """Print how many changes were noticed, by what was done."""
    random = np.random.default_rng(seed)
    done, noticed, missed = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as place:
        for number, folder in enumerate(finished(root)):
            copy = Path(shutil.copytree(folder, Path(place) / str(number)))
            for what, path in changes(copy, random):
                done[what] += 1
                try:
                    read(copy)
                except UserError as error:
                    noticed[what] += path.name in str(error) or what == "two exchanged"
                else:
                    missed[folder.name] += 1
            shutil.rmtree(copy)
    print("| change | files | noticed |\n|---|---|---|")
    for what, number in done.items():
        print(f"| {what} | {number} | {noticed[what]} |")
    print(f"| all | {sum(done.values())} | {sum(noticed.values())} |")
    print("not noticed, by folder:", ", ".join(f"{name} {number}" for name, number in missed.most_common()) or "none")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=Path, help="folder that holds finished folders; they are copied, not changed")
    parser.add_argument("--seed", type=int, default=0, help="seed of places and bits")
    parser.add_argument("--edited", action="store_true", help="try the readers with edited files instead")
    options = parser.parse_args()
    if options.edited:
        test = "tests/contracts/test_changed_folders.py"
        sys.exit(subprocess.run([sys.executable, "-m", "pytest", "-q", test], cwd=REPOSITORY, check=False).returncode)
    changed(options.folders, options.seed)


if __name__ == "__main__":
    main()

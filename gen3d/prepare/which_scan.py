"""Which T1w image of a visit is taken: the raw one that BIDS would call the plain one. What is not taken is listed.

Of the images of one person and session goes first: without contrast agent; in the `anat` folder rather than a folder in it;
with the fewest other entities (no `acq`, `rec`, `desc`, ...); the lowest run; `.nii` before `.nii.gz`. Images of phase or of one
component of a complex image are never taken.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from gen3d.cohort.labels import label, plain_text
from gen3d.core.errors import UserError
from gen3d.prepare.dataset_files import SCAN_NAME, dataset_files, subject_folder

NO_SESSION = "1"
ENTITIES = (
    *(
        "ses",
        "sample",
        "task",
        "tracksys",
        "acq",
        "nuc",
        "voi",
        "ce",
        "trc",
        "stain",
        "rec",
        "dir",
        "run",
        "mod",
        "echo",
        "flip",
    ),
    *(
        "inv",
        "mt",
        "part",
        "proc",
        "hemi",
        "space",
        "split",
        "recording",
        "chunk",
        "seg",
        "res",
        "den",
        "label",
        "desc",
        "cohort",
    ),
)
"""Of BIDS. Where no folder says whose a file is, the person's label ends where one of these begins."""
NAMES_THE_VISIT = ("space", "res", "den", "run")
"""Entities that do not make an image a special one."""
NO_MAGNITUDE = ("phase", "real", "imag")


@dataclass(frozen=True)
class FoundScan:
    """The image that is taken of a visit; `named` is the person as the folder names them."""

    subject: str
    session: str
    source: str
    named: str


@dataclass(frozen=True)
class _Image:
    """One T1w file: its place in the dataset, whose it is, and the entities (`space`, `run`, ...) in its name."""

    path: Path
    place: PurePosixPath
    subject: str
    session: str
    entities: dict[str, str]

    @property
    def space(self) -> str | None:
        return self.entities.get("space")

    @property
    def preference(self) -> tuple[bool, bool, int, int, float, str]:
        """The smallest goes first."""
        special = [
            name
            for name in self.entities
            if name not in NAMES_THE_VISIT and (name, self.entities[name]) != ("part", "mag")
        ]
        run = re.search(r"\d+", self.entities.get("run", "0"))
        number = float(run.group()) if run else float("inf")
        return (
            "ce" in self.entities,
            self.place.parent.name != "anat",
            len(self.place.parts),
            len(special),
            number,
            str(self.place),
        )


def find_scans(folder: Path, space: str | None) -> tuple[list[FoundScan], list[tuple[str, str]]]:
    """One image per visit, and (person or path, remark) of what is not used.

    Raises:
        UserError: no scan; no image in `space`, or images in several spaces of which none was chosen.
    """
    files = dataset_files(folder)
    by_visit, unmatched = _by_visit(folder, files.scans)
    _check_space(folder, [image for images in by_visit.values() for image in images], space)
    chosen: list[FoundScan] = []
    for (subject, session), images in sorted(by_visit.items()):
        candidates = [image for image in images if image.entities.get("part") not in NO_MAGNITUDE]
        unmatched += [(subject, f"no image of magnitude, not used: {i.place}") for i in images if i not in candidates]
        candidates = _in_space(candidates, space)
        if not candidates:
            remark = (
                f"no scan in space-{space} at session {session}"
                if space
                else f"no scan that can be used at session {session}"
            )
            unmatched.append((subject, remark))
            continue
        first, *others = sorted(candidates, key=lambda image: image.preference)
        chosen.append(FoundScan(label(subject), label(session), str(first.path), subject))
        unmatched += [(subject, f"further image not used: {other.place} (used: {first.place})") for other in others]
        if "ce" in first.entities:
            unmatched.append((subject, f"the only image is one with contrast agent, used: {first.place}"))
    return chosen, [*unmatched, *files.left_out]


def _by_visit(
    folder: Path, scans: list[PurePosixPath]
) -> tuple[dict[tuple[str, str], list[_Image]], list[tuple[str, str]]]:
    """(person, session) -> every T1w file of that visit; and files whose name and folders contradict each other."""
    by_visit: dict[tuple[str, str], list[_Image]] = {}
    unmatched: list[tuple[str, str]] = []
    for place in scans:
        read = _read_name(place, folder.resolve().name)
        if isinstance(read, str):
            unmatched.append((str(place), f"not used: {read}"))
            continue
        subject, session, entities = read
        by_visit.setdefault((subject, session), []).append(_Image(folder / place, place, subject, session, entities))
    return by_visit, unmatched


def _read_name(place: PurePosixPath, root: str) -> tuple[str, str, dict[str, str]] | str:
    """Person, session and further entities of a file; or why they cannot be told.

    The folders say whose the file is and at which session; the name must agree. So a label may hold underscores, which BIDS does
    not allow and which occur.
    """
    named = SCAN_NAME.fullmatch(place.name)
    assert named is not None, "only T1w files are listed"
    folders = place.parts[:-1]
    person = subject_folder(folders) or subject_folder((root,))
    visit = next((part for part in (root, *folders) if part.startswith("ses-")), None)
    if person is None:
        match = re.match(rf"sub-.+?(?=_(?:{'|'.join(ENTITIES)})-|$)", named[1])
        if match is None:
            return "its name does not begin with sub-"
        person = match[0]
    if not f"{named[1]}_".startswith(f"{person}_"):
        return f"it lies in the folder {person} and is named for somebody else"
    rest = named[1].removeprefix(person)
    if visit is not None and f"{rest}_".startswith(f"_{visit}_"):
        rest = rest.removeprefix(f"_{visit}")
    entities = dict(re.findall(r"_([A-Za-z0-9]+)-(.*?)(?=_[A-Za-z0-9]+-|$)", rest))
    if unknown := re.match(r"_[^-]+?(?=_[A-Za-z0-9]+-|$)", rest):
        entities["unknown"] = unknown[0]
    session = entities.pop("ses", None)
    if visit is not None and session is not None:
        return f"it lies in the folder {visit} and is named for session {session}"
    session = visit.removeprefix("ses-") if visit is not None else session
    return plain_text(person.removeprefix("sub-")), plain_text(session or NO_SESSION), entities


def _check_space(folder: Path, images: list[_Image], space: str | None) -> None:
    """Refuse a space that no image is in, and a folder of several spaces from which none was chosen."""
    spaces = sorted({image.space for image in images if image.space is not None})
    if space is not None and space not in spaces:
        raise UserError(f"{folder}: no scan in space-{space}; the spaces there are {', '.join(spaces) or 'none'}.")
    if space is None and len(spaces) > 1 and all(image.space is not None for image in images):
        raise UserError(f"{folder}: scans in several spaces ({', '.join(spaces)}); choose one with columns.space=.")


def _in_space(images: list[_Image], space: str | None) -> list[_Image]:
    """The images in the space; without one the native images, or all where there is none."""
    return [image for image in images if image.space == space] or ([] if space else images)

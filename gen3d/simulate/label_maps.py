"""Region labels that were drawn in people's own scans: read by name, and brought to the plan's grid."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.tables import parse_table
from gen3d.imaging.foreign import read_foreign
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.resample import antialiasing_sigma

SUFFIXES = (".nii.gz", ".nii", ".mgz")
SIDES = ("left", "right")
MIN_SHARE_IN_BRAIN = 0.5
MAX_LABEL = 1_000_000
LABEL_TOLERANCE = 0.01  # of a stored label from the whole number that is meant


@dataclass(frozen=True)
class LabelMaps:
    """A folder of label maps `<key>.nii[.gz]`, each in the space of its scan, and the name of every label."""

    folder: Path
    names: dict[int, str]

    def path(self, key: str) -> Path | None:
        """The label map of a scan; None where there is none."""
        return next((path for suffix in SUFFIXES if (path := self.folder / f"{key}{suffix}").is_file()), None)

    def find(self, name: str) -> list[int]:
        """Labels of a region: ``"left hippocampus"`` gives one, ``"hippocampus"`` both sides.

        Raises:
            UserError: no such name; the sentence gives the nearest one.
        """
        plain = plain_name(name)
        labels = [label for label, known in self.names.items() if plain in (known, without_side(known))]
        if not labels:
            known_names = list(dict.fromkeys([*self.names.values(), *map(without_side, self.names.values())]))
            near = difflib.get_close_matches(plain, known_names, n=1)
            hint = f"the nearest name is '{near[0]}'" if near else f"the first names are {', '.join(known_names[:5])}"
            raise UserError(f"label_names= has no region '{name}'; {hint}.")
        return labels


def plain_name(name: str) -> str:
    """A region's name in lower case, words apart: ``Left-Hippocampus`` and ``left_hippocampus`` are the same."""
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def without_side(name: str) -> str:
    """A plain name without its first word left or right."""
    first, _, rest = name.partition(" ")
    return rest if first in SIDES and rest else name


def open_label_maps(folder: Path, names: Path) -> LabelMaps:
    """Open a folder of label maps and the table (TSV or CSV) of their names: first column the label, second the name.

    Raises:
        UserError: no such folder or table, or a table that is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; labels= names a folder of label maps, one `<key>.nii.gz` per scan.")
    if not names.is_file():
        raise UserError(f"{names}: no such table; label_names= names a table with the columns label and name.")
    try:
        table = parse_table(names, "," if names.suffix == ".csv" else "\t", dtype=str)
        numbers = [_whole(str(row[0])) for row in table.itertuples(index=False)]
        labels = dict(zip(numbers, (plain_name(str(row[1])) for row in table.itertuples(index=False)), strict=True))
        if len(labels) < len(numbers):
            twice = next(number for number in numbers if numbers.count(number) > 1)
            raise ValueError(f"the label {twice} is given twice")
    except (OSError, ValueError, IndexError) as error:
        raise UserError(
            f"{names}: not a table of labels and names ({str(error).splitlines()[0]}); its first column is the label "
            "(a whole number), its second the name."
        ) from None
    return LabelMaps(folder, labels)


def _whole(cell: str) -> int:
    number = float(cell)
    if not number.is_integer():
        raise ValueError(f"the label {cell} is no whole number")
    return int(number)


def labels_on_plan(
    path: Path, template_to_scan: NDArray[np.float64], wanted: list[int], brain: NDArray[np.bool_], plan: GridPlan
) -> NDArray[np.int16]:
    """The wanted labels of a scan's label map on the plan's grid [X, Y, Z], 0 elsewhere.

    A voxel gets the wanted label that fills at least half of it. ``template_to_scan`` takes template mm to scan mm, as
    kept by prepare; ``brain`` is the scan's brain on the grid.

    Raises:
        ValueError: an unreadable map, a region that is missing or has no voxel on this grid, or a map in another space.
    """
    data, affine = read_labels(path)
    to_map = np.linalg.inv(affine) @ template_to_scan @ plan.matrix
    sigma = antialiasing_sigma(to_map)
    result, largest = np.zeros(plan.shape, np.int16), np.full(plan.shape, 0.5, np.float32)
    margin = np.ceil(4 * sigma).astype(int) + 2
    for label in wanted:
        places = np.argwhere(data == label)
        low = places.min(axis=0) - margin if len(places) else np.zeros(3, int)
        shape = places.max(axis=0) + margin + 1 - low if len(places) else np.ones(3, int)
        share = np.zeros(shape, np.float32)
        share[tuple((places - low).T)] = 1
        share = ndimage.gaussian_filter(share, sigma, mode="constant")
        moved = ndimage.affine_transform(share, to_map[:3, :3], to_map[:3, 3] - low, output_shape=plan.shape, order=1)
        filled = moved >= largest
        if not filled.any():
            size_ml = len(places) * float(abs(np.linalg.det(affine[:3, :3]))) / 1000
            if size_ml > 8 * plan.spacing_mm**3 / 1000 and not moved.any():
                raise ValueError(f"{path.name} does not lie on its scan: it is in another space")
            raise ValueError(f"label {label} fills no voxel of this grid in {path.name}: it has {size_ml:.3g} ml there")
        result[filled], largest = label, np.maximum(largest, moved)
    if brain[result > 0].mean() < MIN_SHARE_IN_BRAIN:
        raise ValueError(f"{path.name} does not lie on its scan: it is in another space")
    return result


def read_labels(path: Path) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """A label map [X, Y, Z] in RAS+ axis order and its affine [4, 4].

    Raises:
        ValueError: an unreadable or damaged map, one whose left and right are not known, or voxels that are no labels.
    """
    try:
        image = read_foreign(path).canonical()
    except UserError as error:
        raise ValueError(str(error).replace(str(path), path.name, 1).removesuffix(".")) from None
    if not (np.abs(image.data) < MAX_LABEL).all():
        raise ValueError(f"{path.name} holds values that are no labels (NaN, or {MAX_LABEL} and more)")
    data = np.rint(image.data)
    if np.abs(image.data - data).max() > LABEL_TOLERANCE:
        raise ValueError(f"{path.name} holds labels that are no whole numbers: it was interpolated, or is no label map")
    return data.astype(np.int32), image.affine


def template_to_scan(folder: Path, key: str) -> NDArray[np.float64] | None:
    """The matrix [4, 4] from template mm to scan mm that a prepared folder keeps of a scan; None where it keeps none.

    None too where the user said what the scan's axes are: its world is then nobody else's, so no label map lies in it.

    Raises:
        UserError: the file is damaged.
    """
    path = folder / "transforms" / f"{key}.json"
    if not path.is_file():
        return None
    try:
        record = load_object(path, finite=True)
        matrix = np.asarray(record["affine_template_to_scan"], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); run `gen3d prepare` again.") from None
    return matrix if matrix.shape == (4, 4) and "scan_axes" not in record else None

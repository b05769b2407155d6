"""Small grey pictures of scans: one axial slice each, for people to point at in a scatter plot."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.progress import track

PIXELS = 64
GREYS = 16
BLACK, WHITE = 0.3, 1.08
"""Display window of prepared T1w volumes, whose white matter is at 1."""
FOLDER = "thumbnails"
DEEPEST = 4


def recorded_prepared(folders: tuple[Path, ...]) -> Prepared | None:
    """The scans that latents were made from, as their folders' records say; None where they are not there any more."""
    found: list[Path] = []
    for folder in folders:
        sources = _sources(folder, DEEPEST)
        if not sources:
            return None
        found += [source for source in sources if source not in found]
    try:
        return open_prepared(tuple(found))
    except UserError:
        return None


def _sources(folder: Path, depth: int) -> list[Path]:
    """Prepared folders of a latents folder, or of the latents that it was made from."""
    if depth == 0:
        return []
    try:
        inputs = read(folder).inputs
    except UserError:
        return []
    direct = [Path(each["path"]) for each in inputs.get("prepared", [])]
    if direct:
        return [path for path in direct if path.is_dir()]
    return [source for each in inputs.get("latents", []) for source in _sources(Path(each["path"]), depth - 1)]


def write_thumbnails(folder: Path, prepared: Prepared, keys: list[str]) -> int:
    """Write thumbnails/<key>.png of every scan that is there; returns how many.

    Raises:
        UserError: a volume is damaged.
    """
    present = set(prepared.manifest["key"].astype(str))
    wanted = [key for key in keys if key in present and prepared.path(key, "t1w").is_file()]
    if not wanted:
        return 0
    box = ndimage.find_objects(prepared.mask.astype(np.uint8))[0]
    (folder / FOLDER).mkdir(exist_ok=True)
    for key in track(wanted, "thumbnails"):
        picture = thumbnail(prepared.volume(key, "t1w"), box)
        (folder / FOLDER / f"{key}.png").write_bytes(picture)
    return len(wanted)


def thumbnail(volume: NDArray[np.float32], box: tuple[slice, ...]) -> bytes:
    """The middle axial slice of a box as PNG: 64 pixels high, 16 greys, front up, left of the image is left.

    volume [X, Y, Z] in RAS order.
    """
    middle = (box[2].start + box[2].stop) // 2
    plane = volume[box[0], box[1], middle].T[::-1]
    grey = np.clip((plane - BLACK) / (WHITE - BLACK), 0, 1)
    size = (max(1, round(PIXELS * plane.shape[1] / plane.shape[0])), PIXELS)
    small = Image.fromarray(np.rint(255 * grey).astype(np.uint8)).resize(size, Image.Resampling.LANCZOS)
    levels = np.rint(np.asarray(small, dtype=np.float64) / 255 * (GREYS - 1)).astype(np.uint8)
    image = Image.fromarray(levels, mode="P")
    image.putpalette([round(255 * level / (GREYS - 1)) for level in range(GREYS) for _ in range(3)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True, bits=4)
    return buffer.getvalue()

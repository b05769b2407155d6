"""Slices of brains: anatomy in grey, a map over it, each labelled with sides and coordinates.

All arrays are on the plan's grid in RAS order, so the left of an image is the left of the brain (neurological convention).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from scipy import ndimage

from gen3d.core import words as spell
from gen3d.figures import style

CONVENTION = "Left of the image is left of the brain (neurological convention); x < 0 is left. Coordinates are MNI152."
AXES = {"sagittal": 0, "coronal": 1, "axial": 2}
LETTERS = "xyz"
SIDES = {"axial": ("L", "R"), "coronal": ("L", "R"), "sagittal": ("P", "A")}
PIXEL_MM = 1.0
GAP_MM = 9.0
HEAD_INCHES, FOOT_INCHES, BAR_INCHES = 0.27, 0.2, 0.6
BLACK, WHITE = 0.3, 1.08  # display window of prepared T1w volumes, whose white matter is at 1
OUTLINE = np.array([0.05, 0.05, 0.07])


@dataclass(frozen=True)
class DisplaySpace:
    """The grid that arrays are on: affine [4, 4] in mm (RAS, no shear) and the brain mask [X, Y, Z]."""

    affine: NDArray[np.float64]
    mask: NDArray[np.bool_]

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def index(self, axis: int, position_mm: float) -> int:
        """The voxel nearest to a position along one axis, inside the grid."""
        origin, step = self.affine[axis, 3], self.affine[axis, axis]
        return int(np.clip(round((position_mm - origin) / step), 0, self.mask.shape[axis] - 1))

    def position_mm(self, axis: int, index: int) -> float:
        """World coordinate of a voxel along one axis."""
        return float(self.affine[axis, 3] + self.affine[axis, axis] * index)

    def cropped(self) -> tuple[slice, slice, slice]:
        """The mask's bounding box and one voxel around it."""
        if not self.mask.any():
            return (slice(None), slice(None), slice(None))
        box = ndimage.find_objects(self.mask.astype(np.uint8))[0]
        first, second, third = (
            slice(max(0, part.start - 1), min(size, part.stop + 1))
            for part, size in zip(box, self.mask.shape, strict=True)
        )
        return first, second, third


@dataclass(frozen=True)
class Overlay:
    """A signed map over the anatomy, symmetric around zero; with a `colour`, a strength from zero up in that colour.

    Below `threshold` it fades out and is gone at half of it (a strength is gone at once); where `outlined` is true a dark line
    runs around.
    """

    values: NDArray[np.floating]
    limit: float
    threshold: float
    outlined: NDArray[np.bool_] | None = None
    colour: str = ""


@dataclass(frozen=True)
class Cut:
    """One slice: `plane` is axial, coronal or sagittal, `position_mm` its world coordinate."""

    plane: str
    position_mm: float


@dataclass(frozen=True)
class Tile:
    """One slice to draw: anatomy [X, Y, Z], the map over it, and a title above it."""

    cut: Cut
    anatomy: NDArray[np.floating]
    overlay: Overlay | None = None
    title: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of slices with a title above it."""

    title: str
    tiles: Sequence[Tile]


def image_of(tile: Tile, space: DisplaySpace) -> NDArray[np.float64]:
    """The slice as [height, width, 3] in 0..1, interpolated linearly to about 1 mm per pixel, white outside the brain."""
    axis = AXES[tile.cut.plane]
    index = space.index(axis, tile.cut.position_mm)
    box = space.cropped()
    spacing = [space.spacing_mm[other] for other in range(3) if other != axis]
    zoom = [size / PIXEL_MM for size in spacing]

    def finer(volume: NDArray[np.floating] | NDArray[np.bool_]) -> NDArray[np.float64]:
        flat = np.take(np.asarray(volume[box]), index - (box[axis].start or 0), axis=axis)
        return ndimage.zoom(np.nan_to_num(flat.astype(np.float64)), zoom, order=1, grid_mode=True, mode="nearest")

    if not (box[axis].start or 0) <= index < (box[axis].stop or space.mask.shape[axis]):
        shape = [round(n * z) for n, z in zip(np.delete(space.mask[box].shape, axis), zoom, strict=True)]
        return np.ones((shape[1], shape[0], 3))
    inside = np.clip(finer(space.mask), 0, 1)
    grey = np.clip((finer(tile.anatomy) - BLACK) / (WHITE - BLACK), 0, 1)
    picture = np.repeat(grey[..., None], 3, axis=-1)
    if tile.overlay is not None:
        picture = _blend(picture, tile.overlay, inside > 0.5, finer)
    alpha = np.clip((inside - 0.25) * 2.0, 0, 1)[..., None]  # a soft edge, so that the brain does not end in stairs
    picture = alpha * picture + (1 - alpha)
    return np.flip(picture.transpose(1, 0, 2), axis=0)


def _blend(
    picture: NDArray[np.float64],
    overlay: Overlay,
    inside: NDArray[np.bool_],
    finer: Callable[[NDArray[np.floating] | NDArray[np.bool_]], NDArray[np.float64]],
) -> NDArray[np.float64]:
    colours, alpha = _colours(finer(overlay.values), overlay)
    alpha = (alpha * inside)[..., None]
    blended = (1 - alpha) * picture + alpha * colours
    if overlay.outlined is not None and overlay.outlined.any():
        region = (finer(overlay.outlined) > 0.5) & inside
        edge = ndimage.binary_dilation(region) & ~region
        blended[edge] = OUTLINE
    return np.asarray(blended)


def draw(
    strips: Sequence[Strip],
    space: DisplaySpace,
    bar: tuple[Overlay, str] | Sequence[tuple[Overlay, str]] | None = None,
    width_inches: float = style.WIDTH_INCHES,
    dpi: int = style.DPI,
) -> bytes:
    """Rows of slices to scale, with sides, coordinates and a colour bar, as PNG.

    Args:
        strips: the rows.
        space: the grid of all arrays.
        bar: an overlay whose scale the colour bar shows, and the label of the bar; or several, side by side.
        width_inches: width of the figure; the longest row fills it.
        dpi: dots per inch of the PNG.
    """
    images = [[image_of(tile, space) for tile in strip.tiles] for strip in strips]
    width_mm = max(sum(image.shape[1] * PIXEL_MM + GAP_MM for image in row) - GAP_MM for row in images)
    mm_per_inch = width_mm / width_inches
    head_mm, foot_mm = HEAD_INCHES * mm_per_inch, FOOT_INCHES * mm_per_inch
    heights = [head_mm + max(image.shape[0] for image in row) * PIXEL_MM + foot_mm for row in images]
    bars: list[tuple[Overlay, str]] = [bar] if isinstance(bar, tuple) else list(bar or ())
    bar_inches = BAR_INCHES if bars else 0.0
    height_inches = sum(heights) / mm_per_inch + bar_inches
    with style.canvas(height_inches, width_inches) as figure:
        axes = figure.add_axes((0, bar_inches / height_inches, 1, 1 - bar_inches / height_inches))
        axes.set_axis_off()
        top = sum(heights)
        axes.set(xlim=(0, width_mm), ylim=(0, top))
        for strip, row, height in zip(strips, images, heights, strict=True):
            axes.text(0, top - 0.12 * head_mm, strip.title, va="top", ha="left", fontsize=8.5, fontweight="bold")
            _row(axes, strip, row, space, (top - head_mm, top - height + foot_mm))
            top -= height
        axes.set(xlim=(0, width_mm), ylim=(0, sum(heights)), aspect="auto")
        for place, (overlay, label) in enumerate(bars):
            _colour_bar(figure, overlay, label, bar_inches / height_inches, (place + 0.5) / len(bars), len(bars) > 1)
        return style.png_bytes(figure, dpi)


def _row(
    axes: Axes, strip: Strip, images: Sequence[NDArray[np.float64]], space: DisplaySpace, between: tuple[float, float]
) -> None:
    """Slices side by side, centred between two heights, with their labels."""
    middle, left = sum(between) / 2, 0.0
    small = {"fontsize": 7, "color": style.GREY}
    for tile, image in zip(strip.tiles, images, strict=True):
        wide, high = image.shape[1] * PIXEL_MM, image.shape[0] * PIXEL_MM
        bottom = middle - high / 2
        place = (left, left + wide, bottom, bottom + high)
        axes.imshow(image, extent=place, interpolation="antialiased", aspect="equal")
        first, second = SIDES[tile.cut.plane]
        axes.text(left, between[0], first, ha="left", va="top", **small)  # type: ignore[arg-type]
        axes.text(left + wide, between[0], second, ha="right", va="top", **small)  # type: ignore[arg-type]
        axes.text(left + wide / 2, between[1] - 1, _coordinate(tile.cut, space), ha="center", va="top", **small)  # type: ignore[arg-type]
        if tile.title:
            axes.text(left + wide / 2, between[0], tile.title, ha="center", va="bottom", fontsize=8)
        left += wide + GAP_MM


def _coordinate(cut: Cut, space: DisplaySpace) -> str:
    axis = AXES[cut.plane]
    exact = space.position_mm(axis, space.index(axis, cut.position_mm))
    return f"{LETTERS[axis]} = {spell.number(exact, 0, signed=True)} mm"


def _colour_bar(
    figure: Canvas, overlay: Overlay, label: str, share: float, middle: float = 0.5, narrow: bool = False
) -> None:
    """A scale at the foot of the figure, centred at `middle` of its width; that of a strength begins at 0."""
    width = min(0.5, 2.6 / figure.get_figwidth())
    axes = figure.add_axes((middle - width / 2, 0.42 * share, width, 0.15 * share))
    low = 0.0 if overlay.colour else -overlay.limit
    values = np.linspace(low, overlay.limit, 512)
    row = _over_tissue(values, overlay)
    axes.imshow(row[None], extent=(low, overlay.limit, 0, 1), aspect="auto", interpolation="bilinear")
    ticks = [low, -overlay.threshold, overlay.threshold, overlay.limit]
    if overlay.colour or narrow:
        ticks = sorted({low, 0.0, overlay.limit})
    elif overlay.threshold > 0.22 * overlay.limit:
        ticks.insert(2, 0.0)
    axes.set_xticks(ticks, [f"{tick:g}".replace("-", spell.MINUS) for tick in ticks])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.tick_params(length=2)
    figure.text(middle, 0.63 * share, label, ha="center", va="bottom", fontsize=8)


def _over_tissue(values: NDArray[np.float64], overlay: Overlay) -> NDArray[np.float64]:
    """The colours of values over the grey of tissue, [n, 3]."""
    colours, alpha = _colours(values, overlay)
    return np.asarray(alpha[:, None] * colours + (1 - alpha[:, None]) * 0.72)


def _colours(values: NDArray[np.float64], overlay: Overlay) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Colours [..., 3] and opacity [...] of map values: opaque from the threshold on, gone at half of it."""
    if overlay.colour:
        alpha = style.opacity(values, overlay.threshold, overlay.limit)
        return np.broadcast_to(np.asarray(style.rgb(overlay.colour)), (*values.shape, 3)), alpha
    colours = matplotlib.colormaps[style.DIVERGING]((values / overlay.limit + 1) / 2)[..., :3]
    half = max(overlay.threshold / 2, 1e-6)
    return colours, 0.92 * np.clip((np.abs(values) - half) / half, 0, 1) ** 1.5


def peak(values: NDArray[np.floating], mask: NDArray[np.bool_], space: DisplaySpace) -> tuple[float, float, float]:
    """World coordinates of the strongest value after a 3-voxel mean, inside the mask."""
    smooth = np.abs(ndimage.uniform_filter(np.nan_to_num(np.where(mask, values, 0.0)).astype(np.float64), 3))
    smooth[~mask] = -1.0
    index = np.unravel_index(int(smooth.argmax()), smooth.shape)
    x, y, z = (space.position_mm(axis, int(index[axis])) for axis in range(3))
    return x, y, z


def lightbox(space: DisplaySpace, num_axial: int = 6) -> tuple[Cut, ...]:
    """Axial slices evenly over the brain, then a coronal and a sagittal slice through the left hippocampus."""
    box = space.cropped()[2]
    low = space.position_mm(2, box.start or 0)
    high = space.position_mm(2, (box.stop or space.mask.shape[2]) - 1)
    positions = np.linspace(low + 0.22 * (high - low), low + 0.86 * (high - low), num_axial)
    axial = tuple(Cut("axial", float(position)) for position in positions)
    return (*axial, Cut("coronal", -20.0), Cut("sagittal", -26.0))


def three_planes(position_mm: tuple[float, float, float]) -> tuple[Cut, Cut, Cut]:
    """The axial, coronal and sagittal slices through a point."""
    x, y, z = position_mm
    return Cut("axial", z), Cut("coronal", y), Cut("sagittal", x)

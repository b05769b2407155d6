"""Normative curves: what a norm expects of a region at every age, with the centiles between which healthy people lie.

A centile is one of the predictive distribution of a new person, so it widens where few controls are near: with probability c
a new control lies below

    beta' x(age, sex) + sd sqrt(f(age)^2 + x' (X'X)^-1 x) t_dof^-1(c),

f the factor of the residual SD by age (`age_variance`). An empirical null that the norm was calibrated with moves the centiles
where it moves z. Sites are at their mean. Nothing is drawn beyond the ages of the controls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri, stdtrit

from gen3d.anomaly.calibration.channel_norm import ChannelNorm
from gen3d.anomaly.calibration.empirical_null import CENTRES, NullMap
from gen3d.anomaly.norm.folder import CENTILES, CURVES, CURVES_PNG, CURVES_SVG
from gen3d.cohort.channels import CONTRAST, LOG_VOLUMES, SIZE, VOLUME
from gen3d.cohort.region_validity import measures_volume
from gen3d.core import words as spell
from gen3d.core.disk import whole_file
from gen3d.core.errors import UserError
from gen3d.figures import names as wording
from gen3d.figures import style
from gen3d.figures.charts import Chart, finished
from gen3d.maths.design import Design

OF_CURVES = (VOLUME, SIZE, CONTRAST)
"""Channels that curves can be drawn of, the best first: the person's own values, with no model's expectation taken off."""
COLUMNS = CURVES.columns
SEXES = ("F", "M")
STEP_YEARS = 1.0
MAIN_REGIONS = (
    *("left hippocampus", "right hippocampus", "left lateral ventricle", "right lateral ventricle"),
    *("left thalamus", "right thalamus", "left putamen", "third ventricle"),
    *("left insula", "left fusiform", "left orbitofrontal", "left cerebral white matter"),
)
"""Structures whose curves are known from the literature; of cortex those whose reading follows labelled volumes best."""
PANELS_IN_A_ROW = 4
INCHES_PER_ROW, INCHES_BELOW, INCHES_ABOVE = 1.75, 0.62, 0.28
COLOURS = {"F": style.GROUP_COLOURS[3], "M": style.GROUP_COLOURS[0]}
SEX_NAMES = {"F": "women", "M": "men"}

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class CurveModel:
    """The part of a norm's channel that makes curves, for R regions and p design columns.

    names [R]; coefficients [p, R]; sd [R]; gram_inverse [p, p] with the penalty in it, if any; degrees of freedom of t; the
    ages of the controls; `rows`, from ages [n], sexes [n] to design rows [n, p] at the mean of the sites; `factor`, from ages
    to factors of the residual SD [n]; the empirical null, or None.
    """

    channel: str
    names: tuple[str, ...]
    coefficients: NDArray[np.floating]
    sd: NDArray[np.floating]
    gram_inverse: Floats
    dof: float
    age_range_years: tuple[float, float]
    rows: Callable[[Floats, list[str]], Floats]
    factor: Callable[[Floats], Floats]
    null_map: NullMap | None = None


def curve_model(channel: str, names: tuple[str, ...], norm: ChannelNorm, design: Design) -> CurveModel:
    """The curves' part of the norm of a channel by region."""
    of_sites = [place for place, name in enumerate(design.columns) if name.startswith("site ")]

    def rows(ages: Floats, sexes: list[str]) -> Floats:
        matrix = design.matrix(ages, sexes, [""] * len(ages))
        matrix[:, of_sites] = 0.0  # the mean over sites
        return matrix

    model = norm.model
    return CurveModel(
        channel,
        names,
        model.coefficients,
        model.sd,
        model.gram_inverse,
        model.dof,
        design.age_range_years,
        rows,
        norm.age_variance.of,
        norm.null_map,
    )


def write_best_curves(folder: Path, models: Mapping[str, CurveModel]) -> None:
    """`write_curves` of the first of `OF_CURVES` among the channels of a norm."""
    best = next((channel for channel in OF_CURVES if channel in models), None)
    if best is not None:
        write_curves(folder, models[best])


def write_curves(folder: Path, model: CurveModel) -> None:
    """Write table and picture of the main regions, or of an atlas without them the first, into a norm folder.

    Nothing is written where no control's age is known.
    """
    main = [name for name in MAIN_REGIONS if name in model.names]
    curves = centile_curves(model, main or model.names[: len(MAIN_REGIONS)])
    if curves.empty:
        return
    CURVES.write(folder, curves)
    png, svg = draw_curves(curves)
    for name, content in ((CURVES_PNG, png), (CURVES_SVG, svg)):
        with whole_file(folder / name) as partial:
            partial.write_bytes(content)


def curve_lines(curves: pd.DataFrame) -> list[str]:
    """Lines of a markdown table: median and 5th to 95th centile of regions at three ages by sex, in the picture's unit."""
    ages = np.unique(curves["age_years"])
    chosen = ages[np.rint(np.linspace(0, len(ages) - 1, 3)).astype(int)]
    heads = [f"{SEX_NAMES[sex]}, {age:.0f} years" for age in chosen for sex in SEXES]
    lines = [f"| region | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for region, part in curves.groupby("region", sort=False):
        shown = relative(part).set_index(["age_years", "sex"])
        cells = []
        for at in ((age, sex) for age in chosen for sex in SEXES):
            middle, low, high = (float(shown.loc[at, f"centile_{centile}"]) for centile in (50, 5, 95))
            cells.append(spell.interval(middle, low, high, digits=0))
        lines.append(f"| {wording.reading(str(region), str(part['channel'].iloc[0]))} | {' | '.join(cells)} |")
    return lines


def centile_curves(model: CurveModel, regions: Sequence[str] = MAIN_REGIONS) -> pd.DataFrame:
    """Centiles of the regions that the model has, in the unit of its channel, at every year of the controls' ages.

    Returns:
        A table with `COLUMNS`, sorted by region in the order given, sex and age; without rows where the ages are not known.

    Raises:
        UserError: the model has none of the regions.
    """
    places = [model.names.index(name) for name in regions if name in model.names]
    if not places:
        raise UserError(
            f"no region {regions[0]!r} among the {len(model.names)} of channel {model.channel}: name its own regions."
        )
    low, high = np.ceil(model.age_range_years[0]), np.floor(model.age_range_years[1])
    if not low <= high:
        return pd.DataFrame(columns=list(COLUMNS))
    ages = np.arange(low, high + STEP_YEARS / 2, STEP_YEARS)
    at = model_z(np.array(CENTILES) / 100.0, model.dof, model.null_map)
    by_sex = []
    for sex in SEXES:
        rows = model.rows(ages, [sex] * len(ages))
        leverage = np.einsum("ip,pq,iq->i", rows, model.gram_inverse, rows)
        spread = np.sqrt(model.factor(ages) ** 2 + leverage)[:, None] * model.sd[places]
        by_sex.append((rows @ model.coefficients[:, places])[..., None] + spread[..., None] * at)
    tables = [
        pd.DataFrame(values[:, i], columns=list(COLUMNS[4:])).assign(
            channel=model.channel, region=model.names[place], sex=sex, age_years=ages
        )
        for i, place in enumerate(places)
        for sex, values in zip(SEXES, by_sex, strict=True)
    ]
    return pd.concat(tables, ignore_index=True)[list(COLUMNS)]


def model_z(shares: Floats, dof: float, null_map: NullMap | None = None) -> Floats:
    """The standardised deviation below which a share of controls lies: a quantile of t, after undoing the empirical null."""
    z = ndtri(shares)
    if null_map is not None:
        mapped, first = np.unique(null_map.mapped, return_index=True)
        z = np.interp(z, mapped, CENTRES[first])
    return np.asarray(z if dof > 1e7 else stdtrit(dof, ndtr(z)))


def draw_curves(curves: pd.DataFrame) -> Chart:
    """A panel per region: median and quartiles of women and men, over the band in which 90 % of them lie.

    Volumes are drawn relative to the median of both sexes in the middle of the ages, in %, because the logarithms of the table
    have the template as unit; other channels as they are.

    Args:
        curves: the table of `centile_curves`, of one channel, with at least one row.
    """
    regions, channel = list(dict.fromkeys(curves["region"])), str(curves["channel"].iloc[0])
    columns = min(PANELS_IN_A_ROW, len(regions))
    rows = -(-len(regions) // columns)
    height = INCHES_ABOVE + INCHES_PER_ROW * rows + INCHES_BELOW - 0.3
    with style.canvas(height) as figure:
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
        figure.subplots_adjust(
            left=0.055,
            right=0.99,
            top=1 - INCHES_ABOVE / height,
            bottom=INCHES_BELOW / height,
            hspace=0.34,
            wspace=0.24,
        )
        for axes in grid.ravel()[len(regions) :]:
            axes.set_visible(False)
        for axes, region in zip(grid.ravel(), regions, strict=False):
            _panel(axes, relative(curves[curves["region"] == region]))
            axes.set_title(wording.region(str(region)))
            if not measures_volume(str(region), channel):
                axes.text(0.02, 0.03, wording.NOT_ITS_VOLUME, transform=axes.transAxes, fontsize=7, color=style.GREY)
        for place, axes in enumerate(grid.ravel()[: len(regions)]):
            if place + columns >= len(regions):
                axes.set_xlabel("Age (years)")
                axes.tick_params(labelbottom=True)
        _legend(figure, f"100 %: both sexes at {middle_age(curves):.0f} years" if channel in LOG_VOLUMES else "")
        return finished(figure)


def middle_age(curves: pd.DataFrame) -> float:
    """The age in the middle of a table of curves, years: where log volumes have their unit."""
    ages = np.unique(curves["age_years"])
    return float(ages[(len(ages) - 1) // 2])


def relative(part: pd.DataFrame) -> pd.DataFrame:
    """Rows of one region with centiles of a log volume in % of the median of both sexes in the middle of the ages."""
    if part["channel"].iloc[0] not in LOG_VOLUMES:
        return part
    unit = part.loc[part["age_years"] == middle_age(part), "centile_50"].mean()
    columns = list(COLUMNS[4:])
    return part.assign(**{name: 100.0 * np.exp(part[name] - unit) for name in columns})


def _panel(axes: Axes, part: pd.DataFrame) -> None:
    low, below, middle, above, high = COLUMNS[4:]
    for sex, rows in part.groupby("sex", sort=True):
        colour, ages = COLOURS[str(sex)], rows["age_years"]
        axes.fill_between(ages, rows[low], rows[high], color=colour, alpha=0.13, linewidth=0)
        for name in (below, above):
            axes.plot(ages, rows[name], color=colour, linewidth=0.6, alpha=0.8)
        axes.plot(ages, rows[middle], color=colour, linewidth=1.6)
    axes.margins(x=0)
    style.light_grid(axes)


def _legend(figure: Canvas, unit: str) -> None:
    axes = figure.axes[0]
    lines = [axes.plot([], [], color=COLOURS[sex], linewidth=1.6)[0] for sex in SEXES]
    lines.append(axes.plot([], [], color=style.GREY, linewidth=0.6)[0])
    band = axes.fill_between([], [], [], color=style.GREY, alpha=0.25, linewidth=0)
    handles: list[Artist] = [*lines, band]
    labels = [*(f"median, {SEX_NAMES[sex]}" for sex in SEXES), "quartiles", "5th to 95th centile"]
    if unit:
        handles.append(axes.plot([], [], alpha=0)[0])
        labels.append(unit)
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), bbox_to_anchor=(0.5, 0.0))

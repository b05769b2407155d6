"""Do smooth age effects and an SD that changes with age describe new people better than age and age squared?

Six models (`life_span_models.py`) are fitted to some people and give the log density of others: the mean of the log predictive
density over regions or voxels, so a difference of 0.01 is 1 % of likelihood per region. Models are compared in the same people.

    python analysis/17_life_span.py --out FOLDER --simulated
    GEN3D_REAL_DATA=... python analysis/17_life_span.py --out FOLDER

The second call needs tabular/freesurfer_roi, t1w_ixi_2mm and t1w_2mm in GEN3D_REAL_DATA. It prepares the scans at 2.5 mm, or
takes --ixi and --t1w, folders that were prepared before; --tables leaves the scans out. Every second person of each site in
order of id, fixed beforehand, belongs to the half "choose": on it alone each channel's model is chosen. People of the half
"report" give every figure: they are predicted from 40, 80, 160 or all other people of both halves.
"""

from __future__ import annotations

import argparse
import importlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from life_span_models import KINDS, USUAL, Cohort, Kind, fit_all
from numpy.typing import NDArray

from gen3d.anomaly.compare import CompareSettings, ScanComparer, regions, voxels
from gen3d.anomaly.norm.curves import CurveModel, centile_curves, draw_curves
from gen3d.cli import run_script
from gen3d.cohort.channels import CONTRAST, SIZE, VOLUME
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import identities
from gen3d.core.errors import Unfinished, UserError
from gen3d.core.progress import say, track
from gen3d.core.tables import rows_of, write_table
from gen3d.core.words import interval, percent
from gen3d.maths.stats import bootstrap_interval
from gen3d.models.run import load_run
from gen3d.prepare.prepare import Prepare
from gen3d.train.train import Train

Floats = NDArray[np.float64]

SPACING_MM, SMOOTHING_MM = 2.5, 4.0
NUM_VOXELS = 2000
SIZES: tuple[int | None, ...] = (40, 80, 160, None)
REPEATS, FOLDS = 20, 10
ALL_BUT_A_FOLD = "nine tenths"
CHANNELS = (
    *(regions(channel) for channel in (VOLUME, SIZE, CONTRAST, "deformation")),
    *(voxels(channel) for channel in ("deformation", "residual")),
)
COHORTS = 60
LEAST_SD = 1e-6  # of a region or voxel, in the channel's units; less is a region without voxels
ASEG = (
    *(f"{side}-{name}" for side in ("Left", "Right") for name in (
        "Hippocampus", "Amygdala", "Thalamus-Proper", "Caudate", "Putamen", "Pallidum", "Accumbens-area",
        "Lateral-Ventricle", "Inf-Lat-Vent", "Cerebellum-Cortex", "Cerebellum-White-Matter",
    )),
    "3rd-Ventricle", "4th-Ventricle", "Brain-Stem",
    "lhCortexVol", "rhCortexVol", "lhCerebralWhiteMatterVol", "rhCerebralWhiteMatterVol",
)  # fmt: skip


# --- simulated truth ---------------------------------------------------------------------------------------------------


def late(ages: Floats) -> Floats:
    """A plateau and a steep decline from 65 on, in residual SDs."""
    return -2.5 / (1 + np.exp((75 - ages) / 6))


TRUTHS: dict[str, tuple[Callable[[Floats], Floats], float]] = {
    "line, one SD": (lambda ages: 0.0 * ages, 0.0),
    "parabola, one SD": (lambda ages: -0.15 * ((ages - 50) / 10) ** 2, 0.0),
    "late decline, one SD": (late, 0.0),
    "line, SD grows": (lambda ages: 0.0 * ages, 0.25),
    "late decline, SD grows": (late, 0.25),
}
"""Curve beyond the line, and change of the log variance per decade."""


def simulated(num: int, truth: str, seed: int) -> Cohort:
    """People aged 20 to 85; 300 values that share five factors, as regions of one brain do, with curves of differing size."""
    rng = np.random.default_rng(seed)
    curve, slope = TRUTHS[truth]
    ages, sex = rng.uniform(20, 85, num), rng.choice([-0.5, 0.5], num)
    amplitude, straight = rng.normal(0.5, 0.5, 300), rng.normal(-0.15, 0.15, 300)
    loadings = rng.standard_normal((5, 300)) * math.sqrt(0.5 / 5)
    noise = rng.standard_normal((num, 5)) @ loadings + math.sqrt(0.5) * rng.standard_normal((num, 300))
    scatter = np.exp(
        slope * (ages - 50) / 20 + 0.2 * rng.standard_normal(num)
    )  # people differ in scatter, as real ones do
    mean = np.outer(curve(ages), amplitude) + np.outer((ages - 50) / 10, straight) + 0.3 * sex[:, None]
    sd = np.sqrt(6 / rng.chisquare(6, 300))
    return Cohort((mean + noise * scatter[:, None]) * sd, ages, sex, np.full(num, "one"))


def simulate() -> pd.DataFrame:
    """Every truth at three sizes: log density of 100 new people of each model less that of the line; intervals over cohorts."""
    rows = []
    for truth in TRUTHS:
        for num in (20, 40, 80, 160):
            found: dict[Kind, list[tuple[float, float, float]]] = {kind: [] for kind in KINDS}
            for seed in track(range(COHORTS), f"{truth}, n = {num}"):
                cohort = simulated(num + 100, truth, seed)
                train, new = cohort.take(np.arange(num)), cohort.take(np.arange(num, num + 100))
                for fit in fit_all(train):
                    slope = fit.age_variance.slope if fit.age_variance else 0.0
                    density, beyond = (float(of_people.mean()) for of_people in fit.judge(new))
                    found[fit.kind].append((density, beyond, slope if fit.kind.by_age else fit.effective_columns))
            base = np.array(found[Kind("line", False)])[:, 0]
            for kind, figures_of in found.items():
                densities, shares, extra = np.array(figures_of).T
                gain = bootstrap_interval(densities - base)
                rows.append(
                    {
                        "truth": truth,
                        "n": num,
                        "model": kind.words,
                        "gain": gain.value,
                        "low": gain.low,
                        "high": gain.high,
                    }
                    | {"beyond": float(shares.mean()), "columns_or_slope": float(extra.mean())}
                )
    return pd.DataFrame(rows)


# --- real people -------------------------------------------------------------------------------------------------------


def prepared_cohorts(data: Path, given: argparse.Namespace) -> dict[str, Prepared]:
    """The two cohorts, prepared unless folders of them were given."""
    labelled: Any = importlib.import_module("01_what_region_readings_measure")  # a name that begins with a number
    if given.ixi is None:
        labelled.SPACING_MM = SPACING_MM
        labelled.prepared_heads(data / "t1w_ixi_2mm", given.out)
    if given.t1w is None:
        settings = {"source": data / "t1w_2mm" / "participants.csv", "columns": {"ids_within_site": True}}
        try:
            Prepare.model_validate({**settings, "out": given.out / "t1w", "spacing_mm": SPACING_MM}).run()
        except Unfinished as error:
            say(str(error))
    return {
        "ixi": open_prepared(given.ixi or given.out / "heads"),
        "t1w": open_prepared(given.t1w or given.out / "t1w"),
    }


def people_of(prepared: Prepared) -> pd.DataFrame:
    """Healthy people of known age, the first scan of each, in order of id."""
    table = prepared.manifest
    usable = table["role"].isin(["train", "calibration", "test"]) & table["age_years"].notna()
    return table[usable].sort_values("key").drop_duplicates("subject").reset_index(drop=True)


def measured(name: str, prepared: Prepared, out: Path) -> tuple[pd.DataFrame, dict[str, Floats]]:
    """People and the values of each channel [n, V]; what is kept of each person is not measured again."""
    table, kept = people_of(prepared), out / f"values_{name}"
    kept.mkdir(exist_ok=True)
    settings = {"prepared": prepared.folders[0], "out": out / f"pca_{name}", "channels": ["t1w"], "cross_fit": 5}
    run = load_run(Train.model_validate({**settings, "model": {"kind": "pca", "num_components": 20}}).run())
    comparer = ScanComparer(prepared, run, CompareSettings(("residual", "deformation"), 0, SMOOTHING_MM, 0))
    every = max(1, int(prepared.mask.sum()) // NUM_VOXELS)
    people = []
    for person, (_, row) in track(
        zip(identities(table), table.iterrows(), strict=True), f"measuring {name}", total=len(table)
    ):
        path = kept / f"{row['key']}.npz"
        if not path.is_file():
            values = comparer(row, person)
            np.savez(path, **{of: values[of][::every] if of.endswith("-voxels") else values[of] for of in CHANNELS})
        with np.load(path) as found:
            people.append({channel: found[channel].astype(np.float64) for channel in CHANNELS})
    return table, {channel: np.stack([values[channel] for values in people]) for channel in CHANNELS}


def cohorts_of(parts: dict[str, tuple[pd.DataFrame, dict[str, Floats]]]) -> Iterator[tuple[str, str, Cohort]]:
    """Every channel of one scanner, and of all sources."""
    for name, members in (("one scanner", ["ixi"]), ("four sources", list(parts))):
        table = pd.concat([parts[member][0] for member in members], ignore_index=True)
        sex = table["sex"].map({"F": -0.5, "M": 0.5}).fillna(0.0).to_numpy()
        for channel in CHANNELS:
            values = np.concatenate([parts[member][1][channel] for member in members])
            varying = values.std(axis=0) > LEAST_SD
            yield (
                name,
                channel,
                Cohort(values[:, varying], table["age_years"].to_numpy(np.float64), sex, table["site"].to_numpy(str)),
            )


def tabular(folder: Path) -> Iterator[tuple[str, str, Cohort]]:
    """FreeSurfer's regions, of more people than have scans: thickness of IXI and fcon1000, log volume / head size of fcon1000."""
    ixi = pd.read_csv(folder / "IXI_aparc_thickness.csv").merge(
        pd.read_csv(folder / "IXI_age_gender.csv"), on="participant_id"
    )
    ixi = ixi.drop_duplicates("participant_id").sort_values("participant_id", ignore_index=True)
    names = [name for name in ixi if str(name).endswith("_thickness") and "Mean" not in str(name)]
    sex = ixi["sex"].map({1: 0.5, 2: -0.5}).to_numpy(np.float64)
    one = np.full(len(ixi), "ixi")
    yield (
        "FreeSurfer, IXI",
        "thickness",
        Cohort(ixi[names].to_numpy(np.float64), ixi["age"].to_numpy(np.float64), sex, one),
    )
    fcon = pd.read_csv(folder / "fcon1000_tr.csv").sort_values("sub_id", ignore_index=True)
    names = [name for name in fcon if str(name).endswith("_thickness") and "Mean" not in str(name)]
    volumes = np.log(fcon[[*ASEG]].to_numpy(np.float64)) - np.log(fcon[["eTIV"]].to_numpy(np.float64))
    for channel, values in (("thickness", fcon[names].to_numpy(np.float64)), ("volume", volumes)):
        yield (
            "FreeSurfer, fcon1000",
            channel,
            Cohort(
                values,
                fcon["age"].to_numpy(np.float64),
                fcon["sex"].to_numpy(np.float64) - 0.5,
                fcon["site"].to_numpy(str),
            ),
        )


def halves(cohort: Cohort) -> NDArray[np.bool_]:
    """Whether each person belongs to the half "choose": every second of each site."""
    chosen = np.zeros(len(cohort.ages), dtype=bool)
    for site in sorted(set(cohort.sites.tolist())):
        chosen[np.flatnonzero(cohort.sites == site)[::2]] = True
    return chosen


def draws(num: int, size: int | None, sites: NDArray[np.str_]) -> Iterator[NDArray[np.int64]]:
    """Rows of training people: `REPEATS` random draws of `size`, or for None all but one of `FOLDS` folds, three times.

    A draw has at least three people of every site.
    """
    rng = np.random.default_rng(0)
    if size is None:
        for _ in range(3):
            order = rng.permutation(num)
            yield from (np.setdiff1d(order, order[fold::FOLDS]) for fold in range(FOLDS))
        return
    for _ in range(REPEATS):
        order = rng.permutation(num)
        first = np.concatenate([order[sites[order] == site][:3] for site in sorted(set(sites.tolist()))])
        yield np.concatenate(
            [first, np.setdiff1d(order, first)[rng.permutation(num - len(first))][: size - len(first)]]
        )


def held_out(cohort: Cohort, size: int | None) -> tuple[dict[Kind, Floats], dict[Kind, Floats], Floats, Floats]:
    """Per model each person's log density and share beyond 1.96, mean over the draws that left the person out (NaN for none);
    the effective columns of the spline, and the slope of the log variance per decade around it, of every draw."""
    num, people = len(cohort.ages), np.arange(len(cohort.ages))
    sums = {kind: np.zeros((2, num)) for kind in KINDS}
    times, columns, slopes = np.zeros(num), [], []
    for rows in draws(num, size, cohort.sites):
        others = np.setdiff1d(people, rows)
        times[others] += 1
        new = cohort.take(others)
        for fit in fit_all(cohort.take(rows)):
            sums[fit.kind][:, others] += fit.judge(new)
            if fit.kind == Kind("spline", True) and fit.age_variance is not None:
                columns.append(fit.effective_columns)
                slopes.append(fit.age_variance.slope)
    with np.errstate(invalid="ignore"):
        density = {kind: both[0] / times for kind, both in sums.items()}
        beyond = {kind: both[1] / times for kind, both in sums.items()}
    return density, beyond, np.array(columns), np.array(slopes)


def choices(name: str, channel: str, cohort: Cohort) -> list[dict[str, Any]]:
    """The gains of every model over age and age squared with one SD inside the half "choose", from all its people but a fold.

    The model of the highest density is chosen if it is better than the usual one for certain (95 %), else the usual one.
    """
    density, *_ = held_out(cohort.take(np.flatnonzero(halves(cohort))), None)
    best = max(KINDS, key=lambda kind: float(np.nanmean(density[kind])))
    chosen = best if bootstrap_interval(density[best] - density[USUAL]).low > 0 else USUAL
    rows = []
    for kind in KINDS:
        gain = bootstrap_interval(density[kind] - density[USUAL])
        rows.append(
            {"people": name, "channel": channel, "n": gain.num, "model": kind.words, "value": gain.value}
            | {"low": gain.low, "high": gain.high, "chosen": kind == chosen}
        )
    return rows


def report(name: str, channel: str, cohort: Cohort) -> list[dict[str, Any]]:
    """Rows of the table: every model at every size, in the half "report"."""
    reported = ~halves(cohort)
    rows = []
    for size in SIZES:
        few = 4 * len(set(cohort.sites.tolist()))
        if size is not None and not few < size < len(cohort.ages) - FOLDS:
            continue
        density, beyond, columns, slopes = held_out(cohort, size)
        for kind in KINDS:
            against = {"usual": density[USUAL], "line": density[Kind("line", False)]}
            gains = {other: bootstrap_interval((density[kind] - base)[reported]) for other, base in against.items()}
            rows.append(
                {
                    "people": name,
                    "channel": channel,
                    "n": len(cohort.ages) if size is None else size,
                    "model": kind.words,
                }
                | {
                    f"{part}_{other}": getattr(gain, part)
                    for other, gain in gains.items()
                    for part in ("value", "low", "high")
                }
                | {"reported": gains["usual"].num, "beyond": float(np.nanmean(beyond[kind][reported]))}
                | {"columns": columns.mean() if kind.mean == "spline" else np.nan, "slope": slopes.mean()}
                | {"better_in": float(np.mean((density[kind] - density[USUAL])[reported] > 0))}
            )
    return rows


def shown(table: pd.DataFrame) -> str:
    """The gains over age and age squared with one SD, a line per channel and size."""
    lines = ["| people | channel | n | " + " | ".join(kind.words for kind in KINDS if kind != USUAL) + " |"]
    for (people, channel, num), rows in table.groupby(["people", "channel", "n"], sort=False):
        by_model = rows.set_index("model")
        cells = [
            interval(
                *(by_model.loc[kind.words, f"{part}_usual"] for part in ("value", "low", "high")), digits=3, signed=True
            )
            for kind in KINDS
            if kind != USUAL
        ]
        lines.append(f"| {people} | {channel} | {num} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(cohort: Cohort, names: tuple[str, ...], out: Path) -> None:
    """The curves of a channel by region, spline and SD by age, as a norm folder draws them."""
    fit = next(fit for fit in fit_all(cohort) if fit.kind == Kind("spline", True))

    def rows(ages: Floats, sexes: list[str]) -> Floats:
        sex = np.array([{"F": -0.5, "M": 0.5}[code] for code in sexes])
        nobody = Cohort(np.empty((len(ages), 0)), ages, sex, np.full(len(ages), ""))
        return nobody.columns("spline", fit.sites)[:, : len(fit.gram_inverse)]

    by_age = fit.age_variance
    assert by_age is not None
    ages = (float(cohort.ages.min()), float(cohort.ages.max()))
    model = CurveModel(VOLUME, names, fit.coefficients, fit.sd, fit.gram_inverse, fit.dof, ages, rows, by_age.of)
    png, _ = draw_curves(centile_curves(model))
    (out / "curves.png").write_bytes(png)


def studied(data: Path, given: argparse.Namespace) -> Iterator[tuple[str, str, Cohort]]:
    """Every cohort and channel: tables first, which cost nothing."""
    if (data / "tabular" / "freesurfer_roi").is_dir():
        yield from tabular(data / "tabular" / "freesurfer_roi")
    if not given.tables:
        prepared = prepared_cohorts(data, given)
        parts = {name: measured(name, of, given.out) for name, of in prepared.items()}
        one_scanner = next(
            cohort for _, channel, cohort in cohorts_of({"ixi": parts["ixi"]}) if channel == regions(VOLUME)
        )
        varying = parts["ixi"][1][regions(VOLUME)].std(axis=0) > LEAST_SD
        draw(one_scanner, tuple(prepared["ixi"].region_table["name"][varying].astype(str)), given.out)
        yield from cohorts_of(parts)


def main() -> None:
    """Simulate or measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--simulated", action="store_true", help="known curves instead of real people")
    parser.add_argument("--tables", action="store_true", help="only the tables of FreeSurfer's regions")
    parser.add_argument("--ixi", type=Path, help="t1w_ixi_2mm, prepared")
    parser.add_argument("--t1w", type=Path, help="t1w_2mm, prepared")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.simulated:
        table = simulate()
        write_table(given.out / "simulated.tsv", table, digits=4)
        say(table.round(4).to_string(index=False))
        return
    data = Path(os.environ.get("GEN3D_REAL_DATA", ""))
    if not (data / "t1w_ixi_2mm").is_dir():
        raise UserError("GEN3D_REAL_DATA must name a folder that holds t1w_ixi_2mm, t1w_2mm and tabular.")
    tables = {"choices": choices, "life_span": report}
    kept = {name: kept_rows(given.out / f"{name}.tsv") for name in tables}
    for people, channel, cohort in studied(data, given):
        say(
            f"{people}, {channel}: {len(cohort.ages)} people, {percent(float(halves(cohort).mean()), 0)} of them choose"
        )
        for name, measure in tables.items():
            if not any((row["people"], row["channel"]) == (people, channel) for row in kept[name]):
                kept[name] += measure(people, channel, cohort)
                write_table(given.out / f"{name}.tsv", pd.DataFrame(kept[name]), digits=5)
    found = pd.DataFrame(kept["choices"])
    say(found[found["chosen"]].round(4).to_string(index=False))
    say(shown(pd.DataFrame(kept["life_span"])))


def kept_rows(path: Path) -> list[dict[str, Any]]:
    """Rows that an earlier call wrote, none without one."""
    return list(rows_of(pd.read_csv(path, sep="\t", dtype={"n": str}))) if path.is_file() else []


if __name__ == "__main__":
    run_script(main)

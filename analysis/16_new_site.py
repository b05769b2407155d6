"""A norm at a site that it has not seen: how honest and how sensitive is it after n controls of that site? On real scans.

Every site of the prepared folders is left out in turn: the norm is fitted on the controls of the others (age, age squared,
sex, site, site factors, empirical null, as `gen3d anomaly` does), adapted with n controls of the site drawn at random, and
judges other people of it. Compared with: no adaptation; mean and SD of the site's controls without shrinkage; the norm
fitted again with the site's controls in it.

Channels: `residual`, of T1w, from a PCA of 20 components that is trained without the site and cross-fitted in five parts
over the norm's people (a person of the site is judged by one of its members too); `deformation`, the log-Jacobian; and by
region the log-Jacobian and `contrast`, without an empirical null.

Planted in copies of the tested people: a lesion of 13.5 ml with the shape of a stroke mask (T1w, before the PCA), and the
shift of the readings of both hippocampi that a loss of 24 % causes (04: 55 % of the log change in the log-Jacobian, 43 %
in contrast).

Per draw, n controls and up to `--tested` others. Writes real.jsonl; a second run goes on. Prints the tables.

    python analysis/16_new_site.py --prepared FOLDER [FOLDER ...] --masks MASKS --out OUT --draws 20
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from new_site import ARMS, Floats, Kept, NewSite, Norm, Settings, fit_norm, null_figures, over_draws

from gen3d.anomaly.calibration.calibrate import CalibrationSettings
from gen3d.anomaly.channels import ChannelMaker, ScanComparison
from gen3d.anomaly.norm.adapting import spread_of_sites
from gen3d.anomaly.region_channels import ContrastReading
from gen3d.anomaly.region_means import RegionMeans
from gen3d.cohort.channels import CONTRAST, LOG_JACOBIAN, T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.regions import find
from gen3d.maths.reference import ReferenceScores
from gen3d.maths.significance import heaviest_cluster
from gen3d.maths.stats import auprc
from gen3d.simulate.conditions import Condition
from gen3d.simulate.lesion_masks import masks_of_size
from gen3d.simulate.person import plant_lesion
from gen3d.simulate.planting import TISSUE_LEVEL

NUMBERS = (3, 5, 10, 20, 50)
FEWEST_TESTED = 4
COMPONENTS, MEMBERS = 20, 5
SMOOTHING_MM, VARIANCE_SMOOTHING_MM = 4.0, 2.0
LESION_ML = 13.5
LESION = Condition.model_validate({"kind": "lesion", "severity": [LESION_ML]})
LOSS = np.log(0.76)
RECOVERED = {"regions": 0.55, CONTRAST: 0.43}
CLUSTER_Z, LEVEL = 3.1, 0.05 + 1e-9
MAPS = ("residual", "deformation")
CHANNELS = ("regions", CONTRAST, *MAPS)


@dataclass(frozen=True)
class Cohort:
    """Controls, one scan each, and what does not depend on the site that is left out: values of channels, planted T1w."""

    prepared: Prepared
    people: pd.DataFrame
    values: dict[str, Floats]
    t1w: Floats
    planted_t1w: Floats
    lesions: np.ndarray
    every: int

    @property
    def mask(self) -> np.ndarray:
        return self.prepared.mask


def open_cohort(folders: list[Path], masks: Path, channels: list[str], every: int) -> Cohort:
    """Read every control, and plant one lesion in a copy of each if the residual is wanted."""
    prepared = open_prepared(folders)
    table = prepared.manifest[prepared.manifest["role"].isin(["train", "calibration", "test"])]
    table = table[~table["subject"].duplicated()].reset_index(drop=True)
    mask, maker, reading = prepared.mask, _maker(prepared), ContrastReading(prepared)
    means = RegionMeans(prepared.regions, mask, prepared.region_table)
    values: dict[str, list[Floats]] = {name: [] for name in ("deformation", "regions", CONTRAST)}
    scans: list[tuple[Floats, Floats, np.ndarray]] = []
    for _, row in table.iterrows():
        log_jacobian = prepared.volume(row["key"], LOG_JACOBIAN)[mask]
        values["regions"].append(means(log_jacobian))
        values[CONTRAST].append(reading(row))
        if "deformation" in channels:
            values["deformation"].append(maker.smooth(log_jacobian, "deformation")[::every].copy())
        if "residual" in channels:
            scans.append(_planted(prepared, str(row["key"]), masks))
    arrays = {name: np.stack(of) for name, of in values.items() if of}
    lesions = [np.stack([scan[k] for scan in scans]) for k in range(3)] if scans else [np.empty(0)] * 3
    return Cohort(prepared, table, arrays, *lesions, every)


def _planted(prepared: Prepared, key: str, masks: Path) -> tuple[Floats, Floats, np.ndarray]:
    """T1w of a scan and of its copy with a lesion, and where that is, [V]."""
    scan, mask = prepared.volume(key, T1W), prepared.mask
    rng = np.random.default_rng([16, zlib.crc32(key.encode())])
    where = (scan > TISSUE_LEVEL) & mask
    changed, truth = plant_lesion(scan, where, LESION, LESION_ML, masks_of_size(masks, None), prepared.plan, rng)
    return scan[mask], changed[mask], truth.changed[mask]


def _maker(prepared: Prepared) -> ChannelMaker:
    return ChannelMaker(prepared.mask, prepared.plan.spacing_mm, SMOOTHING_MM)


class Components:
    """Principal components of T1w of some people [n, V]: the expectation is the mean plus the projection on them."""

    def __init__(self, values: Floats) -> None:
        self.mean = values.mean(axis=0)
        centred = values - self.mean
        squares, vectors = np.linalg.eigh((centred @ centred.T).astype(np.float64))
        kept = np.argsort(squares)[::-1][:COMPONENTS]
        self.axes = ((vectors[:, kept] / np.sqrt(squares[kept])).T @ centred).astype(np.float32)

    def expect(self, values: Floats) -> Floats:
        """The expectation of one person [V]."""
        return np.asarray(self.mean + (self.axes @ (values - self.mean)) @ self.axes)


def residuals(cohort: Cohort, left_out: np.ndarray) -> tuple[Floats, Floats]:
    """Residual of every scan and of every copy with a lesion [N, V], by a member that has not seen the person."""
    maker, mask = _maker(cohort.prepared), cohort.mask
    part = np.random.default_rng(16).permutation(len(cohort.people)) % MEMBERS
    shape = cohort.t1w[:, :: cohort.every].shape
    plain, planted = np.empty(shape, dtype=np.float32), np.empty(shape, dtype=np.float32)
    for member in range(MEMBERS):
        model = Components(cohort.t1w[~left_out & (part != member)])
        for i in np.flatnonzero(part == member):
            for source, into in ((cohort.t1w, plain), (cohort.planted_t1w, planted)):
                observed, expected = np.zeros((2, *mask.shape), dtype=np.float32)
                observed[mask], expected[mask] = source[i], model.expect(source[i])
                comparison = ScanComparison({T1W: observed}, {T1W: expected})
                into[i] = maker.smooth(maker.sharp(comparison, "residual"), "residual")[:: cohort.every]
    return plain, planted


@dataclass(frozen=True)
class Channel:
    """One channel with one site left out: values, values of the changed copies, norm of the others."""

    name: str
    values: Floats
    planted: Floats | None
    settings: Settings
    norm: Norm
    base: tuple[Floats, pd.DataFrame]
    reference: ReferenceScores | np.ndarray


def open_channels(
    cohort: Cohort, channels: list[str], left_out: np.ndarray, hippocampi: list[int]
) -> Iterator[Channel]:
    """The channels with the norm of everybody who is not of the site."""
    fwhm = VARIANCE_SMOOTHING_MM / cohort.prepared.plan.spacing_mm
    people = cohort.people[~left_out].reset_index(drop=True)
    for name in channels:
        planted: Floats | None = None
        if name == "residual":
            values, planted = residuals(cohort, left_out)
        else:
            values = cohort.values[name]
        by_voxel = name in MAPS
        settings = Settings(CalibrationSettings(empirical_null=by_voxel))
        if by_voxel and cohort.every == 1:
            settings = Settings(CalibrationSettings(fwhm, True), cohort.mask)
        norm = fit_norm(values[~left_out], people, settings)
        reference: ReferenceScores | np.ndarray
        if by_voxel:
            reference = ReferenceScores.of([mass(cohort, z) for z in norm.held_out])
        else:
            planted = values.copy()
            planted[:, hippocampi] += RECOVERED[name] * LOSS
            reference = np.sort(norm.held_out[:, hippocampi].mean(axis=1))
        yield Channel(name, values, planted, settings, norm, (values[~left_out], people), reference)


def mass(cohort: Cohort, z: Floats) -> float:
    """Mass of the heaviest cluster of z [V]; 0 where not every voxel is kept."""
    if cohort.every > 1:
        return 0.0
    volume = np.zeros(cohort.mask.shape, dtype=np.float32)
    volume[cohort.mask] = z
    return heaviest_cluster(volume, CLUSTER_Z)


def judged(
    cohort: Cohort, channel: Channel, site: NewSite, arm: str, tested: np.ndarray, hippocampi: list[int]
) -> dict:  # type: ignore[type-arg]
    """Figures of the tested people in one channel by one arm; lists hold one value per person."""
    judge = site.judge(arm)
    z = judge(channel.values[tested])
    row = null_figures(z)
    if isinstance(channel.reference, ReferenceScores):
        if cohort.every == 1:
            row["detected_healthy"] = (channel.reference.p([mass(cohort, one) for one in z]) <= LEVEL).tolist()
        if channel.planted is not None:
            changed = judge(channel.planted[tested])
            row["auprc"] = [
                round(auprc(np.abs(one), lesion), 4)
                for one, lesion in zip(changed, cohort.lesions[tested][:, :: cohort.every], strict=True)
            ]
            if cohort.every == 1:
                row["detected"] = (channel.reference.p([mass(cohort, one) for one in changed]) <= LEVEL).tolist()
    elif channel.planted is not None:
        for name, values in (("detected_healthy", z), ("detected", judge(channel.planted[tested]))):
            below = np.searchsorted(channel.reference, values[:, hippocampi].mean(axis=1), side="right")
            row[name] = ((1 + below) / (len(channel.reference) + 1) <= LEVEL).tolist()
    return row


def leave_out(cohort: Cohort, site: str, kept: Kept, given: argparse.Namespace) -> None:
    """Every channel, number of controls, draw and arm with one site left out."""
    left_out = (cohort.people["site"] == site).to_numpy()
    own = np.flatnonzero(left_out)
    numbers = [num for num in NUMBERS if num + FEWEST_TESTED <= len(own)]
    wanted = [(num, draw) for draw in range(given.draws) for num in numbers]
    if all(
        kept.has(site=site, channel=name, n=n, draw=draw, arm="adapted")
        for name in given.channels
        for n, draw in wanted
    ):
        return
    labels = cohort.prepared.region_table["label"].tolist()
    hippocampi = [labels.index(label) for side in ("left", "right") for label in find(f"{side} hippocampus")]
    for channel in open_channels(cohort, given.channels, left_out, hippocampi):
        for num, draw in wanted:
            order = np.random.default_rng([16, num, draw]).permutation(own)
            controls, tested = order[:num], order[num : num + given.tested]
            place = NewSite(
                channel.norm,
                channel.base,
                (channel.values[controls], cohort.people.iloc[controls]),
                cohort.people.iloc[tested],
                channel.settings,
            )
            for arm in ARMS if num == NUMBERS[0] else ARMS[1:]:
                key = {
                    "site": site,
                    "channel": channel.name,
                    "n": num if arm != "unadapted" else 0,
                    "draw": draw,
                    "arm": arm,
                }
                if not kept.has(**key) and (arm != "refit" or draw < given.refits):
                    kept.add(key | judged(cohort, channel, place, arm, tested, hippocampi))
        print(
            f"{site}: {channel.name}; prior of a new site: {spread_of_sites(channel.norm.norm, channel.norm.group.design)}",
            flush=True,
        )


def main() -> None:
    """Compute what is missing, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepared", type=Path, nargs="+", required=True, help="prepared folders with controls")
    parser.add_argument("--masks", type=Path, required=True, help="folder of lesion masks in MNI space")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--sites", nargs="*", help="sites to leave out; all by default")
    parser.add_argument("--channels", nargs="*", default=list(CHANNELS), choices=CHANNELS, help="all by default")
    parser.add_argument(
        "--every",
        type=int,
        default=1,
        help="keep every k-th voxel of maps; above 1, without clusters and smoothed variances",
    )
    parser.add_argument("--draws", type=int, default=20, help="draws of n controls")
    parser.add_argument(
        "--refits", type=int, default=20, help="draws for which the norm is also fitted again, which is slow"
    )
    parser.add_argument("--tested", type=int, default=20, help="people judged per draw")
    given = parser.parse_args()
    cohort = open_cohort(given.prepared, given.masks, given.channels, given.every)
    counts = cohort.people["site"].value_counts()
    print("controls: " + ", ".join(f"{name} {num}" for name, num in counts.items()), flush=True)
    sites = given.sites or list(counts.index)
    kept = Kept(given.out / "real.jsonl")
    for site in sites:
        leave_out(cohort, site, kept, given)
    print(
        "| site | channel | arm | n | draws | beyond 1.96, % | FDR-positive people, % | detected, unchanged, % | ",
        end="",
    )
    print("AUPRC | detected, planted, % |")
    print("|---" * 10 + "|")
    columns = ("beyond", "positive", "detected_healthy", "auprc", "detected")
    for site in sites:
        for name in given.channels:
            for arm in ARMS:
                for num in (0, *NUMBERS):
                    key = (site, name, arm, num)
                    rows = [row for row in kept.rows if (row["site"], row["channel"], row["arm"], row["n"]) == key]
                    if rows:
                        cells = [over_draws(rows, column) if column in rows[0] else "" for column in columns]
                        print(f"| {site} | {name} | {arm} | {num} | {len(rows)} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

"""What `gen3d norm` writes: all that a new scan is judged by, and no image of anybody.

norm.json          how scans are compared and calibrated, how people are coded, who the controls were in numbers
plan.json          the grid
runs/<i>/          the models, as `gen3d train` wrote them
channels/          per channel: coefficients, SDs, the empirical null, and the scores of controls
statistics/        per channel: the sums over controls from which norms are merged
latents.npz        where latents of controls lie, for a model with comparable latents
seen.json          hashes of everybody whom the norm or its models saw
curves.tsv         centiles of the volumes of main regions by age and sex; curves.png and .svg draw them
ranges.tsv         centiles of the controls' deviations by region
calibration.json   how held-out controls behaved
card.md            the model card
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from gen3d.anomaly.calibration.channel_norm import ChannelNorm
from gen3d.anomaly.calibration.controls import ControlGroup
from gen3d.anomaly.control_scores import ControlScores
from gen3d.anomaly.norm.channel_files import AGAIN, ChannelFiles, damaged, write_arrays
from gen3d.cohort.seen import SeenBy
from gen3d.core.arrays import read_arrays, require_finite
from gen3d.core.artefact import Artefact, read, write_json
from gen3d.core.errors import UserError
from gen3d.core.plain_files import load_object
from gen3d.core.result_folder import ResultFolder
from gen3d.core.tables import TableFile
from gen3d.imaging.plan import GridPlan, read_plan
from gen3d.maths.covariate_sums import CovariateSums, Group
from gen3d.maths.deviation import DeviationModel
from gen3d.models.run_folder import COPIES, copied_runs

VERB = "norm"
FORMAT = 1
RECORD, PLAN, SEEN, CARD, CALIBRATION, LATENTS = (
    "norm.json",
    "plan.json",
    "seen.json",
    "card.md",
    "calibration.json",
    "latents.npz",
)
RUNS = COPIES
DECADE = 10
"""Years of age that controls are counted together in."""
RANGES = TableFile("ranges.tsv", ("channel", "region", "p05", "p25", "p50", "p75", "p95"), AGAIN)
CURVES_PNG, CURVES_SVG = "curves.png", "curves.svg"
CENTILES = (5, 25, 50, 75, 95)
CURVES = TableFile(
    "curves.tsv", ("channel", "region", "sex", "age_years", *(f"centile_{centile}" for centile in CENTILES)), AGAIN
)
"""Centiles of main regions in one channel, at every year of the controls' ages, women and men; missing without ages."""
VOXELS, REGIONS = "voxels", "regions"


@dataclass(frozen=True)
class RegionNorm:
    """The norm of one channel by region: names of its R regions, the model of their values, and the scores of controls."""

    names: tuple[str, ...]
    norm: ChannelNorm
    scores: ControlScores


@dataclass(frozen=True)
class LatentReference:
    """Where latents of controls lie, and their held-out distances [n], sorted."""

    model: DeviationModel
    distances: np.ndarray


@dataclass(frozen=True)
class NormRecord:
    """The content of norm.json.

    Attributes:
        settings: of the verb that fitted it, those that comparing and calibrating depend on.
        prepare: settings with which its scans were prepared.
        controls: the controls as the channels of the model code them; `measured` as region channels without a model do.
        covariates: sums over the controls' covariates.
        channels: channel -> part (voxels, regions) -> its record, and `names` of regions; the channels with maps first.
        num_voxels: V.
        who: numbers of controls by site, age and sex, for readers.
        anonymous: no score and no sum is of fewer than five people.
        runs: keys of the models in runs/, which are sealed by records of their own.
    """

    settings: dict[str, Any]
    prepare: dict[str, Any]
    controls: ControlGroup
    measured: ControlGroup
    covariates: CovariateSums
    channels: dict[str, dict[str, Any]]
    num_voxels: int
    who: list[dict[str, Any]] = field(default_factory=list)
    anonymous: bool = False
    runs: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """As JSON holds it."""
        sums = self.covariates
        return {
            "format": FORMAT,
            "settings": self.settings,
            "prepare": self.prepare,
            "controls": self.controls.to_dict(),
            "measured": self.measured.to_dict(),
            "covariates": {
                "groups": [list(group) for group in sums.groups],
                "num": sums.num.tolist(),
                "gram": sums.gram.tolist(),
                "age_range_years": [age if np.isfinite(age) else None for age in sums.age_range_years],
            },
            "channels": self.channels,
            "num_voxels": self.num_voxels,
            "who": self.who,
            "anonymous": self.anonymous,
            "runs": list(self.runs),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NormRecord:
        """From `to_dict`.

        Raises:
            ValueError, TypeError, KeyError: another kind of record.
        """
        if values["format"] != FORMAT:
            raise ValueError(f"format {values['format']!r}, this version reads {FORMAT}")
        of_people = values["covariates"]
        low, high = (np.nan if age is None else float(age) for age in of_people["age_range_years"])
        sums = CovariateSums(
            tuple(Group(str(site), bool(age), bool(sex)) for site, age, sex in of_people["groups"]),
            np.asarray(of_people["num"], dtype=np.int64),
            np.asarray(of_people["gram"], dtype=np.float64),
            (low, high),
        )
        return cls(
            dict(values["settings"]),
            dict(values["prepare"]),
            ControlGroup.from_dict(values["controls"]),
            ControlGroup.from_dict(values["measured"]),
            sums,
            {str(name): dict(parts) for name, parts in values["channels"].items()},
            int(values["num_voxels"]),
            list(values["who"]),
            bool(values["anonymous"]),
            tuple(str(key) for key in values["runs"]),
        )


def channel_files(folder: Path, channel: str, part: str) -> ChannelFiles:
    """Where a part of a channel of a norm lies."""
    return ChannelFiles(folder, channel, part)


def write_norm(
    folder: Path,
    record: NormRecord,
    seen: SeenBy,
    ranges: pd.DataFrame,
    calibration: Mapping[str, Any],
    latents: LatentReference | None,
) -> None:
    """Write what a norm has besides its channels, grid, models and card."""
    write_json(folder / RECORD, record.to_dict())
    write_json(folder / SEEN, seen.record())
    RANGES.write(folder, ranges)
    write_json(folder / CALIBRATION, calibration)
    if latents is not None:
        model = latents.model
        write_arrays(
            folder / LATENTS,
            {
                "mean": model.mean,
                "axes": model.axes,
                "precision": model.precision,
                "num_people": np.asarray(model.num_people),
                "distances": latents.distances,
            },
        )


@dataclass(frozen=True)
class NormFolder(ResultFolder):
    """A fitted norm, opened for judging."""

    named_by: ClassVar = "folder"

    @cached_property
    def record(self) -> NormRecord:
        """How people are coded and judged.

        Raises:
            UserError: missing or damaged.
        """
        path = self.folder / RECORD
        try:
            return NormRecord.from_dict(load_object(path, finite=True))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(path, error) from None

    @cached_property
    def plan(self) -> GridPlan:
        """The grid."""
        return read_plan(self.folder / PLAN)

    @cached_property
    def seen(self) -> SeenBy:
        """Everybody whom the norm or its models saw."""
        return SeenBy.read(self.folder / SEEN, AGAIN)

    @property
    def run_folders(self) -> tuple[Path, ...]:
        """The models that it was fitted with."""
        return copied_runs(self.folder)

    @property
    def map_channels(self) -> tuple[str, ...]:
        """Channels with maps."""
        return tuple(name for name, parts in self.record.channels.items() if VOXELS in parts)

    @property
    def region_channels(self) -> tuple[str, ...]:
        """All channels, each by region."""
        return tuple(self.record.channels)

    def group_of(self, channel: str) -> ControlGroup:
        """How a channel codes people."""
        return self.record.controls if channel in self.map_channels else self.record.measured

    def voxels(self, channel: str) -> ChannelNorm:
        """The norm of a channel's voxels.

        Raises:
            UserError: missing or damaged.
        """
        columns = len(self.group_of(channel).design.columns)
        files, of_part = channel_files(self.folder, channel, VOXELS), self.record.channels[channel][VOXELS]
        return files.read(of_part, self.record.num_voxels, columns)

    def regions(self, channel: str) -> RegionNorm:
        """The norm of a channel's regions.

        Raises:
            UserError: missing or damaged.
        """
        columns = len(self.group_of(channel).design.columns)
        files, parts = channel_files(self.folder, channel, REGIONS), self.record.channels[channel]
        names = tuple(str(name) for name in parts["names"])
        return RegionNorm(names, files.read(parts[REGIONS], len(names), columns), files.read_scores())

    def require_whole(self) -> None:
        """Read every file that judging needs, so that a damaged one is told before a scan is registered.

        Raises:
            UserError: missing or damaged.
        """
        if tuple(read(run).key for run in self.run_folders) != self.record.runs:
            raise UserError(f"{self.folder / RUNS}: not the models that the norm was fitted with; {AGAIN}.")
        for channel in self.region_channels:
            self.regions(channel)
        for channel in self.map_channels:
            self.voxels(channel)
        _ = self.latents, self.ranges, self.calibration

    @cached_property
    def latents(self) -> LatentReference | None:
        """Where latents of controls lie, None for models without comparable latents.

        Raises:
            UserError: damaged.
        """
        path = self.folder / LATENTS
        if not path.is_file():
            return None
        try:
            arrays = {name: require_finite(array, name) for name, array in read_arrays(path).items()}
            model = DeviationModel(arrays["mean"], arrays["axes"], arrays["precision"], int(arrays["num_people"]))
            if model.axes.ndim != 2 or model.axes.shape[1:] != model.mean.shape:
                raise ValueError("axes of another space")
            return LatentReference(model, arrays["distances"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(path, error) from None

    @cached_property
    def ranges(self) -> pd.DataFrame:
        """Centiles of the controls' deviations: a row per channel and region."""
        return RANGES.read(self.folder)

    @cached_property
    def card(self) -> str:
        """The text of the model card, "" where there is none."""
        path = self.folder / CARD
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""

    @property
    def curves(self) -> tuple[bytes, bytes] | None:
        """The picture of normative curves as PNG and SVG, None where there is none."""
        paths = [self.folder / name for name in (CURVES_PNG, CURVES_SVG)]
        return (paths[0].read_bytes(), paths[1].read_bytes()) if all(path.is_file() for path in paths) else None

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """How held-out controls behaved, by channel.

        Raises:
            UserError: missing or damaged.
        """
        path = self.folder / CALIBRATION
        try:
            return load_object(path)
        except (OSError, ValueError) as error:
            raise damaged(path, error) from None


def open_norm(folder: Path) -> NormFolder:
    """Open a fitted norm.

    Raises:
        UserError: not a finished norm, or damaged.
    """
    norm = NormFolder(_artefact(folder), folder.name)
    _ = norm.record, norm.plan, norm.seen
    return norm


def _artefact(folder: Path) -> Artefact:
    return read(folder, (VERB,))


def centiles(channel: str, names: Sequence[str], effects: np.ndarray) -> pd.DataFrame:
    """Rows of ranges.tsv of one channel: centiles of the controls' deviations [n, R]."""
    columns = {f"p{centile:02d}": np.percentile(effects, centile, axis=0) for centile in CENTILES}
    return pd.DataFrame({"channel": channel, "region": list(names), **columns})

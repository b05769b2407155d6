"""The norm of a panel of controls, channel by channel: voxels with maps, regions, and channels that exist by region only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import Calibrated, calibrate, describe_calibration
from gen3d.anomaly.calibration.outlying import (
    HEAVIEST_CLUSTER,
    LARGEST_REGION,
    allowed_sentence,
    describe_reference,
    outlying_sentences,
)
from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.compare import ChannelValues, regions, voxels
from gen3d.anomaly.control_scores import ControlScores, MapScores
from gen3d.anomaly.expectation import Ensemble
from gen3d.anomaly.settings import CalibratingVerb
from gen3d.cohort.channels import Channel
from gen3d.cohort.folder import Prepared
from gen3d.core import words as spell
from gen3d.core.progress import say, warn
from gen3d.models.run import Run


@dataclass(frozen=True)
class FittedRegions:
    """One channel by region: its regions, everybody's values [N, R] with their z, and the scores of the controls."""

    channel: str
    names: pd.DataFrame
    panel: Panel
    values: NDArray[np.float32]
    calibrated: Calibrated
    scores: ControlScores
    record: dict[str, Any]


@dataclass(frozen=True)
class FittedChannel:
    """One channel with maps: z [N, V] of everybody, and its regions, whose record and scores are of the voxels too."""

    voxels: Calibrated
    regions: FittedRegions


class Fitting:
    """Calibrates the channels of a comparison on the controls of a panel.

    Args:
        settings: the verb.
        prepared: the cohort.
        run: the model.
        panel: who calibrates, and who else has values.
        values: of everybody, row by row of the panel's table.
        channels: with maps.
    """

    def __init__(
        self,
        settings: CalibratingVerb,
        prepared: Prepared,
        run: Run | Ensemble,
        panel: Panel,
        values: ChannelValues,
        channels: list[Channel],
    ) -> None:
        self.settings, self.prepared, self.run, self.panel = settings, prepared, run, panel
        self.values, self.channels = values, channels
        # No model has removed the effect of the covariates from readings of regions, so the covariates always enter there.
        self.with_covariates = panel.with_terms(settings.covariates)

    @property
    def _subjects(self) -> list[str]:
        return self.panel.table["subject"].iloc[self.panel.calibration].astype(str).tolist()

    def channel(self, channel: Channel) -> FittedChannel:
        """Calibrate the maps and regions of a channel; z of the maps stays valid until the next channel."""
        say(f"calibrating {channel}")
        settings, mask = self.settings.calibration(self.prepared, self.run, channel), self.prepared.mask
        calibrated = calibrate(self.values.by_name[voxels(channel)], self.panel, settings, mask, self.values.scratch)
        maps = MapScores.of(self.panel, calibrated.z, mask, self.settings.cluster_z)
        by_region = self.values.by_name[regions(channel)]
        regional = calibrate(by_region, self.panel, self.settings.by_region(channel))
        scores = ControlScores.of(self.panel, regional.z, maps)
        references = {
            LARGEST_REGION: describe_reference(scores.largest, self._subjects),
            HEAVIEST_CLUSTER: describe_reference(scores.masses, self._subjects),
        }
        _warn_of_outlying(channel, references)
        record = describe_calibration(self.panel, calibrated, self.settings.q) | {"references": references}
        fitted = FittedRegions(channel, self.prepared.region_table, self.panel, by_region, regional, scores, record)
        return FittedChannel(calibrated, fitted)

    def measured(self) -> Iterator[FittedRegions]:
        """Calibrate the channels that exist by region only."""
        for name, of_regions in self.values.measured.items():
            values, panel = self.values.by_name[regions(name)], self.with_covariates
            calibrated = calibrate(values, panel, self.settings.by_region(name))
            scores = ControlScores.of(panel, calibrated.z)
            references = {LARGEST_REGION: describe_reference(scores.largest, self._subjects)}
            _warn_of_outlying(name, references)
            record = describe_calibration(panel, calibrated, self.settings.q) | {"references": references}
            yield FittedRegions(name, of_regions, panel, values, calibrated, scores, record)


def announce(panel: Panel) -> None:
    """Say who calibrates, with which terms, and which sites cannot be judged."""
    design = panel.design
    say(
        f"{len(panel.table)} scans; calibrating on {len(panel.calibration)} controls that the model has not seen, "
        f"aged {' to '.join(spell.number(age, 0) for age in design.age_range_years)}; terms: {', '.join(design.columns)}; "
        f"{allowed_sentence(len(panel.calibration))}"
    )
    if unknown := panel.unknown_sentence():
        warn(f"{unknown}.")
    for term, reason in design.dropped.items():
        say(f"  covariate {term} left out: {reason}")
    for site, scans in panel.table.iloc[panel.gated].groupby("site"):
        warn(f"{spell.count(len(scans), 'scan')} get no z map: {panel.gate.refusal(str(site))}.")
    scored_sites = panel.table.drop(panel.gated)["site"].unique() if len(design.site_counts) > 1 else ()
    for remark in filter(None, (panel.gate.remark(str(site)) for site in sorted(scored_sites))):
        say(f"  {remark}")


def _warn_of_outlying(channel: str, references: dict[str, dict[str, Any]]) -> None:
    for sentence in outlying_sentences(channel, references):
        warn(f"{sentence}.")

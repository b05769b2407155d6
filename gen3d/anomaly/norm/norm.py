"""`gen3d norm`: fit once what a new scan is judged by, anywhere, without any control's image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field, model_validator

from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.compare import compare
from gen3d.anomaly.expectation import Ensemble
from gen3d.anomaly.fitting import announce
from gen3d.anomaly.norm.card import write_card
from gen3d.anomaly.norm.fit import NormFit, size_mb
from gen3d.anomaly.settings import CalibratingVerb, joined, warn_of_trained_on
from gen3d.cohort.channels import Channel
from gen3d.cohort.folder import Prepared
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.work import Inputs
from gen3d.models.run import Run

Opened = tuple[Prepared, Run | Ensemble, Panel, list[Channel]]


class Norm(CalibratingVerb):
    """Calibrate a model on controls once, and keep all that judging a new scan needs, without an image of anybody.

    `gen3d anomaly norm=FOLDER` then judges scans at the price of their own registration. The controls are people of role
    calibration (of role train too, where the model is cross-fitted) whom the model has not seen; controls of role test only
    show how the norm behaves. The folder holds coefficients, sums over people and sorted scores, the models, and hashes of
    everybody who was seen; card.md says what a reader could learn from it.
    """

    anonymous: bool = Field(
        False,
        description="keep no score of a single person: every kept score stands for five people, sums of fewer are left out",
    )
    licence: str = Field("", description="licence or terms of the controls' scans, for the card")
    contact: str = Field("", description="whom to ask about the norm, for the card")

    @model_validator(mode="after")
    def _has_inputs(self) -> Norm:
        missing = [name for name, value in (("prepared", self.prepared), ("run", self.run_folders)) if value is None]
        if missing:
            raise ValueError(f"`{missing[0]}` is missing: give {missing[0]}=FOLDER.")
        return self

    def plan(self) -> list[str]:
        """The controls and channels of the norm, and what it needs."""
        prepared, run, panel, channels = self.open_inputs()
        num_voxels, num = int(prepared.mask.sum()), len(panel.table)
        gigabytes = 4e-9 * num_voxels * num * (len(channels) + 1)
        groups, columns = max(1, len(panel.gate.num_controls)), len(panel.design.columns)
        megabytes = 4e-6 * num_voxels * (columns + 2 + 6 * groups)
        return [
            f"calibrates {', '.join(channels)} on {len(panel.calibration)} controls that the {run.kind} of {joined(run)} has not "
            f"seen ({', '.join(panel.design.columns)})",
            *filter(None, [panel.unknown_sentence()]),
            f"grid {prepared.plan.describe()}",
            f"needs {gigabytes:.1f} GB of disk in {self.out} while it runs; memory does not depend on the number of people",
            f"writes about {megabytes:.0f} MB per channel with maps, and a copy of the model, to {self.out}",
        ]

    def reads(self) -> Inputs:
        """The scans and the models."""
        return {"prepared": self.prepared or (), "run": self.run_folders or ()}

    def open_inputs(self) -> Opened:
        """The controls, the models, and the available channels.

        Raises:
            UserError: too few controls, a model trained on patients, or inputs that do not fit together.
        """
        prepared, run, channels = self.open_cohort()
        return prepared, run, only_controls(self.panel_of(prepared, run)), channels

    def write(self, work: Work, opened: Opened) -> dict[str, Any]:
        """Write the norm folder."""
        prepared, run, panel, channels = opened
        announce(panel)
        warn_of_trained_on(prepared, run)
        values = compare(self.out, prepared, run, panel.table, self.comparison(channels), self.workers)
        fit = NormFit(self, prepared, run, panel, channels, self.anonymous)
        calibration = fit.write(values)
        fit.copy_runs()
        write_card(self.out, self.licence, self.contact)
        values.discard()
        held_out = {channel: record["calibration_held_out"] for channel, record in calibration.items()}
        return {
            "num_controls": len(panel.calibration),
            "num_test": len(panel.others),
            "channels": list(calibration),
            "share_beyond_1.96": {channel: held_out[channel]["share_beyond_1.96"] for channel in channels},
            "megabytes": round(size_mb(self.out), 1),
        }

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Say what the norm is, and what to type next."""
        say(
            f"{self.out}: {summary['num_controls']} controls, channels {', '.join(summary['channels'])}, "
            f"{summary['megabytes']:.0f} MB; read {self.out / 'card.md'}"
        )
        say(f"judge scans with it: gen3d anomaly norm={self.out} prepared=NEW out=maps")


def only_controls(panel: Panel) -> Panel:
    """The panel without scans of people who are no controls, and without further scans of controls."""
    roles = panel.table["role"].to_numpy()
    others = panel.others[roles[panel.others] == "test"]
    kept = np.sort(np.concatenate([panel.calibration, others]))
    nobody = panel.gated[:0]
    return replace(
        panel,
        table=panel.table.iloc[kept].reset_index(drop=True),
        calibration=np.searchsorted(kept, panel.calibration),
        repeats=nobody,
        others=np.searchsorted(kept, others),
        gated=nobody,
    )

"""`gen3d norm`: fit once what a new scan is judged by, anywhere, without any control's image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from gen3d.anomaly.calibration.panel import Panel
from gen3d.anomaly.compare import compare
from gen3d.anomaly.expectation import Ensemble
from gen3d.anomaly.fitting import announce
from gen3d.anomaly.norm.adapting import Adapting, open_adapting, plan_adapting, write_adapted
from gen3d.anomaly.norm.card import write_card
from gen3d.anomaly.norm.fit import NormFit, size_mb
from gen3d.anomaly.norm.folder import NormFolder
from gen3d.anomaly.norm.merging import merge, open_norms
from gen3d.anomaly.norm.parts import identity_of_parts, open_parts, share_of, write_part
from gen3d.anomaly.settings import CalibratingVerb, joined, warn_of_trained_on
from gen3d.cohort.channels import Channel
from gen3d.cohort.folder import Prepared
from gen3d.core import words as spell
from gen3d.core.config import Folder, Folders, key_of
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.work import Inputs
from gen3d.models.run import Run

Opened = tuple[Prepared, Run | Ensemble, Panel, list[Channel]] | list[NormFolder] | Adapting

FREE = {"out", "workers", "licence", "contact"}
"""Settings that every way to make a norm has."""


class Norm(CalibratingVerb):
    """Calibrate a model on controls once, and keep all that judging a new scan needs, without an image of anybody.

    `gen3d anomaly norm=FOLDER` then judges scans at the price of their own registration. The controls are people of role
    calibration (of role train too, where the model is cross-fitted) whom the model has not seen; controls of role test only
    show how the norm behaves. The folder holds coefficients, sums over people and sorted scores, the models, and hashes of
    everybody who was seen; card.md says what a reader could learn from it.
    """

    merge: Folders | None = Field(
        None, description="norms to put together by their sums, [a,b], in place of prepared= and run="
    )
    adapt: Folder | None = Field(
        None, description="norm to which the site of prepared= is added, from a few controls of its own"
    )
    part: str = Field("", description="compare only this share of the controls, 3/16: one job of an array")
    parts: Folders | None = Field(None, description="folders of all the jobs of an array, to fit the norm from")
    anonymous: bool = Field(
        False, description="keep no score of one person: every score stands for five people, sums of fewer are left out"
    )
    licence: str = Field("", description="licence or terms of the controls' scans, for the card")
    contact: str = Field("", description="whom to ask about the norm, for the card")

    @model_validator(mode="after")
    def _is_one_way(self) -> Norm:
        given = self.model_fields_set
        ways = [name for name in ("merge", "adapt", "part", "parts") if getattr(self, name)]
        if len(ways) > 1:
            raise ValueError(f"`{ways[0]}` and `{ways[1]}` do different things; give one of them.")
        if self.merge is not None or self.adapt is not None:
            free = FREE | ({"merge"} if self.merge is not None else {"adapt", "prepared", "q"})
            fixed = [key_of(type(self), name) for name in type(self).model_fields if name in given - free]
            if fixed:
                raise ValueError(f"`{fixed[0]}` has no meaning with {ways[0]}=, it is that of the norm; leave it out.")
        needed = () if self.merge is not None else ("prepared",) if self.adapt is not None else ("prepared", "run")
        for name in needed:
            if (self.run_folders if name == "run" else self.prepared) is None:
                raise ValueError(f"`{name}` is missing: give {name}=FOLDER.")
        if self.part:
            share_of(self.part, 0)
        return self

    def plan(self) -> list[str]:
        """The controls and channels of the norm, and what it needs."""
        opened = self.open_inputs()
        if isinstance(opened, list):
            num = sum(norm.record.covariates.num_people for norm in opened)
            return [f"merges {len(opened)} norms of {num} controls by their sums", f"writes {self.out}"]
        if isinstance(opened, Adapting):
            return plan_adapting(opened, self.out)
        prepared, run, panel, channels = opened
        num_voxels, num = int(prepared.mask.sum()), len(self._rows(panel))
        gigabytes = 4e-9 * num_voxels * num * (len(channels) + 1)
        disk = f"needs {gigabytes:.1f} GB of disk in {self.out} while it runs; memory does not depend on the number of people"
        if self.part:
            return [f"compares {num} of {len(panel.table)} controls (part {self.part})", disk, f"writes {self.out}"]
        groups, columns = max(1, len(panel.gate.num_controls)), len(panel.design.columns)
        megabytes = 4e-6 * num_voxels * (columns + 2 + 6 * groups)
        return [
            f"calibrates {', '.join(channels)} on {len(panel.calibration)} controls that the {run.kind} of {joined(run)} has not "
            f"seen ({', '.join(panel.design.columns)})",
            *filter(None, [panel.unknown_sentence()]),
            f"grid {prepared.plan.describe()}",
            disk,
            f"writes about {megabytes:.0f} MB per channel with maps, and a copy of the model, to {self.out}",
        ]

    def reads(self) -> Inputs:
        """The scans and the models, or the norms."""
        read = {"prepared": self.prepared, "run": self.run_folders, "merge": self.merge, "adapt": self.adapt}
        return {name: paths for name, paths in read.items() if paths is not None} | (
            {"parts": self.parts} if self.parts is not None else {}
        )

    def open_inputs(self) -> Opened:
        """The controls, the models, and the available channels; or the norms to merge.

        Raises:
            UserError: too few controls, a model trained on patients, or inputs that do not fit together.
        """
        if self.merge is not None:
            return open_norms(self.merge)
        if self.adapt is not None:
            return open_adapting(self.adapt, self.prepared or ())
        prepared, run, channels = self.open_cohort()
        return prepared, run, only_controls(self.panel_of(prepared, run)), channels

    def _rows(self, panel: Panel) -> NDArray[np.int64]:
        """Rows of the panel that are compared."""
        return share_of(self.part, len(panel.table)) if self.part else np.arange(len(panel.table))

    def write(self, work: Work, opened: Opened) -> dict[str, Any]:
        """Write the norm folder."""
        if isinstance(opened, list):
            record = merge(opened, self.out)
            write_card(self.out, self.licence, self.contact)
            return self._summary(record.covariates.num_people, list(record.channels))
        if isinstance(opened, Adapting):
            adapted = write_adapted(opened, self.out, self.q, self.workers)
            write_card(self.out, self.licence or opened.licence, self.contact or opened.contact)
            return self._summary(adapted.covariates.num_people, list(adapted.channels)) | {"sites": opened.sites}
        prepared, run, panel, channels = opened
        settings = self.comparison(channels)
        identity = identity_of_parts(prepared, run, settings)
        if self.part:
            table = panel.table.iloc[self._rows(panel)].reset_index(drop=True)
            values = compare(self.out, prepared, run, table, settings, self.workers)
            write_part(self.out, identity, table, values)
            values.discard()
            return {"num_compared": len(table)}
        announce(panel)
        warn_of_trained_on(prepared, run)
        keys = panel.table["key"].astype(str).tolist()
        known = open_parts(self.parts, identity, keys) if self.parts is not None else None
        values = compare(self.out, prepared, run, panel.table, settings, self.workers, known)
        fit = NormFit(self, prepared, run, panel, channels, self.anonymous)
        calibration = fit.write(values)
        fit.copy_runs()
        write_card(self.out, self.licence, self.contact)
        values.discard()
        held_out = {channel: calibration[channel]["calibration_held_out"] for channel in channels}
        beyond = {channel: figures["share_beyond_1.96"] for channel, figures in held_out.items()}
        return self._summary(len(panel.calibration), list(calibration)) | {"share_beyond_1.96": beyond}

    def _summary(self, num_controls: int, channels: list[str]) -> dict[str, Any]:
        return {"num_controls": num_controls, "channels": channels, "megabytes": round(size_mb(self.out), 1)}

    def conclude(self, summary: Mapping[str, Any]) -> None:
        """Say what the norm is, and what to type next."""
        if "num_compared" in summary:
            say(
                f"{self.out}: {summary['num_compared']} controls compared; fit the norm with parts=[all of these folders]"
            )
            return
        added = f" and {spell.listed(list(summary['sites']))} from its own controls" if "sites" in summary else ""
        say(
            f"{self.out}: {summary['num_controls']} controls{added}, channels {', '.join(summary['channels'])}, "
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

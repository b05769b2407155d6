"""`gen3d reconstruct`: what the model expects of every scan, as volumes, and how far the scan is from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from gen3d.cohort.channels import DATA_RANGE, T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.manifest import ROLES
from gen3d.cohort.seen import identities
from gen3d.core import words as spell
from gen3d.core.config import Folders
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track
from gen3d.core.work import FolderVerb, Inputs
from gen3d.imaging.similarity import mse, psnr, ssim
from gen3d.imaging.volume import read_stored, store
from gen3d.latents.folder import METRICS, volume_path
from gen3d.models.run import OneRun, Run, covariates_of, load_expecting, scan_seed

LOG_JACOBIAN_RANGE = 2.0
"""Data range that stands for the log-Jacobian in PSNR and SSIM: changes of a factor e either way."""


class Reconstruct(FolderVerb):
    """Write the model's expectation of every scan and a table of MSE, PSNR and SSIM inside the brain mask.

    Held-out people are reconstructed by the members that were not trained on them. Training people are reconstructed too,
    marked `seen`, to show the gap between both.
    """

    prepared: Folders = Field(description="prepared folders (prepare or simulate)")
    run_folder: OneRun = Field(alias="run", description="run folder (train)")
    samples: int = Field(0, ge=0, description="posterior draws averaged; 0 decodes the posterior mean")
    seed: int = Field(0, description="seed of the posterior draws")

    def plan(self) -> list[str]:
        """What would be reconstructed."""
        prepared = open_prepared(self.prepared)
        num = int((prepared.manifest["role"] != "excluded").sum())
        return [f"reconstructs {num} scans on {prepared.plan.describe()}", f"writes {self.out}"]

    def reads(self) -> Inputs:
        """The scans and the model."""
        return {"prepared": self.prepared, "run": self.run_folder}

    def open_inputs(self) -> tuple[Prepared, Run]:
        """The scans, and a run that was trained on such scans."""
        prepared, run = open_prepared(self.prepared), load_expecting(self.run_folder)
        run.require(prepared)
        return prepared, run

    def write(self, work: Work, opened: tuple[Prepared, Run]) -> dict[str, Any]:
        """Write the reconstructed folder: volumes/, metrics.tsv."""
        prepared, run = opened
        table = prepared.manifest[prepared.manifest["role"] != "excluded"].reset_index(drop=True)
        rows: list[dict[str, Any]] = []
        people = identities(table)
        for i in track(range(len(table)), "reconstructing"):
            row = table.iloc[i]
            paths = {channel: volume_path(self.out, row["key"], channel) for channel in run.channels}
            if not all(path.is_file() for path in paths.values()):
                volume = prepared.load([row["key"]], run.channels)[0]
                seed, covariates = scan_seed(self.seed, row["key"]), covariates_of(run, row)
                expectation = run.expect(volume, people[i], covariates, self.samples, seed, allow_seen=True)
                assert expectation is not None
                for channel, expected in zip(run.channels, expectation[0], strict=True):
                    store(paths[channel], expected, prepared.plan.matrix)
            seen = not run.can_judge(people[i])
            rows += [_measure(prepared, row, channel, path, seen) for channel, path in paths.items()]
        metrics = pd.DataFrame(rows)
        METRICS.write(self.out, metrics)
        return {"num_scans": len(table)} | _by_role(metrics)


def _measure(prepared: Prepared, row: pd.Series, channel: str, path: Path, seen: bool) -> dict[str, Any]:
    observed, expected = prepared.volume(row["key"], channel), read_stored(path)
    data_range = DATA_RANGE if channel == T1W else LOG_JACOBIAN_RANGE
    return {
        "key": row["key"],
        "role": row["role"],
        "diagnosis": row["diagnosis"],
        "channel": channel,
        "seen": seen,
        "mse": mse(observed, expected, prepared.mask),
        "psnr": psnr(observed, expected, data_range, prepared.mask),
        "ssim": ssim(observed, expected, data_range, prepared.mask),
    }


def _by_role(metrics: pd.DataFrame) -> dict[str, Any]:
    """Mean PSNR and SSIM by role, printed and kept as the folder's summary."""
    summary: dict[str, Any] = {}
    for channel, of_channel in metrics.groupby("channel"):
        for role in [role for role in ROLES if (of_channel["role"] == role).any()]:
            part = of_channel[of_channel["role"] == role]
            figures = {"n": len(part), "psnr": float(part["psnr"].mean()), "ssim": float(part["ssim"].mean())}
            summary[f"{channel} {role}"] = figures
            text = f"PSNR {spell.number(figures['psnr'])} dB, SSIM {spell.number(figures['ssim'], 3)}"
            say(f"{channel}, {role} (n {figures['n']}): {text}")
    return summary

"""`gen3d encode`: the latent vector of every scan, as one array and one table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gen3d.artefact import begin, write_json
from gen3d.config import Folders, Verb
from gen3d.data.prepared import open_prepared
from gen3d.data.structures import with_structures
from gen3d.errors import UserError
from gen3d.infer.compare import WorkingArrays, covariates_of, open_latents
from gen3d.infer.tables import write_table
from gen3d.models.run import OneRun, load_run
from gen3d.progress import say, track
from gen3d.train.latents import ARRAY, MIRRORED, SHAPE, TABLE


class Encode(Verb):
    """Encode every scan that was not excluded: the posterior mean of the latent, flattened.

    Writes latents.npy [scans, dimensions] float32 and latents.tsv, whose rows are the same scans with their row of the
    cohort table, the volumes of brain structures (ml) where there is a deformation channel, and `seen`: whether the model
    was trained on that person; latent.json has the shape of a latent and the run that made it. The latents of a cross-fitted
    run come from different models and cannot be compared, so such a run is refused.
    """

    prepared: Folders = Field(description="prepared folders (prepare or simulate)")
    run_folder: OneRun = Field(alias="run", description="run folder (train)")
    mirrored: bool = Field(
        False, description="also encode every scan mirrored left to right: a diffusion model can learn from both"
    )

    def plan(self) -> list[str]:
        """What would be encoded."""
        prepared, run = open_prepared(self.prepared), load_run(self.run_folder)
        num = int((prepared.manifest["role"] != "excluded").sum())
        return [f"encodes {num} scans with the {run.kind} of {self.run_folder}", f"writes {self.out}"]

    def run(self) -> Path:
        """Write the latents folder."""
        work = begin(self, "encode", {"prepared": self.prepared, "run": self.run_folder})
        if work.finished:
            say(f"{self.out}: already done.")
            return self.out
        prepared, run = open_prepared(self.prepared), load_run(self.run_folder)
        run.require(prepared)
        if not run.comparable_latents:
            raise UserError(
                f"{self.run_folder}: a {run.kind} of {run.num_members} members has no latent space that all scans share; "
                "encode with a run trained with cross_fit=1 (and a kind that has latents: vae or pca)."
            )
        table = prepared.manifest[prepared.manifest["role"] != "excluded"].reset_index(drop=True)
        table["seen"] = [not run.blind_members(subject) for subject in table["subject"]]
        arrays = WorkingArrays(self.out, len(table))
        latents = open_latents(arrays, run, prepared, table)
        mirrored = arrays.open("mirrored", latents.shape[1:]) if self.mirrored else None
        for i in track(arrays.missing(), "encoding"):
            row = table.iloc[i]
            volume = prepared.load([row["key"]], run.channels)[0]
            latents[i] = run.encode(volume, row["subject"], covariates_of(run, row))
            if mirrored is not None:
                mirrored[i] = run.encode(volume[:, ::-1], row["subject"], covariates_of(run, row))
            arrays.mark(i)
        _refuse_non_finite(latents, list(table["key"]))
        np.save(self.out / ARRAY, np.asarray(latents))
        if mirrored is not None:
            np.save(self.out / MIRRORED, np.asarray(mirrored))
        write_table(self.out / TABLE, with_structures(prepared, table).drop(columns=["folder"]))
        write_json(
            self.out / SHAPE,
            {"shape": run.latent_shape, "kind": run.kind, "run_key": run.artefact.key, "channels": run.channels},
        )
        arrays.discard()
        num_dimensions = latents.shape[1]
        work.finish({"num_scans": len(table), "num_dimensions": num_dimensions})
        say(f"{self.out}: {len(table)} scans, {num_dimensions} dimensions.")
        return self.out


def _refuse_non_finite(latents: NDArray[np.float32], keys: list[str]) -> None:
    bad = [key for key, latent in zip(keys, latents, strict=True) if not np.isfinite(latent).all()]
    if bad:
        raise UserError(f"{', '.join(bad[:5])}: the latent is NaN or infinite; the run is damaged, train it again.")

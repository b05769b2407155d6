"""`gen3d encode`: the latent vector of every scan, as one array and one table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from gen3d.cohort.folder import Prepared, generator_seen, open_prepared
from gen3d.cohort.latents_folder import write_latents
from gen3d.cohort.structures import with_structures
from gen3d.core.config import Folders
from gen3d.core.disk import size_in_words
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track
from gen3d.core.work import FolderVerb, Inputs
from gen3d.core.work_arrays import WorkingArrays
from gen3d.models.run import OneRun, Run, covariates_of, load_expecting


class Encode(FolderVerb):
    """Encode every scan that was not excluded: the posterior mean of the latent, flattened.

    Writes latents.npy [scans, dimensions] float32 and latents.tsv, whose rows are the same scans with their row of the
    cohort table, the volumes of brain structures (ml) where there is a deformation channel, and `seen`: whether the model
    was trained on that person (every member of it, in a family). latent.json has the shape of a latent and its run, seen.json
    the hashes of all people that the model, or the generator of synthetic scans, saw. The members of a cross-fitted run have
    separate spaces: latents.npy is [members, scans, dimensions] then, and `gen3d classify` tests each person in the space of a
    member that never saw them.
    """

    prepared: Folders = Field(description="prepared folders (prepare or simulate)")
    run_folder: OneRun = Field(alias="run", description="run folder (train)")
    mirrored: bool = Field(
        False, description="also encode every scan mirrored left to right: a diffusion model can learn from both"
    )

    def plan(self) -> list[str]:
        """What would be encoded."""
        prepared, run = open_prepared(self.prepared), load_expecting(self.run_folder)
        num = int((prepared.manifest["role"] != "excluded").sum())
        sides = (num, run.num_members, *(run.latent_shape if run.has_latent else (0,)), 1 + self.mirrored)
        room = size_in_words(4 * math.prod(map(int, sides)))
        return [
            f"encodes {num} scans with the {run.kind} of {self.run_folder}",
            f"writes {room} of latents to {self.out}, and as much while it runs",
        ]

    def reads(self) -> Inputs:
        """The scans and the model."""
        return {"prepared": self.prepared, "run": self.run_folder}

    def open_inputs(self) -> tuple[Prepared, Run]:
        """The scans, and a run that has latents of such scans."""
        prepared, run = open_prepared(self.prepared), load_expecting(self.run_folder)
        run.require(prepared)
        self._refuse_without_latent(run)
        return prepared, run

    def write(self, work: Work, opened: tuple[Prepared, Run]) -> dict[str, Any]:
        """Write the latents folder."""
        prepared, run = opened
        table = prepared.manifest[prepared.manifest["role"] != "excluded"].reset_index(drop=True)
        table["seen"] = run.seen.by_all(table)
        arrays = WorkingArrays(self.out, len(table))
        sides = (run.num_members, int(np.prod(run.latent_shape)))
        latents = arrays.open("latents", sides)
        mirrored = arrays.open("mirrored", sides) if self.mirrored else None
        for i in track(arrays.missing(), "encoding"):
            row = table.iloc[i]
            volume = prepared.load([row["key"]], run.channels)[0]
            for member in range(run.num_members):
                person = (row["subject"], covariates_of(run, row), member)
                latents[i, member] = run.encode(volume, *person)
                if mirrored is not None:
                    mirrored[i, member] = run.encode(volume[:, ::-1], *person)
            arrays.mark(i)
        _refuse_non_finite(latents, list(table["key"]))
        source = {"shape": run.latent_shape, "kind": run.kind, "run_key": run.artefact.key, "channels": run.channels}
        scans = with_structures(prepared, table).drop(columns=["folder"])
        both = (_by_member(latents), None if mirrored is None else _by_member(mirrored))
        seen = run.seen.of_kind(run.kind).joined(generator_seen(prepared))
        write_latents(self.out, both[0], scans, source, seen, both[1])
        arrays.discard()
        num_dimensions = sides[1]
        each = f" in each of {run.num_members} spaces" if run.num_members > 1 else ""
        say(f"{self.out}: {len(table)} scans, {num_dimensions} dimensions{each}.")
        return {"num_scans": len(table), "num_dimensions": num_dimensions}

    def _refuse_without_latent(self, run: Run) -> None:
        if not run.has_latent:
            raise UserError(
                f"{self.run_folder}: a {run.kind} model has no latent space; encode with a run of kind vae or pca."
            )
        if self.mirrored and run.num_members > 1:
            raise UserError(
                f"{self.run_folder}: mirrored=true is for a run with cross_fit=1, to train a diffusion model."
            )


def _by_member(latents: NDArray[np.float32]) -> NDArray[np.float32]:
    """[scans, members, d] as it is stored: [scans, d] of one member, else [members, scans, d]."""
    return np.asarray(latents[:, 0] if latents.shape[1] == 1 else np.moveaxis(latents, 1, 0))


def _refuse_non_finite(latents: NDArray[np.float32], keys: list[str]) -> None:
    bad = [key for key, latent in zip(keys, latents, strict=True) if not np.isfinite(latent).all()]
    if bad:
        raise UserError(f"{', '.join(bad[:5])}: the latent is NaN or infinite; the run is damaged, train it again.")

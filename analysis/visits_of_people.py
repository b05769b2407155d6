"""Simulated cohorts of people who come several times, and folders with some of their visits, shared by analyses of forecasts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field
from slabs import link_slabs

from gen3d.cohort.manifest import read_manifest, write_manifest
from gen3d.core.config import Folder, Verb
from gen3d.core.output_folder import begin
from gen3d.simulate.simulate import Simulate

Keys = dict[str, Any]
VISITS = (0.0, 1.2, 3.0)
SITE_SEED = 7
GROUPS = {"mci": {"kind": "mci", "converting": 0.5}, "ad": {"kind": "ad"}}


def simulated(out: Path, people: int, seed: int, spacing_mm: float, workers: int, progression: float = 1.0) -> Path:
    """A third each of controls, MCI (half of them converting) and AD, at the same two sites whatever the seed, three visits."""
    conditions = {name: {**keys, "count": people // 3} for name, keys in GROUPS.items()}
    keys: Keys = {
        "out": out,
        "subjects": people,
        "seed": seed,
        "sites": 2,
        "site_seed": SITE_SEED,
        "spacing_mm": spacing_mm,
        "visits": VISITS,
        "progression": progression,
        "conditions": conditions,
        "figures": False,
        "workers": workers,
    }
    return Simulate.model_validate(keys).run()


class SomeVisits(Verb):
    """The first visits of everybody, or every visit with the times of each person's visits in another order."""

    prepared: Folder = Field(description="folder of simulate or prepare")
    first: int = Field(0, ge=0, description="how many visits of each person, the first ones; 0: all")
    times: Literal["true", "permuted"] = Field(
        "true", description="permuted: the scans of a person change places at random, so that times say nothing"
    )
    seed: int = Field(0, description="seed of the permutation")

    def run(self) -> Path:
        """Link the volumes and write the other table; a finished folder is left alone."""
        work = begin(self, "prepare", {"prepared": self.prepared})
        if work.finished:
            return self.out
        table = link_slabs(self.prepared, self.out)
        places = table.groupby("subject", sort=False).cumcount()
        if self.times == "permuted":
            table = self._permuted(table)
        kept = table[places < self.first] if self.first else table
        write_manifest(self.out, kept)
        work.finish({"num_scans": len(kept)})
        return self.out

    def _permuted(self, table: pd.DataFrame) -> pd.DataFrame:
        """Every row with the scan of another visit of the same person, or its own, at random."""
        generator = np.random.default_rng(self.seed)
        source = table.index.to_numpy().copy()
        for _, rows in table.groupby("subject", sort=False):
            source[rows.index] = generator.permutation(rows.index)
        for row, other in enumerate(source):
            key, taken = table["key"].iloc[row], table["key"].iloc[other]
            for path in sorted((self.prepared / "volumes").glob(f"{taken}_*.nii")):
                target = self.out / "volumes" / path.name.replace(taken, key)
                target.unlink(missing_ok=True)
                os.link(path, target)
        columns = [name for name in ("scan_hash",) if name in table]
        return table.assign(**{name: table[name].to_numpy()[source] for name in columns})


def mean_years(folder: Path) -> float:
    """Mean years from the first to the last visit."""
    ages = read_manifest(folder).groupby("subject")["age_years"]
    return float((ages.max() - ages.min()).mean())

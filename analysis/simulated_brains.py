"""Simulated whole-brain cohorts whose truth is known, and random labels of their people, shared by the analyses of heads.

Graded AD-like atrophy; two scanners; two subtypes that are planted mildly, clearly and grossly. The seed of `scanners` is the
one of 47 to 50 whose two scanners differ most in contrast; `extreme_scanners` are as unlike as the simulation allows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field
from slabs import link_slabs

from gen3d.cohort.manifest import Split, assign_roles, write_manifest
from gen3d.core.config import Folder, Verb
from gen3d.core.output_folder import begin
from gen3d.simulate.simulate import Simulate

Keys = dict[str, Any]

NUM_NULL, NUM_DRAWS = 40, 10
FROM_ONE_SITE = 0.8
SEVERITIES = (0.25, 0.5, 1.0, 2.0)
CEREBELLAR = {"cerebellar cortex": -15.0, "cerebellar white matter": -15.0, "brain-stem": -5.0, "thalamus": 8.0}
LIMBIC = {"hippocampus": -20.0, "amygdala": -20.0, "entorhinal": -20.0, "parahippocampal": -15.0}


def subtypes(count: int, severity: tuple[float, ...]) -> Keys:
    """Medial temporal loss, the same in everybody; and what Down syndrome does (small cerebellum, large deep nuclei), which
    varies between people, the more the higher the severity. Nobody is without either."""
    return {
        "temporal": {"kind": "atrophy", "count": count, "severity": severity, "changes": LIMBIC},
        "cerebellar": {"kind": "ds", "count": count, "severity": severity},
    }


COHORTS: dict[str, Keys] = {
    "severity": {
        "seed": 41,
        "subjects": 104,
        "sites": 1,
        "conditions": {"ad": {"kind": "ad", "count": 56, "severity": SEVERITIES}},
    },
    "confounded": {
        "seed": 42,
        "subjects": 76,
        "sites": 2,
        "site_strength": 2.0,
        "conditions": {"ad": {"kind": "ad", "count": 28}},
    },
    "scanners": {"seed": 48, "subjects": 48, "sites": 2, "site_strength": 2.0, "conditions": {}},
    "extreme_scanners": {"seed": 48, "subjects": 48, "sites": 2, "site_strength": 3.0, "conditions": {}},
    "subtypes": {"seed": 43, "subjects": 80, "sites": 1, "conditions": subtypes(40, (1.0, 2.0))},
    "gross_subtypes": {"seed": 45, "subjects": 48, "sites": 1, "conditions": subtypes(24, (3.0,))},
    "compact_subtypes": {
        "seed": 46,
        "subjects": 48,
        "sites": 1,
        "conditions": {
            "temporal": {"kind": "atrophy", "count": 24, "severity": (3.0,), "changes": LIMBIC},
            "cerebellar": {"kind": "atrophy", "count": 24, "severity": (3.0,), "changes": CEREBELLAR},
        },
    },
}


class Chosen(Verb):
    """A simulated cohort restricted to the chosen people, who get role `train`."""

    prepared: Folder = Field(description="folder of simulate")
    people: tuple[str, ...] = Field((), description="subjects; none: everybody")

    def run(self) -> Path:
        """Link the volumes and write the other table; a finished folder is left alone."""
        work = begin(self, "prepare", {"prepared": self.prepared})
        if work.finished:
            return self.out
        table = self.changed(link_slabs(self.prepared, self.out))
        others = table.loc[~table["subject"].isin(self.people), "key"].tolist() if self.people else []
        split = Split(train=1.0, calibration=0.0, test=0.0)
        write_manifest(self.out, assign_roles(table, split, controls=("all",), excluded=others))
        work.finish({"num_scans": len(table) - len(others)})
        return self.out

    def changed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table, unchanged; subclasses change it."""
        return table


class OneClinicEach(Chosen):
    """The same, with one clinic per condition as its site."""

    def changed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The table with the clinics."""
        return table.assign(site="clinic of " + table["condition"])


def simulated(name: str, out: Path, workers: int) -> Path:
    """The cohort at 4 mm, simulated if it is not finished."""
    keys = {"out": out / "cohorts" / name, "spacing_mm": 4.0, "figures": False, "workers": workers}
    return Simulate.model_validate(keys | COHORTS[name]).run()


def severity_labels(people: pd.DataFrame) -> pd.DataFrame:
    """control or AD by severity; and controls labelled A or B, half each, at random."""
    labels = people[["subject"]].copy()
    control = (people["diagnosis"] == "control").to_numpy()
    for severity in SEVERITIES:
        ill = np.isclose(people["severity"], severity) & ~control
        labels[f"severity_{severity:g}"] = np.select([control, ill], ["control", "AD"], "")
    for draw in range(NUM_NULL):
        dealt = np.random.default_rng([41, draw]).permutation(np.arange(int(control.sum())) % 2)
        column = np.full(len(people), "", dtype=object)
        column[control] = np.where(dealt == 1, "B", "A")
        labels[f"null_{draw}"] = column
    return labels


def confounded_labels(people: pd.DataFrame) -> pd.DataFrame:
    """controls or cases, 80 % of the cases from the first site and 80 % of the controls from the other; drawn at random.

    nothing_k: cases are controls relabelled. effect_k: cases are AD-like. balanced: everybody, AD-like in equal shares
    from both sites.
    """
    labels = people[["subject"]].copy()
    control = (people["diagnosis"] == "control").to_numpy()
    first = (people["site"] == sorted(set(people["site"]))[0]).to_numpy()
    labels["balanced"] = np.where(control, "control", "case")
    for draw in range(NUM_DRAWS):
        generator = np.random.default_rng([42, draw])
        many = first if draw % 2 == 0 else ~first  # neither scanner is always that of the cases
        called = np.full(len(people), "", dtype=object)
        called[control] = "control"
        called[_share(control & many, FROM_ONE_SITE, generator)] = "case"
        called[_share(control & ~many, 1 - FROM_ONE_SITE, generator)] = "case"
        labels[f"nothing_{draw}"] = called
        called = np.full(len(people), "", dtype=object)
        called[_share(control & many, 1 - FROM_ONE_SITE, generator)] = "control"
        called[_share(control & ~many, FROM_ONE_SITE, generator)] = "control"
        called[~control & many] = "case"
        called[_share(~control & ~many, (1 - FROM_ONE_SITE) / FROM_ONE_SITE, generator)] = "case"
        labels[f"effect_{draw}"] = called
    return labels


def _share(chosen: NDArray[np.bool_], share: float, generator: np.random.Generator) -> NDArray[np.int64]:
    rows = np.flatnonzero(chosen)
    return np.asarray(generator.permutation(rows)[: round(share * len(rows))])


def written(labels: pd.DataFrame, path: Path) -> Path:
    """Write the table of labels that `classify` joins; deterministic for a cohort."""
    path.parent.mkdir(parents=True, exist_ok=True)
    labels.to_csv(path, sep="\t", index=False)
    return path

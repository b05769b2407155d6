"""A request that was found good, the run that answers it, and what is said of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d import __version__
from gen3d.anomaly.channels import T1W
from gen3d.cohort.structures import LOG_JACOBIAN
from gen3d.imaging.volume import read_stored
from gen3d.infer.gate import Gate
from gen3d.infer.request import Request
from gen3d.infer.sample_picture import draw_samples
from gen3d.infer.synthetic import Atlas, Dataset, subject_of, writing
from gen3d.models.run import Run

PICTURE = "figures/samples.png"
NUM_PICTURED = 8
REQUEST_SETTINGS = ("count", "condition", "table", "unnamed", "extrapolate")
DRAWING_SETTINGS = ("seed", "sampler", "steps", "guidance", "per_call", "precision", "decode_tile")


@dataclass(frozen=True)
class Job:
    """The run, the request, the dataset that the answer becomes, and the gate that it has to pass."""

    run: Run
    request: Request
    dataset: Dataset
    gate: Gate

    @property
    def samples(self) -> range:
        """Numbers of the samples."""
        return range(self.request.count)

    @cached_property
    def requested(self) -> pd.DataFrame:
        """Conditions of all samples."""
        return self.request.draw(self.samples)

    @cached_property
    def atlas(self) -> Atlas:
        """The regions of the people that the model learned from, so that synthetic and real structures are the same."""
        reference = self.gate.reference
        return Atlas.on(self.run.plan) if reference is None else Atlas(reference.regions, reference.region_table)

    def coded(self, samples: Sequence[int]) -> NDArray[np.float32]:
        """Conditions of some samples as the network is given them, [samples, p]."""
        return self.request.coding.encode(self.request.draw(samples))

    def draw_picture(self) -> None:
        """Write the picture of the first scans."""
        shown = list(self.samples)[:NUM_PICTURED]
        volumes = [read_stored(self.dataset.path(sample, T1W)) for sample in shown]
        names = [f"{subject_of(sample)}  {_person(self.requested.iloc[sample])}" for sample in shown]
        title = f"{self.run.folder.name}: the first {len(shown)} of {self.request.count}"
        path = self.dataset.out / PICTURE
        with writing(self.dataset.out):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(draw_samples(volumes, names, title, self.dataset.plan))

    def provenance(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """How every scan came to be; `settings` are those of the verb."""
        run = self.run
        drawn = "as the model drew it" if LOG_JACOBIAN in self.dataset.plan.channels else "none"
        return {
            "gen3d": __version__,
            "run": {
                "folder": str(run.folder),
                "key": run.artefact.key,
                "kind": run.kind,
                "gen3d": run.artefact.version,
            },
            "request": {name: settings[name] for name in REQUEST_SETTINGS if name in settings}
            | {"count": self.request.count},
            "conditions": self.request.coding.to_dict(),
            "outside_the_trained_range": self.request.outside,
            "training_people_who_fit": self.request.num_fitting(),
            "drawing": {name: settings[name] for name in DRAWING_SETTINGS} | {"device": run.device.type},
            "random_numbers": "numpy SeedSequence([seed, sample, purpose, step]); purpose 0 conditions, 1 first noise, "
            "2 fresh noise of ancestral samplers",
            "log_jacobian": "measured by registration of the scan" if settings["measure"] else drawn,
            "audit": self.gate.report(self.dataset),
            "waiver": self.gate.waiver,
        }


def _person(conditions: pd.Series) -> str:
    """The conditions of one sample in few words."""
    known = conditions.dropna().items()
    words = [f"{str(name).replace('_', ' ')} {v:.3g}" if isinstance(v, float) else str(v) for name, v in known]
    return ", ".join(words)

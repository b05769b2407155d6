"""Several runs used as one: the expectation of a person is the mean of the expectations of the runs.

A PCA copies part of a lesion and blurs everything else, a restorer leaves most voxels as they are. They err in different
places, and the mean of both shows lesions of every size at least as well as either (analysis/04_which_model.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import PersonHashes
from gen3d.core.errors import UserError
from gen3d.maths.design import Design
from gen3d.models.run import Float, Run, load_expecting


@dataclass(frozen=True)
class Ensemble:
    """Two or more runs on one plan that learned the same channels, with the interface of a `Run` that a comparison needs.

    The runs have different latent spaces, so an ensemble has no latents.
    """

    runs: tuple[Run, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        """The runs' folders."""
        return tuple(run.folder for run in self.runs)

    @property
    def kind(self) -> str:
        """The kinds of the models, joined."""
        return " and ".join(run.kind for run in self.runs)

    @property
    def channels(self) -> tuple[str, ...]:
        """The channels that all runs learned."""
        return self.runs[0].channels

    @property
    def design(self) -> Design:
        """The first run's design; if `predicts_out_of_sample`, its leverage widens the deviation."""
        return self.runs[0].design

    @property
    def variance_floor(self) -> float:
        """The mean of the floors of the models, because the residual is the mean of theirs; see analysis/04_which_model.md."""
        return float(np.mean([run.variance_floor for run in self.runs]))

    @property
    def predicts_out_of_sample(self) -> bool:
        """Whether every run does; a run without covariates would leave their effect in the mean."""
        return all(run.predicts_out_of_sample for run in self.runs)

    def can_judge(self, person: str | PersonHashes) -> bool:
        """Whether each run has a member that was not trained on this person."""
        return all(run.can_judge(person) for run in self.runs)

    def covariates_of(self, age_years: Any, sex: Any, site: Any) -> NDArray[np.float64]:
        """Rows of the designs of all runs side by side, [n, sum of p]."""
        return np.concatenate([run.covariates_of(age_years, sex, site) for run in self.runs], axis=1)

    def expect(
        self,
        volume: Float,
        person: str | PersonHashes,
        covariates: NDArray[np.float64],
        samples: int = 0,
        seed: int = 0,
    ) -> tuple[Float, None] | None:
        """The mean over runs of `Run.expect`.

        Args:
            volume: [C, X, Y, Z] in stored units, channels in the order of `channels`.
            person: of the volume: an id, or an identity with the person's scans.
            covariates: the person's row of `covariates_of`, [sum of p].
            samples: posterior draws per member; 0 decodes the posterior mean.
            seed: of those draws.

        Returns:
            mean [C, X, Y, Z] and no standard deviation, or None if every member of a run was trained on this person.
        """
        ends = np.cumsum([run.num_covariates for run in self.runs])[:-1]
        means: list[Float] = []
        for run, of_run in zip(self.runs, np.split(covariates, ends), strict=True):
            expectation = run.expect(volume, person, of_run, samples, seed)
            if expectation is None:
                return None
            means.append(expectation[0])
        return np.mean(means, axis=0, dtype=np.float32), None

    def require(self, prepared: Prepared) -> None:
        """Refuse a prepared cohort that does not fit one of the runs: another plan, or missing channels."""
        for run in self.runs:
            run.require(prepared)


def load_runs(folders: Sequence[Path]) -> Run | Ensemble:
    """Open one run, or several that are used as one.

    Raises:
        UserError: a folder that is no finished run, a run given twice, or runs of different plans or channels.
    """
    runs = tuple(load_expecting(folder) for folder in folders)
    first = runs[0]
    for number, run in enumerate(runs):
        same = next((other for other in runs[:number] if other.artefact.key == run.artefact.key), None)
        if same is not None:
            also = "" if same.folder == run.folder else f" (it holds the same run as {same.folder})"
            raise UserError(f"{run.folder}: given twice in run={also}; name each run once.")
        if run.plan.key != first.plan.key:
            raise UserError(
                f"{run.folder}: trained on {run.plan.describe()}, but {first.folder} on {first.plan.describe()} "
                f"({first.plan.difference(run.plan)}); give runs that were trained on one prepared cohort."
            )
        if run.channels != first.channels:
            raise UserError(
                f"{run.folder}: learned {', '.join(run.channels)}, but {first.folder} learned "
                f"{', '.join(first.channels)}; train both with the same channels=, or give one run."
            )
    return first if len(runs) == 1 else Ensemble(runs)

"""A trained chain of transitions, and the floors that it has to beat, each as a function of one scan."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.seen import SeenBy
from gen3d.core.errors import UserError
from gen3d.imaging.volume import SLOPE
from gen3d.models.run import Run, load_run
from gen3d.models.transition.framing import Frame, Pictures
from gen3d.models.transition.transition import NUM_QUANTILES, Transition, TransitionConfig
from gen3d.stages.folder import CHAIN, COPY, HISTOGRAM, SHIFT


@dataclass(frozen=True)
class Chain:
    """The generators of a run by fold and step; a person is judged by the first fold that never saw the person."""

    run: Run

    @classmethod
    def open(cls, folder: Path, device: str) -> Chain:
        """The chain of a finished run.

        Raises:
            UserError: not a finished run of kind `transition`.
        """
        run = load_run(folder, device)
        if not isinstance(run.model_config, TransitionConfig):
            raise UserError(
                f"{folder}: a run of kind {run.kind} has no transitions; give one of kind transition "
                "(gen3d train configs/train/transition.yaml)."
            )
        return cls(run)

    @property
    def config(self) -> TransitionConfig:
        """Its settings."""
        return cast(TransitionConfig, self.run.model_config)

    @property
    def stages(self) -> tuple[str, ...]:
        """The stages in order."""
        return self.config.classes

    @property
    def num_steps(self) -> int:
        """Generators of one fold."""
        return len(self.stages) - 1

    @cached_property
    def frame(self) -> Frame:
        """What is seen of a scan."""
        return self.config.frame(self.run.plan)

    @cached_property
    def seen(self) -> SeenBy:
        """The people that each fold saw."""
        return SeenBy(self.run.seen.members[:: self.num_steps])

    def blind(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Whether a fold never saw the person of a row, [folds, n]."""
        return self.seen.blind(table)

    def generator(self, fold: int, step: int) -> Transition:
        """From stage `step` to the next one."""
        return cast(Transition, self.run.member(fold * self.num_steps + step))

    def scan(self, prepared: Prepared, key: str) -> tuple[Pictures, Pictures]:
        """The pictures of a scan and the brain in each, [S, *padded]."""
        pictures = self.frame.pictures(prepared.stored(key, self.run.channels[0])) * np.float32(SLOPE)
        return pictures, self.frame.masks(pictures, prepared.mask if self.config.mask == "prepared" else None)

    def along(self, fold: int, start: int, pictures: Pictures) -> list[Pictures]:
        """A scan at stage `start` at every later stage, each made from the one before."""
        made = []
        for step in range(start, self.num_steps):
            pictures = self.generator(fold, step).translate(pictures)
            made.append(pictures)
        return made

    def floors(self, fold: int, start: int, stage: int, pictures: Pictures, masks: Pictures) -> dict[str, Pictures]:
        """What needs no network: the scan, the scan plus the difference of means, and the scan with the stage's intensities."""
        generators = [self.generator(fold, step) for step in range(start, stage)]
        first, last = generators[0], generators[-1]
        means, quantiles = (
            [value.cpu().numpy() for value in pair]
            for pair in ((first.mean_before, last.mean_after), (first.quantiles_before, last.quantiles_after))
        )
        return {
            COPY: pictures,
            SHIFT: pictures + (means[1] - means[0]),
            HISTOGRAM: matched(pictures, masks > 0, quantiles[1]),
        }


FLOORS = (COPY, SHIFT, HISTOGRAM)
MADE = (CHAIN, *FLOORS)


def matched(pictures: Pictures, inside: NDArray[np.bool_], quantiles: NDArray[np.floating]) -> Pictures:
    """Pictures whose values inside the brain have these quantiles [101]: ranks are kept, values outside too."""
    values = pictures[inside]
    if not values.size:
        return pictures
    shares = np.linspace(0.0, 1.0, NUM_QUANTILES)
    own = np.quantile(values, shares)
    result = pictures.copy()
    result[inside] = np.interp(np.interp(values, own, shares), shares, quantiles)
    return result

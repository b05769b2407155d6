"""What every forecaster of a brain's future offers: `futures` of one person, from one visit or several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.imaging.person_space import PersonSpace
from gen3d.models.base import Model

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class KnownVisits:
    """What is known of a person when the forecast is made.

    Attributes:
        volumes: [V, C, X, Y, Z] float32 in stored units, oldest first; the last one is the scan that is moved forward.
        channels: names of the C channels; `t1w` is among them.
        years: [V] years of each visit relative to the last one (0 for the last, negative for earlier ones).
        columns: typed columns of the person at the last visit (age_years, sex, diagnosis, site, ...), missing ones NaN or None.
        labels: [X, Y, Z] region labels on the voxels of the last scan (the template's, moved to this person).
        key: key of the last scan: the seed of whatever is drawn.
        space: between the template and the last scan, where it is known already; forecasters compute it once where it is not.
    """

    volumes: Floats
    channels: tuple[str, ...]
    years: tuple[float, ...]
    columns: Mapping[str, Any]
    labels: NDArray[np.int16]
    key: str
    space: PersonSpace | None = None

    def volume(self, channel: str) -> Floats:
        """One channel of the last scan [X, Y, Z]."""
        last: Floats = self.volumes[-1, self.channels.index(channel)]
        return last


@dataclass(frozen=True)
class Future:
    """One person at one horizon, as one model (or one draw of it) expects.

    Attributes:
        t1w: [X, Y, Z] float32, stored units, on the voxels of the last scan, zero outside the mask: the scan as it will be.
        log_change: [X, Y, Z] natural logarithm of local volume then over volume now, on the voxels of the last scan.
        regions: [R] log volume change of each region of the plan's region table, in its order; NaN for a region without a voxel.
    """

    t1w: Floats
    log_change: Floats
    regions: NDArray[np.float64]


class Forecaster(Model):
    """A model that says how a scan will look after some years."""

    has_latent = False

    draws_samples = False
    """Whether `futures` with a draw differs from the point forecast, so that several draws show how sure the model is."""

    @abstractmethod
    def futures(self, known: KnownVisits, years: Sequence[float], draw: int | None = None) -> list[Future]:
        """The person after each of these numbers of years (>= 0, any order); 0 years is the scan itself.

        Args:
            draw: None for the point forecast; else the number of a random draw, the same for the same (key, draw).
        """

    def region_changes(
        self, known: KnownVisits, years: Sequence[float], draw: int | None = None
    ) -> NDArray[np.float64]:
        """The `regions` of these futures, [len(years), R], where no image is wanted; cheaper in most models."""
        return np.stack([future.regions for future in self.futures(known, years, draw)])

    def of(self, known: KnownVisits) -> OfPerson:
        """The same for one person, asked again and again: a model computes once here what no draw changes."""
        return OfPerson(self, known)

    def _expect(self, *arguments: Any) -> Any:
        raise AssertionError(f"{type(self).__name__} forecasts; it expects no scan to look healthy")


@dataclass(frozen=True, eq=False)
class OfPerson:
    """A forecaster and one person, for as long as neither changes."""

    model: Forecaster
    known: KnownVisits

    def futures(self, years: Sequence[float], draw: int | None = None) -> list[Future]:
        """See `Forecaster.futures`."""
        return self.model.futures(self.known, years, draw)

    def region_changes(self, years: Sequence[float], draw: int | None = None) -> NDArray[np.float64]:
        """See `Forecaster.region_changes`."""
        return self.model.region_changes(self.known, years, draw)

    def drawn_futures(self, years: Sequence[float], draws: int) -> Iterator[list[Future]]:
        """The futures of the draws 0, 1, ..., one after the other."""
        for draw in range(draws):
            yield self.futures(years, draw)

    def drawn_region_changes(self, years: Sequence[float], draws: int) -> NDArray[np.float64]:
        """Region changes of the draws 0, 1, ... [draws, len(years), R]."""
        return np.stack([self.region_changes(years, draw) for draw in range(draws)])

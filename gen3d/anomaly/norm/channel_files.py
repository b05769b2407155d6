"""The norm of one channel as files of arrays and a record of numbers, and back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.anomaly.calibration.age_variance import AgeVariance
from gen3d.anomaly.calibration.channel_norm import ChannelNorm
from gen3d.anomaly.calibration.empirical_null import EDGES
from gen3d.anomaly.calibration.normative import NormativeModel, Prior
from gen3d.anomaly.calibration.site_shift import ARRAYS, SiteShift, Squares
from gen3d.anomaly.calibration.site_variance import SiteVariance
from gen3d.anomaly.calibration.sums import ValueSums
from gen3d.anomaly.control_scores import ControlScores
from gen3d.core.arrays import read_arrays, require_finite
from gen3d.core.disk import whole_file, writing
from gen3d.core.errors import UserError
from gen3d.maths.covariate_sums import Group
from gen3d.maths.splines import Bends

AGAIN = "copy the norm folder again, or fit it again with `gen3d norm`"
OFFSET = "offset"

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class ChannelFiles:
    """Where a part of a channel lies: what judges, and the sums that merging and adapting need."""

    folder: Path
    channel: str
    part: str

    @property
    def judging(self) -> Path:
        """Coefficients, SDs, and what else a new person is judged by."""
        return self.folder / "channels" / f"{self.channel}_{self.part}.npz"

    @property
    def added_sites(self) -> Path:
        """Shifts of sites that were added from a few controls of their own; absent without any."""
        return self.folder / "channels" / f"{self.channel}_{self.part}_sites.npz"

    @property
    def statistics(self) -> Path:
        """Sums over controls."""
        return self.folder / "statistics" / f"{self.channel}_{self.part}.npz"

    def write(self, norm: ChannelNorm, scores: ControlScores | None = None) -> dict[str, Any]:
        """Write both files; returns the record of the numbers that `read` needs."""
        model = norm.model
        arrays: Arrays = {"coefficients": model.coefficients, "sd": model.sd, "gram_inverse": model.gram_inverse}
        if norm.null_counts is not None:
            arrays["null_counts"] = norm.null_counts
        if scores is not None:
            arrays |= {f"scores_{field.name}": getattr(scores, field.name) for field in fields(scores)}
        write_arrays(self.judging, arrays)
        record: dict[str, Any] = {
            "prior_dof": None if math.isinf(model.prior.dof) else model.prior.dof,
            "prior_variance": model.prior.variance,
            "num_people": model.num_people,
            "dof_residual": model.dof_residual,
            "floor": model.floor,
            "site_factors": dict(norm.site_variance.factors),
            "site_people": dict(norm.site_variance.num_people),
            "age_variance": norm.age_variance.to_dict(),
            "bends": None if norm.bends is None else norm.bends.to_dict(),
            "site_offsets": dict(norm.site_variance.offsets),
            "within_sites": norm.site_variance.within,
            "squares": {site: list(of_site) for site, of_site in norm.squares.items()},
        }
        if norm.sums is not None:
            offset = norm.sums.mean.astype(np.float32)
            near = norm.sums.moved(offset)
            write_arrays(
                self.statistics,
                {
                    OFFSET: offset,
                    "num": near.num,
                    "gram": near.gram,
                    "cross": near.cross.astype(np.float32),
                    "squares": near.squares.astype(np.float32),
                },
            )
            record["groups"] = [list(group) for group in norm.sums.groups]
        return record

    def write_shifts(self, shifts: Mapping[str, SiteShift]) -> dict[str, Any]:
        """Write the shifts of added sites; returns the record of their numbers."""
        arrays: Arrays = {}
        for number, shift in enumerate(shifts.values()):
            arrays |= {f"{name}_{number}": array for name, array in shift.arrays.items()}
        write_arrays(self.added_sites, arrays)
        return {site: shift.to_dict() for site, shift in shifts.items()}

    def _read_shifts(self, record: Mapping[str, Any], num_values: int, num_columns: int) -> dict[str, SiteShift]:
        if not record:
            return {}
        try:
            arrays, shifts = _finite_arrays(self.added_sites), {}
            for number, (site, of_site) in enumerate(record.items()):
                of_arrays = {name: arrays[f"{name}_{number}"] for name in ARRAYS}
                if any(array.shape != (num_values,) for array in of_arrays.values()):
                    raise ValueError(f"the shift of site {site} is none of {num_values} values")
                if (of_arrays["relative_variance"] < 0).any() or not (of_arrays["pattern"] > 0).all():
                    raise ValueError(f"a variance of site {site} is not above 0")
                shifts[str(site)] = SiteShift.from_dict(of_site, of_arrays)
                if shifts[str(site)].centre.shape != (num_columns,) or not shifts[str(site)].sd_factor > 0:
                    raise ValueError(f"the shift of site {site} is of another design")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(self.added_sites, error) from None
        return shifts

    def read(self, record: Mapping[str, Any], num_values: int, num_columns: int) -> ChannelNorm:
        """What judges, for V values and p columns of the design.

        Raises:
            UserError: missing or damaged.
        """
        try:
            arrays = _finite_arrays(self.judging)
            shapes = {
                "coefficients": (num_columns, num_values),
                "sd": (num_values,),
                "gram_inverse": (num_columns,) * 2,
            }
            for name, shape in shapes.items():
                if arrays[name].shape != shape:
                    raise ValueError(f"{name} is {arrays[name].shape}, not {shape}")
            if not (arrays["sd"] > 0).all():
                raise ValueError("an SD is not above 0")
            counts = arrays.get("null_counts")
            if counts is not None and (counts.shape != (len(EDGES) - 1,) or (counts < 0).any() or counts.sum() < 1):
                raise ValueError("the empirical null is none")
            dof = record["prior_dof"]
            prior = Prior(math.inf if dof is None else float(dof), float(record["prior_variance"]))
            model = NormativeModel(
                arrays["coefficients"],
                arrays["sd"],
                arrays["gram_inverse"],
                prior,
                int(record["num_people"]),
                int(record["dof_residual"]),
                float(record["floor"]),
            )
            factors = SiteVariance(
                {str(site): float(factor) for site, factor in record["site_factors"].items()},
                {str(site): int(num) for site, num in record["site_people"].items()},
                {str(site): float(offset) for site, offset in record["site_offsets"].items()},
                float(record["within_sites"]),
            )
            squares = {
                str(site): Squares(int(num), float(mean), float(scatter))
                for site, (num, mean, scatter) in record["squares"].items()
            }
            age_variance = AgeVariance.from_dict(record["age_variance"])
            bends = None if record["bends"] is None else Bends.from_dict(record["bends"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise damaged(self.judging, error) from None
        shifts = self._read_shifts(record.get("shifts", {}), num_values, num_columns)
        return ChannelNorm(
            model, factors, counts, squares=squares, shifts=shifts, age_variance=age_variance, bends=bends
        )

    def read_scores(self) -> ControlScores:
        """The scores of controls.

        Raises:
            UserError: missing or damaged.
        """
        try:
            arrays = _finite_arrays(self.judging)
            scores = ControlScores(*(arrays[f"scores_{field.name}"] for field in fields(ControlScores)))
            if scores.regions.ndim != 2 or scores.largest.shape != (len(scores.regions),):
                raise ValueError("scores of other shapes")
        except (OSError, ValueError, KeyError) as error:
            raise damaged(self.judging, error) from None
        return scores

    def read_sums(self, record: Mapping[str, Any]) -> ValueSums:
        """The sums over controls.

        Raises:
            UserError: missing or damaged.
        """
        try:
            arrays = _finite_arrays(self.statistics)
            groups = tuple(Group(str(site), bool(age), bool(sex)) for site, age, sex in record["groups"])
            cross, squares = arrays["cross"].astype(np.float64), arrays["squares"].astype(np.float64)
            num_groups, width, num_values = cross.shape
            if len(groups) != num_groups or arrays["gram"].shape != (num_groups, width, width):
                raise ValueError("sums of other shapes")
            near = ValueSums(groups, arrays["num"].astype(np.int64), arrays["gram"], cross, squares)
            if squares.shape != (num_groups, num_values) or near.num.shape != (num_groups,):
                raise ValueError("sums of other shapes")
            return near.moved(-arrays[OFFSET])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise damaged(self.statistics, error) from None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a .npz file so that a reader sees all of it or none.

    Raises:
        UserError: the disk has no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    num_bytes = sum(array.nbytes for array in arrays.values())
    with writing(path, num_bytes), whole_file(path) as partial, partial.open("wb") as stream:
        np.savez(stream, **dict[str, Any](arrays))


def _finite_arrays(path: Path) -> Arrays:
    return {name: require_finite(array, name) for name, array in read_arrays(path).items()}


def damaged(path: Path, error: Exception) -> UserError:
    """The sentence about a file of a norm that cannot be used."""
    return UserError(f"{path}: missing or damaged ({error}); {AGAIN}.")

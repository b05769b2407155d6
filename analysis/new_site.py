"""A norm on arrays, and four ways to judge people of a site that it has not seen, shared by the two scripts of question 16.

`unadapted`: as people of the norm's average site. `adapted`: as `gen3d norm adapt=` does. `plain`: the mean
and the SD factor of the site's own controls without shrinkage and without their uncertainty, as ComBat's location
and scale would be used. `refit`: the norm fitted again with the site's controls in it and a fixed effect of the site.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.anomaly.calibration.calibrate import CalibrationSettings, calibrate
from gen3d.anomaly.calibration.channel_norm import ChannelNorm
from gen3d.anomaly.calibration.controls import ControlGroup
from gen3d.anomaly.calibration.panel import make_panel
from gen3d.anomaly.calibration.student import t_to_z
from gen3d.anomaly.norm.adapting import adapt_part
from gen3d.maths.design import TERMS
from gen3d.maths.significance import fdr, p_values

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Judge = Callable[[Floats], Floats]
ARMS = ("unadapted", "plain", "adapted", "refit")
LEVEL = 1.96


@dataclass(frozen=True)
class Norm:
    """A norm of one channel as `gen3d norm` fits it, how it codes people, and held-out z of its controls [n, V]."""

    norm: ChannelNorm
    group: ControlGroup
    held_out: Floats


@dataclass(frozen=True)
class Settings:
    """How a channel is calibrated, and its mask [X, Y, Z] where the variance map is smoothed."""

    calibration: CalibrationSettings
    mask: NDArray[np.bool_] | None = None


def fit_norm(values: Floats, people: pd.DataFrame, settings: Settings) -> Norm:
    """A norm of all people given: values [n, V], one row of `people` each (subject, age_years, sex, site, role)."""
    panel = make_panel(people.assign(calibrates=True), TERMS)
    calibrated = calibrate(values, panel, settings.calibration, settings.mask)
    return Norm(calibrated.norm, panel.controls, calibrated.z)


@dataclass(frozen=True)
class NewSite:
    """A norm, the values and people behind it, controls of a new site, and the people of it who are to be judged."""

    norm: Norm
    base: tuple[Floats, pd.DataFrame]
    controls: tuple[Floats, pd.DataFrame]
    tested: pd.DataFrame
    settings: Settings

    def judge(self, arm: str) -> Judge:
        """A function from the values [m, V] of the tested people to their z."""
        judge: Judge = getattr(self, arm)()
        return judge

    def unadapted(self) -> Judge:
        people = self.norm.group.coded(self.tested.assign(site=""))
        return lambda values: self.norm.norm.z(values, people)

    def plain(self) -> Judge:
        norm, model = self.norm.norm, self.norm.norm.model
        own, rows = (self.norm.group.coded(people).covariates for people in (self.controls[1], self.tested))
        deviations = self.controls[0] - model.expected(own)
        mean = deviations.mean(axis=0)
        squares = np.square((deviations - mean) / model.sd, dtype=np.float64).mean() * len(own) / (len(own) - 1)
        leverage = np.einsum("ip,pq,iq->i", rows, model.gram_inverse, rows)
        width = np.sqrt((1 + leverage) * squares).astype(np.float32)[:, None] * model.sd

        def judge(values: Floats) -> Floats:
            z = t_to_z((values - model.expected(rows) - mean) / width, model.dof)
            return z if norm.null_map is None else norm.null_map(z)

        return judge

    def adapted(self) -> Judge:
        table = self.controls[1].reset_index(drop=True)
        adapted = adapt_part(self.norm.norm, self.norm.group, table, self.controls[0])
        people = self.norm.group.coded(self.tested)
        return lambda values: adapted.z(values, people)

    def refit(self) -> Judge:
        values = np.vstack([self.base[0], self.controls[0]])
        again = fit_norm(values, pd.concat([self.base[1], self.controls[1]], ignore_index=True), self.settings)
        people = again.group.coded(self.tested)
        return lambda values: again.norm.z(values, people)


def null_figures(z: Floats) -> dict[str, Any]:
    """Share of |z| > 1.96 of each person, and whether each has an FDR-positive value."""
    return {
        "beyond": [round(float((np.abs(person) > LEVEL).mean()), 5) for person in z],
        "positive": [bool(fdr(p_values(person)).any()) for person in z],
    }


class Kept:
    """Rows of a computation that goes on where it was stopped: one JSON object a line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = path.read_text().splitlines() if path.is_file() else []
        rows = [json.loads(line) for line in lines if line.endswith("}")]
        # A computation that was stopped within a group of rows makes the group again.
        once = {tuple(value for value in row.values() if not isinstance(value, list)): row for row in rows}
        self.rows: list[dict[str, Any]] = list(once.values())

    def has(self, **wanted: Any) -> bool:
        return any(all(row.get(name) == value for name, value in wanted.items()) for row in self.rows)

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")


def over_draws(rows: list[dict[str, Any]], column: str, seed: int = 0) -> str:
    """Mean of a figure with its 95 % interval, resampling draws (people of one draw share its controls)."""
    values = np.array([float(np.nanmean(np.asarray(row[column], dtype=float))) for row in rows])
    values = values[np.isfinite(values)]
    if not len(values):
        return "n/a"
    resampled = np.random.default_rng(seed).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return f"{100 * values.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]"

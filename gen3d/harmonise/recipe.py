"""Harmonisation as a step inside a fold: ComBat with a coding of what is to be kept, fitted on training people.

Sites are estimated from the first scan of every real person; planted twins and synthetic scans are harmonised but never
fitted on. A kept column enters the harmonised values, since the scale of a site acts around what is expected of the person.
A column that is to be predicted must therefore not be kept (`Harmonisation.protects`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator, model_validator

from gen3d.cohort.columns import ColumnCode, Rules, TableCode, fit_columns
from gen3d.cohort.manifest import is_control, is_twin
from gen3d.cohort.target import Rows, Values, as_label
from gen3d.core.config import Config
from gen3d.core.errors import UserError
from gen3d.harmonise.combat import FEWEST_PEOPLE, Combat, fit_combat

FEWEST_CONTROLS = 5
"""Of a site that the fit has not seen, to estimate it from."""
NAMED = 5
"""Columns, sites or people that a sentence names before it says "and others"."""


class Harmonisation(Config):
    """Take the location and scale of every site out of the latents (ComBat), estimated from the people of the fit."""

    by: str = Field("site", min_length=1, description="column whose effect is taken away: site, or scanner")
    keep: tuple[str, ...] = Field(
        ("age_years", "sex"),
        description="columns (numbers or categories) whose effect is kept where sites differ in them; never the column to predict",
    )
    unknown: Literal["refuse", "controls"] = Field(
        "refuse",
        description="a site that the fit has not seen: stop, or estimate it from its own controls (at least 5 people)",
    )
    empirical_bayes: bool = Field(
        True,
        description="shrink a site's estimates towards what its features have in common, the more the fewer people",
    )

    @field_validator("keep", mode="before")
    @classmethod
    def _one_or_none(cls, value: Any) -> Any:
        return () if value is None else (value,) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _checked_keep(self) -> Harmonisation:
        if self.by in self.keep:
            raise ValueError(f"{self.by} cannot be taken away and kept; leave it out of keep.")
        if len(set(self.keep)) != len(self.keep):
            raise ValueError(f"keep={list(self.keep)} names a column twice.")
        return self

    def protects(self, column: str) -> bool:
        """Whether a column is kept, and so enters the harmonised values of the tested person."""
        return column in self.keep

    def protection_sentence(self, column: str) -> str:
        """The error for a kept column that is to be predicted."""
        rest = ", ".join(name for name in self.keep if name != column)
        return (
            f"harmonisation keeps {column}, the column to predict: its value would enter the features of the tested "
            f"person; give keep=[{rest}]."
        )

    def fit(self, rows: Rows) -> FittedHarmonisation:
        """Estimate everything from these people; feature blocks (latents, scores) are shrunk separately.

        Raises:
            UserError: a missing column or site, one site only (unless others can be estimated from their controls), a site
                with one person, or a kept column that is constant or tied to the site.
        """
        chosen = rows.take(reference_rows(rows.table))
        sites = self.sites_of(chosen.table)
        names, counts = np.unique(sites, return_counts=True)
        if not len(names):
            raise UserError(
                f"there is nobody to estimate the effect of {self.by} from: only planted or synthetic scans."
            )
        if len(names) < 2 and self.unknown == "refuse":
            raise UserError(
                f"everybody here has {self.by} {names[0]}, and harmonising needs two; leave harmonisation out, or add "
                "people of another one."
            )
        few = int(counts.argmin())
        if counts[few] < FEWEST_PEOPLE:
            raise UserError(
                f"{self.by} {names[few]} has one person to estimate its effect from, and {FEWEST_PEOPLE} are needed; leave it "
                "out, or name a coarser column in by=."
            )
        kept = fit_columns(chosen.table, self.keep, KEPT, "keep")
        empty = next((column.name for column in kept.columns if column.num_missing == len(chosen)), None)
        if empty is not None:
            raise UserError(f"{empty} is empty for everybody, so there is nothing of it to keep; leave it out of keep.")
        design = kept.matrix(chosen.table)
        combat = fit_combat(chosen.values, sites, design, self.empirical_bayes, kept.column_names, chosen.blocks)
        return FittedHarmonisation(self, kept, combat)

    def sites_of(self, table: pd.DataFrame) -> NDArray[np.str_]:
        """The site of each row, [n].

        Raises:
            UserError: no such column, or rows without a site.
        """
        if self.by not in table.columns:
            raise UserError(
                f"the cohort table has no column {self.by} to harmonise by; its columns are {_some(table)}."
            )
        sites = np.array([as_label(value) for value in table[self.by]], dtype=np.str_)
        missing = table.loc[sites == "", "key"] if "key" in table.columns else table.index[sites == ""]
        if len(missing):
            named = ", ".join(str(key) for key in missing[:NAMED])
            raise UserError(
                f"{len(missing)} scans have no {self.by} ({named}{' and others' if len(missing) > NAMED else ''}), so they "
                "cannot be harmonised; fill in the column, or leave them out."
            )
        return sites


def reference_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Which rows sites are estimated from: the first scan of every real person, [n]."""
    real = ~is_twin(table).to_numpy()
    if "generator" in table.columns:
        real &= np.array([as_label(value) == "" for value in table["generator"]])
    places = np.flatnonzero(real)
    again = table["subject"].astype(str).iloc[places].duplicated().to_numpy()
    first = np.zeros(len(table), dtype=bool)
    first[places[~again]] = True
    return first


KEPT = Rules()


@dataclass(frozen=True)
class FittedHarmonisation:
    """A fitted harmonisation, which can be applied to scans of any person."""

    settings: Harmonisation
    kept: TableCode
    combat: Combat

    def apply(self, rows: Rows, controls: NDArray[np.bool_] | None = None) -> Values:
        """Harmonised values, [n, d].

        Row by row for sites of the fit. With unknown="controls", any other site is estimated from its controls among these
        rows. That uses the diagnosis and the values of tested controls, so a performance measured there holds for a site that
        first scans some controls of its own. Give all scans of such a site in one call.

        Args:
            rows: scans.
            controls: which of them are of controls, [n]; None to read it from the column diagnosis.

        Raises:
            UserError: an unknown site with unknown="refuse", or one with fewer than 5 controls.
        """
        extended = self.with_sites_of(rows, controls)
        return extended.combat.apply(rows.values, self.settings.sites_of(rows.table), self.kept.matrix(rows.table))

    def with_sites_of(self, rows: Rows, controls: NDArray[np.bool_] | None = None) -> FittedHarmonisation:
        """The same harmonisation, extended by the sites of these rows that it lacks, each estimated from its controls.

        Raises:
            UserError: as `apply`.
        """
        sites = self.settings.sites_of(rows.table)
        unknown = sorted(set(sites.tolist()) - set(self.combat.sites))
        if not unknown:
            return self
        by = self.settings.by
        if self.settings.unknown == "refuse":
            raise UserError(
                f"{by} {', '.join(unknown[:NAMED])} {'was' if len(unknown) == 1 else 'were'} not among those that the "
                f"harmonisation was fitted on ({', '.join(self.combat.sites)}); leave those scans out, or give "
                "unknown=controls to estimate it from its controls."
            )
        if controls is None:
            if "diagnosis" not in rows.table.columns:
                raise UserError(
                    f"unknown=controls needs the column diagnosis, to find the controls of {by} {unknown[0]}."
                )
            controls = is_control(rows.table).to_numpy()
        usable = controls & reference_rows(rows.table)
        combat = self.combat
        for name in unknown:
            chosen = rows.take(usable & (sites == name))
            if len(chosen) < FEWEST_CONTROLS:
                raise UserError(
                    f"{by} {name} was not among those that the harmonisation was fitted on and has {len(chosen)} controls here "
                    f"to estimate it from; {FEWEST_CONTROLS} are needed."
                )
            combat = combat.with_site(chosen.values, self.kept.matrix(chosen.table), name)
        return replace(self, combat=combat)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know about the people of the fit, in sentences."""
        num = int(self.combat.num_people.sum())
        return tuple(
            f"{column.num_missing} of {num} people have no {column.name}; the mean was used for them."
            for column in self.kept.columns
            if column.num_missing
        )

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """Everything as arrays of numbers and text, for an .npz without pickles."""
        combat, columns = self.combat, self.kept.columns
        levels = [column.levels or () for column in columns]
        return {
            "by": _text([self.settings.by]),
            "unknown": _text([self.settings.unknown]),
            "empirical_bayes": np.array([self.settings.empirical_bayes]),
            "keep": _text(self.kept.names),
            "keep_num_levels": np.array([len(codes) for codes in levels], dtype=np.int64),
            "keep_levels": _text([code for codes in levels for code in codes]),
            "keep_mean": np.array([mean for column in columns for mean in column.mean], dtype=np.float64),
            "keep_sd": np.array([sd for column in columns for sd in column.sd], dtype=np.float64),
            "keep_num_missing": np.array([column.num_missing for column in columns], dtype=np.int64),
            "sites": _text(combat.sites),
            "blocks": np.array(combat.blocks, dtype=np.int64),
            "num_people": combat.num_people,
            "grand_mean": combat.grand_mean,
            "coefficients": combat.coefficients,
            "sd": combat.sd,
            "varying": combat.varying,
            "gamma": combat.gamma,
            "delta": combat.delta,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> FittedHarmonisation:
        """What `to_arrays` described.

        Raises:
            UserError: arrays that are missing.
        """
        try:
            kept = _kept_columns(arrays)
            shrunk = bool(arrays["empirical_bayes"][0])
            combat = Combat(
                sites=tuple(str(site) for site in arrays["sites"]),
                empirical_bayes=shrunk,
                blocks=tuple(int(width) for width in arrays["blocks"]),
                **{
                    name: arrays[name]
                    for name in ("num_people", "grand_mean", "coefficients", "sd", "varying", "gamma", "delta")
                },
            )
            settings = Harmonisation.model_validate(
                {
                    "by": str(arrays["by"][0]),
                    "keep": kept.names,
                    "unknown": str(arrays["unknown"][0]),
                    "empirical_bayes": shrunk,
                }
            )
        except KeyError as error:
            raise UserError(f"the saved harmonisation lacks {error}, so it is damaged; harmonise again.") from None
        return cls(settings, kept, combat)


def _kept_columns(arrays: Mapping[str, NDArray[Any]]) -> TableCode:
    """The kept columns from `to_arrays`: each with its categories (none for numbers) and its part of the means and SDs."""
    columns: list[ColumnCode] = []
    level = place = 0
    for name, num, missing in zip(arrays["keep"], arrays["keep_num_levels"], arrays["keep_num_missing"], strict=True):
        levels = tuple(str(label) for label in arrays["keep_levels"][level : level + int(num)]) or None
        part = slice(place, place + max(1, int(num) - 1))
        mean, sd = (tuple(arrays[key][part].tolist()) for key in ("keep_mean", "keep_sd"))
        columns.append(ColumnCode(str(name), levels, mean, sd, int(missing), KEPT))
        level, place = level + int(num), part.stop
    return TableCode(tuple(columns), "keep")


def _text(values: Any) -> NDArray[np.str_]:
    return np.array([str(value) for value in values], dtype=np.str_)


def _some(table: pd.DataFrame) -> str:
    return ", ".join(str(name) for name in table.columns)

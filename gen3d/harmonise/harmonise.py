"""`gen3d harmonise`: remove the location and scale that each site adds to latents, and measure what that did."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field

from gen3d.cohort.latents_folder import open_latents_folder, require_one_space, write_latents
from gen3d.cohort.manifest import TEXT, is_control
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.target import Rows
from gen3d.core import words as spell
from gen3d.core.config import Folders
from gen3d.core.errors import UserError
from gen3d.core.memory import WITH_SCANS, announce_memory
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, warn
from gen3d.core.tables import Row
from gen3d.core.work import FolderVerb, Inputs
from gen3d.harmonise.assessment import (
    AFTER,
    BEFORE,
    DIFFERENCE,
    LINEAR,
    SQUARES,
    assess,
    kept_effects,
    site_predictability,
)
from gen3d.harmonise.folder import write_harmonised
from gen3d.harmonise.picture import draw_before_after
from gen3d.harmonise.recipe import FittedHarmonisation, Harmonisation, reference_rows

COPIES = 8
"""Of all latents in double precision that are in memory together, at most (measured: 6.6 with 400 scans of 20,000 numbers)."""
NUMBERS = ["value", "low", "high", "chance", "num_people"]
SITES = ["stage", "classifier", "measure", *NUMBERS, "num_sites"]
KEPT = ["stage", "column", "task", "measure", *NUMBERS]
ADVICE = (
    "To classify, give the raw latents and harmonise.{by} instead of this folder: the harmonisation is then fitted inside the "
    "folds, while the {num} people that this folder was fitted on count as seen."
)


class Harmonise(FolderVerb, Harmonisation):
    """Take the location and scale of every site (or scanner) out of latents, by ComBat with empirical Bayes.

    Writes a folder of latents that stratify, predict and classify read, harmonisation.npz to do the same to others, and what
    it did: how well the site and the kept columns are predicted from the latents before and after, with the harmonisation
    fitted in training folds only. To classify, give the raw latents and harmonise.by=site to `gen3d classify`, which fits inside
    the folds: the people that this folder was fitted on count as seen. Never keep the column to predict.
    """

    latents: Folders = Field(description="folders of latents (encode), all of one run")
    fit_on: Literal["everybody", "train", "controls"] = Field(
        "everybody",
        description="people that the sites are estimated from: all, those with role train, or controls of any role",
    )
    show: tuple[str, ...] = Field(
        ("diagnosis",), description="columns whose effect is reported before and after, in addition to those of keep"
    )
    seed: int = Field(
        0, description="seed of the folds and resamples behind the figures; the latents do not depend on it"
    )

    def plan(self) -> list[str]:
        """How many scans would be harmonised, and how many people each site is estimated from."""
        cohort = gather(self.latents)
        chosen = cohort.rows.take(self._allowed(cohort.rows.table))
        sites = self.sites_of(chosen.table)[reference_rows(chosen.table)]
        names, counts = np.unique(sites, return_counts=True)
        listed = ", ".join(f"{name} {num}" for name, num in zip(names, counts, strict=True))
        return [
            f"harmonises {len(cohort.rows)} latents of {cohort.rows.values.shape[1]} dimensions by {self.by}, keeping "
            f"{', '.join(self.keep) or 'nothing'}",
            f"people used to estimate each {self.by}: {listed}",
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The latents."""
        return {"latents": list(self.latents)}

    def open_inputs(self) -> tuple[LatentCohort, NDArray[np.bool_], FittedHarmonisation]:
        """The latents, the scans that may be fitted on [n], and the fitted harmonisation."""
        cohort = gather(self.latents)
        allowed = self._allowed(cohort.rows.table)
        return cohort, allowed, self._harmonisation.fit(cohort.rows.take(allowed)).with_sites_of(cohort.rows)

    def write(self, work: Work, opened: tuple[LatentCohort, NDArray[np.bool_], FittedHarmonisation]) -> dict[str, Any]:
        """Write the folder."""
        cohort, allowed, fitted = opened
        rows = cohort.rows
        after = fitted.apply(rows)
        used = self._used(rows.table, allowed)
        effects = self._measure(rows, allowed, fitted, len(used))
        record = cohort.record | {"harmonised": self._harmonisation.settings()}
        chosen = rows.table[rows.table["subject"].astype(str).isin(used)]
        fitted_on = SeenBy.rows(chosen, f"harmonised by {self.by}")
        write_latents(self.out, after, rows.table, record, cohort.seen.joined(fitted_on.members[0]))
        tables = effects.tables | {"people": self._people(rows.table, allowed, fitted)}
        picture = draw_before_after(rows.values, after, self.sites_of(rows.table), self.by, _subtitles(tables["sites"]))
        write_harmonised(self.out, fitted.to_arrays(), tables, effects.summary, picture)
        for sentence in effects.summary:
            say(sentence)
        say(f"{self.out}: {len(rows)} latents of {len(fitted.combat.sites)} values of {self.by}.")
        return {"num_scans": len(rows), "num_dimensions": after.shape[1], "summary": effects.summary}

    @property
    def _harmonisation(self) -> Harmonisation:
        return Harmonisation(**{name: getattr(self, name) for name in Harmonisation.model_fields})

    def _allowed(self, table: pd.DataFrame) -> NDArray[np.bool_]:
        """Scans that sites may be estimated from, [n]."""
        if self.fit_on == "everybody":
            return np.ones(len(table), dtype=bool)
        chosen = (table["role"] == "train").to_numpy() if self.fit_on == "train" else is_control(table).to_numpy()
        if not chosen.any():
            who = "has the role train" if self.fit_on == "train" else "is a control by the column diagnosis"
            raise UserError(
                f"nobody {who}, so fit_on={self.fit_on} leaves nobody to estimate sites from; give another fit_on=."
            )
        return np.asarray(chosen, dtype=bool)

    def _used(self, table: pd.DataFrame, allowed: NDArray[np.bool_]) -> list[str]:
        """Subjects of the fit, and controls that sites outside the fit were estimated from."""
        sites = self.sites_of(table)
        used, missing = allowed.copy(), ~np.isin(sites, sites[allowed])
        if missing.any():
            used |= missing & is_control(table).to_numpy()
        chosen = table[used]
        return list(dict.fromkeys(chosen.loc[reference_rows(chosen), "subject"].astype(str)))

    def _measure(self, rows: Rows, allowed: NDArray[np.bool_], fitted: FittedHarmonisation, num_used: int) -> _Effects:
        advice = ADVICE.format(by=f"by={self.by}", num=num_used)
        try:
            assessment = assess(rows, self._harmonisation, self.seed, allowed)
        except UserError as error:
            warn(f"the effect of harmonising could not be assessed: {error}")
            sentences = [f"The effect of harmonising could not be assessed: {error}", *fitted.notes, advice]
            return _Effects({"sites": pd.DataFrame(columns=SITES), "kept": pd.DataFrame(columns=KEPT)}, sentences)
        sites = site_predictability(assessment, self.by, self.seed)
        kept, problems = kept_effects(assessment, list(dict.fromkeys((*self.keep, *self.show))), self.seed)
        summary = [*site_sentences(sites, self.by), *kept_sentences(kept, self.keep), *problems, *assessment.left_out]
        tables = {"sites": pd.DataFrame(sites, columns=SITES), "kept": pd.DataFrame(kept, columns=KEPT)}
        return _Effects(tables, [*summary, *fitted.notes, advice])

    def _people(self, table: pd.DataFrame, allowed: NDArray[np.bool_], fitted: FittedHarmonisation) -> pd.DataFrame:
        """A row per site: scans, people, people it was estimated from, its shift (root mean square, in SD) and its scale."""
        sites, combat, people = self.sites_of(table), fitted.combat, table["subject"].astype(str).to_numpy()
        records = []
        for index, name in enumerate(combat.sites):
            at, varying = sites == name, combat.varying
            shift = np.sqrt(np.mean(combat.gamma[index, varying] ** 2)) if varying.any() else math.nan
            scale = np.sqrt(np.median(combat.delta[index, varying])) if varying.any() else math.nan
            records.append(
                {
                    "site": name,
                    "num_scans": int(at.sum()),
                    "num_people": len(np.unique(people[at])),
                    "num_fitted": int(combat.num_people[index]),
                    "shift_sd": float(shift),
                    "scale": float(scale),
                    "estimated_from": self.fit_on if (at & allowed).any() else "its controls",
                }
            )
        return pd.DataFrame(records)


@dataclass(frozen=True)
class _Effects:
    tables: dict[str, pd.DataFrame]
    summary: list[str]


@dataclass(frozen=True)
class LatentCohort:
    """Latents of several folders: their scans, the record of one folder, and the people that the model saw."""

    rows: Rows
    record: Row
    seen: SeenBy


def gather(folders: Sequence[Path]) -> LatentCohort:
    """Open folders of latents that one run made.

    Raises:
        UserError: latents of different models, of a family, of one scan twice, or not finite.
    """
    opened = [open_latents_folder(folder, ("encode",)) for folder in folders]
    require_one_space([latents.space for latents in opened])
    first, num = opened[0], sum(len(latents.table) for latents in opened)
    announce_memory(
        f"the latents of {num} scans",
        COPIES * 8 * num * first.values.shape[2],
        "harmonise latents of fewer numbers",
        WITH_SCANS,
    )
    table = pd.concat([latents.table for latents in opened], ignore_index=True)
    for column in (name for name in TEXT if name in table.columns):
        table[column] = table[column].astype(object).where(table[column].notna(), "")
    twice = table.loc[table["key"].duplicated(), "key"]
    if len(twice):
        raise UserError(f"{twice.iloc[0]} is in the latents twice; give every scan once.")
    values = np.concatenate([latents.values[0] for latents in opened])
    bad = table.loc[~np.isfinite(values).all(axis=1), "key"]
    if len(bad):
        raise UserError(f"{', '.join(bad[:5])}: the latent is NaN or infinite; encode again.")
    seen = first.seen
    for other in opened[1:]:
        seen = seen.joined(other.seen.members[0])
    return LatentCohort(
        Rows(values, table, (values.shape[1],), first.shape),
        first.record,
        seen,
    )


def site_sentences(rows: Sequence[Row], by: str) -> list[str]:
    """The table of sites as sentences, the verdict first."""
    above_chance = {
        stage: [row for row in rows if row["stage"] == stage and row["measure"] == "macro_auc" and row["low"] > 0.5]
        for stage in (BEFORE, AFTER)
    }
    remaining = " and ".join(f"{_interval(row)} ({row['classifier']})" for row in above_chance[AFTER])
    if above_chance[AFTER]:
        verdict = (
            f"The {by} can still be predicted from the latents after harmonising, AUC {remaining}: the remaining difference is "
            "not a location or scale of single dimensions that can be estimated from these people."
        )
    elif above_chance[BEFORE]:
        hints = [
            f"{_interval(row)}, chance {spell.number(row['chance'])} ({row['classifier']})"
            for row in rows
            if row["stage"] == AFTER and row["measure"] == "balanced_accuracy" and row["low"] > row["chance"]
        ]
        but = f" by AUC, although a balanced accuracy of {' and '.join(hints)} suggests a remainder" if hints else ""
        verdict = f"The {by} could be predicted from the latents before harmonising, and not better than by chance after it{but}."
    else:
        verdict = f"The {by} could not be predicted from the latents better than by chance, even before harmonising."
    sentences = [verdict]
    for classifier, inputs in ((LINEAR, "by components"), (SQUARES, "by components and their squares")):
        before, after = (
            next(
                row
                for row in rows
                if (row["stage"], row["classifier"], row["measure"]) == (stage, classifier, "balanced_accuracy")
            )
            for stage in (BEFORE, AFTER)
        )
        sentence = (
            f"Balanced accuracy of predicting the {by} of {before['num_people']} people among {before['num_sites']} "
            f"({inputs}): {_interval(before)} before, {_interval(after)} after; chance {spell.number(before['chance'])}."
        )
        if after["high"] < after["chance"]:
            # The fit also removes accidents of its training people, which adds their opposite to everybody else.
            sentence += " Below chance does not mean that the sites differ: the fit over-corrects people outside it."
        sentences.append(sentence)
    return sentences


def kept_sentences(rows: Sequence[Row], keep: Sequence[str]) -> list[str]:
    """A sentence per column: its effect before, after, and whether it grew weaker."""
    sentences = []
    for name in dict.fromkeys(row["column"] for row in rows):
        at = {row["stage"]: row for row in rows if row["column"] == name and row["measure"] in ("macro_auc", "r2")}
        measure = "R2" if at[BEFORE]["measure"] == "r2" else "AUC"
        difference = at[DIFFERENCE]
        change = "weaker" if difference["high"] < 0 else "stronger" if difference["low"] > 0 else "not distinguishable"
        if change == "weaker" and name not in keep:
            change += ", as expected of a column that is not kept and in which the sites differ"
        sentences.append(
            f"{name} from the latents of {at[BEFORE]['num_people']} people: {measure} {_interval(at[BEFORE])} before, "
            f"{_interval(at[AFTER])} after ({change}, difference {_interval(difference, signed=True)})."
        )
    return sentences


def _interval(row: Mapping[Any, Any], signed: bool = False) -> str:
    return spell.interval(row["value"], row["low"], row["high"], signed=signed)


def _subtitles(sites: pd.DataFrame) -> tuple[str, str]:
    """A line for each panel of the picture: how well the site is predicted."""
    if not len(sites):
        return "", ""
    at = {
        row["stage"]: row
        for row in sites.to_dict("records")
        if (row["classifier"], row["measure"]) == (LINEAR, "balanced_accuracy")
    }
    before, after = _interval(at[BEFORE]), _interval(at[AFTER])
    chance = f"chance {spell.number(at[BEFORE]['chance'])}"
    return (
        f"predicted with balanced accuracy {before}, {chance}",
        f"{after} where fitted on other people, {chance}",
    )

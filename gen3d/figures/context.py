"""The context of a page, used by all its sections: the opened folders, their cohort, and one colour per group and model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared
from gen3d.cohort.manifest import NULL, is_control
from gen3d.core.artefact import Artefact
from gen3d.core.errors import UserError
from gen3d.core.result_folder import ResultFolder
from gen3d.figures import style
from gen3d.figures.blocks import Section
from gen3d.figures.brain import DisplaySpace
from gen3d.imaging.plan import GridPlan
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_map_and_affine

Opened = TypeVar("Opened")
MODELS = ("train", "anomaly")
"""Verbs whose folders have the name of a model; each model has its own colour."""

COHORT_COLUMNS = ("key", "subject", "diagnosis", "role", "site", "sex", "age_years")


@dataclass(frozen=True)
class Context:
    """The material of one page.

    `artefacts` are all input folders, `opened` those that a capability reads, `prepared` the cohort (None without a prepared
    folder).
    """

    artefacts: tuple[Artefact, ...]
    opened: tuple[ResultFolder, ...]
    prepared: Prepared | None
    subjects_shown: int
    seed: int

    def all(self, kind: type[Opened]) -> tuple[Opened, ...]:
        """The folders of one kind, in input order."""
        return tuple(folder for folder in self.opened if isinstance(folder, kind))

    def first(self, kind: type[Opened]) -> Opened | None:
        """The first folder of one kind. It is shown in full; the others appear in tables and folded parts."""
        return next(iter(self.all(kind)), None)

    @cached_property
    def _with_people(self) -> list[pd.DataFrame]:
        """The cohort rows of the folders; those of maps first, because they record the held-out people."""
        folders = sorted(self.opened, key=lambda folder: folder.example_map is None)
        return [rows for folder in folders if (rows := folder.cohort_rows) is not None]

    @cached_property
    def cohort(self) -> pd.DataFrame:
        """The cohort table of the prepared folders, or the rows that another folder has of it."""
        if self.prepared is not None:
            return self.prepared.manifest
        return next(iter(self._with_people), pd.DataFrame(columns=list(COHORT_COLUMNS)))

    @cached_property
    def controls(self) -> tuple[str, ...]:
        """Diagnosis codes that mean healthy control in this cohort."""
        frame = self.cohort
        return tuple(sorted(set(frame.loc[is_control(frame), "diagnosis"].astype(str)))) if len(frame) else ()

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """Diagnoses, controls first, then by how many people they have."""
        used = self.cohort[self.cohort["role"] != "excluded"]
        counts = used["diagnosis"].astype(str).value_counts()
        return tuple(
            sorted(counts.index, key=lambda code: (code not in self.controls, code == NULL, -counts[code], code))
        )

    @cached_property
    def plan(self) -> GridPlan:
        """The grid of all maps: that of the prepared folder, or else that of the first map."""
        if self.prepared is not None:
            return self.prepared.plan
        path = next((path for folder in self.opened if (path := folder.example_map) is not None), None)
        if path is None:
            raise UserError(
                "the inputs hold neither a prepared folder nor a map, so the grid is unknown; add prepared."
            )
        values, affine = read_map_and_affine(path)
        rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
        first, second, third = (int(side) for side in values.shape)
        return GridPlan(spacing_mm=abs(rows[0][0]), shape=(first, second, third), affine=rows)

    @cached_property
    def space(self) -> DisplaySpace:
        """The grid with the brain's mask."""
        mask = self.prepared.mask if self.prepared is not None else template_on(self.plan).mask
        return DisplaySpace(self.plan.matrix, np.asarray(mask, dtype=bool))

    @cached_property
    def template_t1w(self) -> NDArray[np.float32]:
        """The template's T1w on the grid."""
        return template_on(self.plan).t1w

    def anatomy(self, key: str) -> tuple[NDArray[np.float32], bool]:
        """A person's own T1w on the grid and True, or the template and False."""
        known = self.prepared is not None and key in set(self.prepared.manifest["key"])
        if self.prepared is not None and known and self.prepared.path(key, "t1w").is_file():
            return self.prepared.volume(key, "t1w"), True
        return self.template_t1w, False

    @cached_property
    def colours(self) -> dict[str, str]:
        """A colour per diagnosis; controls are grey."""
        groups = list(self.groups)
        for folder in self.opened:
            if folder.example_map is not None and folder.cohort_rows is not None:
                groups += [name for name in folder.cohort_rows["diagnosis"].unique() if name not in groups]
        return style.group_colours(groups, self.controls)

    def model_colour(self, name: str) -> str:
        """A colour per model, in input order: runs first, then maps."""
        names = [folder.name for verb in MODELS for folder in self.opened if folder.artefact.verb == verb]
        names = list(dict.fromkeys(names))
        return style.GROUP_COLOURS[names.index(name) % len(style.GROUP_COLOURS)] if name in names else style.GREY


@dataclass(frozen=True)
class PageSection:
    """A section of the page: its title, its builder, the folder it needs, and its place.

    Sections are sorted by `place`. `build` returns None if the folders lack what it needs. `given_by` names the verb whose
    folder the section needs. `reads` is the reader of that folder; None for prepared folders, which are opened together as
    one cohort.
    """

    title: str
    build: Callable[[Context], Section | None]
    given_by: str
    place: int
    reads: type[ResultFolder] | None = None

    def __call__(self, context: Context) -> Section | None:
        """The section, or None."""
        return self.build(context)


def page_section(
    title: str, given_by: str, place: int, reads: type[ResultFolder] | None = None
) -> Callable[[Callable[[Context], Section | None]], PageSection]:
    """Make a function of the context a section of the page; `verbs.py` then names it."""
    return lambda build: PageSection(title, build, given_by, place, reads)

"""The settings of `gen3d classify`: column to predict, features, classifiers and how they are tested."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gen3d.classify.heads.settings import ContestantSettings, LinearSettings, MtaRule, RunSettings, Threshold
from gen3d.cohort.duplicates import Duplicates
from gen3d.cohort.seen import SeenPolicy
from gen3d.cohort.target import Task
from gen3d.core.config import Folder, Folders, execution, waiver
from gen3d.core.work import FolderVerb, Inputs
from gen3d.harmonise.recipe import Harmonisation


def _by_name(value: Any) -> Any:
    """Accept `linear` and `[linear, runs/cnn]` as short forms of groups: a head by its kind, a run by its folder."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [_group(str(item)) if isinstance(item, (str, Path)) else item for item in listed]


def _group(text: str) -> dict[str, str]:
    if text in HEAD_KINDS:
        return {"kind": text}
    if "/" not in text and not Path(text).is_dir():
        raise ValueError(
            f"{text} is neither a head ({', '.join(HEAD_KINDS)}) nor a folder of a trained classifier; correct the name, or train "
            "one (gen3d train, model.kind=classifier)."
        )
    return {"kind": "run", "run": text}


_Value = int | float | str
_Condition = _Value | tuple[_Value | None, ...]
"""A value that a column must have, values of which it must have one, or [lowest, highest] of a number (none: no limit)."""
Heads = Annotated[tuple[ContestantSettings, ...], BeforeValidator(_by_name), Field(min_length=1)]
HEAD_KINDS = ("linear", "svm", "boosting", "mlp", "residual")

MOST_PERMUTED_NETWORKS = 100
"""Every permutation trains 25 networks (5 folds of 5 inner folds), so that more would take days."""


class StudySettings(FolderVerb):
    """The fields of `gen3d classify`, and the inputs among them."""

    latents: Folders | None = Field(
        None,
        description="latents folders (encode or harmonise) of one run, or maps folders (anomaly): their scores are the features; "
        "none: trained classifiers alone, of the people of prepared=",
    )
    beside: tuple[Folder, ...] = Field((), description="further such folders of the same scans, which add features")
    table: Folder | None = Field(
        None,
        description="CSV or TSV with further columns, joined by subject (or participant_id), and by session if it has one",
    )
    target: str = Field(description="column to predict: a diagnosis, a stage, a grade, age_years, sex, site")
    classes: tuple[str, ...] | None = Field(
        None,
        description="classes to separate, the healthy one first: [CN,AD]; scans of other classes are excluded; none: all values",
    )
    task: Task | None = Field(
        None,
        description="categories, ordered (grades, in the order of classes) or number; none: decided from the column",
    )
    only: dict[str, _Condition] = Field(
        default_factory=dict, description="keep only these scans: column: value, [values] or [lowest, highest]"
    )
    sessions: Literal["first", "all"] = Field(
        "first", description="first: one session per person; all: every session (a person's sessions stay in one fold)"
    )
    heads: Heads = Field(
        (LinearSettings(),),
        description="classifiers to compare, the primary one first: linear, svm, boosting, mlp, residual (spatial latents "
        "only), or folders of trained classifiers (runs/cnn), whose folds are then those of all; by name, or groups with settings",
    )
    components: int = Field(30, gt=0, description="principal components of the features (all classifiers but residual)")
    confounds: tuple[str, ...] = Field(
        (),
        description="columns regressed out of the features; the regression is fitted on the controls among the training people",
    )
    harmonise: Harmonisation | None = Field(
        None,
        description="remove the location and scale of each site from the features (ComBat), fitted on the training people",
    )
    threshold: Threshold = Field(
        "prevalence",
        description="probability from which the last of two classes is predicted; prevalence: its share among the training people",
    )
    covariates: tuple[str, ...] = Field(("age_years", "sex"), description="columns of the baseline that uses no scan")
    volumes: tuple[str, ...] | None = Field(
        None,
        description="columns with volumes of the same scans, each a baseline; none: hippocampus and ventricles, where present",
    )
    voxels: bool = Field(True, description="run a voxel-wise linear SVM as a baseline; needs the prepared scans")
    untrained: bool = Field(
        False,
        description="a linear machine on features of a 3D network with random weights that never learned (un-CNN) as a baseline; "
        "some seconds a scan; needs the prepared scans, 32 voxels or more along every axis",
    )
    prepared: Folders | None = Field(
        None, description="prepared folders of the scans; none: those that the latents were made from"
    )
    synthetic: Folders | None = Field(
        None,
        description="latents of synthetic scans of the same run, added to the training people of every fold; never tested",
    )
    split: Literal["folds", "sites"] = Field(
        "folds", description="folds: stratified folds by person; sites: leave one site out at a time"
    )
    folds: int = Field(5, ge=2, description="number of folds; a cross-fitted model has one per member")
    repeats: int = Field(5, ge=1, description="repetitions of the cross-validation, each with new folds")
    seen: SeenPolicy = waiver(
        "refuse",
        "people that a model behind the features was trained on: refuse (stop), leave_out (exclude), train_only (train on "
        "them, test the others), or waive (test them; recorded and printed)",
        waives=("waive",),
    )
    duplicates: Duplicates = waiver(
        "refuse",
        "two ids whose scans look like one person: refuse (stop), merge (keep in one fold), or waive (ignore)",
        waives=("waive",),
    )
    permutations: int = Field(1000, ge=0, description="permutations of the labels (within sites) for the p value")
    bootstrap: int = Field(2000, ge=100, description="bootstrap resamples of people for each interval")
    prevalences: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.03, 0.1, 0.25), description="prevalences at which predictive values are computed"
    )
    readers: Folder | None = Field(
        None,
        description="CSV or TSV of what people read from the same scans (subject, reader, score): compared with the primary "
        "classifier, pair by pair; two classes only",
    )
    reader_threshold: float | None = Field(
        None, description="readers' score from which they mean the last class; none: they wrote classes, or 0 and 1"
    )
    mta_rule: MtaRule = Field(
        "ferreira_2015",
        description="cut-offs by age of medial temporal atrophy (Scheltens 0 to 4, mean of both sides): a rule that is a "
        "baseline where the table has a column mta",
    )
    genotypes: Folder | None = Field(
        None,
        description="folder of `gen3d genotypes`: genes, the scan and both are compared on the same people and folds, in which "
        "relatives stay together; joined by subject alone; no prediction of a person from genes is written",
    )
    ancestry_components: int = Field(
        5,
        ge=0,
        description="with genotypes: components of ancestry in the genetic model, fitted on the training people of a fold",
    )
    gene_permutations: int = Field(
        20,
        ge=0,
        description="with genotypes: times that genes of other people are given to everybody, for each control",
    )
    fit: Folder | None = Field(None, description="finished folder of this verb, whose head is tested on external=")
    external: Folders | None = Field(None, description="latents of other people, encoded with the same run; needs fit=")
    seed: int = Field(0, ge=0, description="seed of folds, permutations and bootstrap")
    workers: int = execution(0, "processes for the permutations; 0: one per core", ge=0)

    @model_validator(mode="after")
    def _together(self) -> StudySettings:
        if (self.fit is None) != (self.external is None):
            raise ValueError("fit= (a finished head) and external= (latents of other people) go together.")
        self._with_genotypes()
        if self.harmonise is not None and self.harmonise.protects(self.target):
            raise ValueError(self.harmonise.protection_sentence(self.target))
        if self.target in self.confounds:
            raise ValueError(
                f"{self.target} is the column to predict, so it cannot be a confound; leave it out of confounds."
            )
        kinds, names = [head.kind for head in self.heads], contestant_names(self.heads)
        if len(set(names)) < len(names):
            twice = max(names, key=names.count)
            raise ValueError(
                f"heads names {twice} twice; give a run another name: {{kind: run, run: FOLDER, name: NAME}}."
            )
        if self.latents is None:
            self._without_latents([kind for kind in kinds if kind != "run"])
        if "run" in kinds and self.split == "sites":
            raise ValueError(
                "split=sites tests people of a site that training did not know, but a trained classifier has folds of its own; "
                "leave out split=sites, or the run."
            )
        if kinds[0] == "run" and self.external is not None:
            raise ValueError(
                "fit= and external= test a head that was kept, but the first of heads= is a trained classifier, of which none is."
            )
        if kinds[0] == "residual" and self.permutations > MOST_PERMUTED_NETWORKS:
            raise ValueError(
                f"permuting the labels of the residual head {self.permutations} times would train {25 * self.permutations} "
                f"networks; name another head first, or set permutations={MOST_PERMUTED_NETWORKS} or fewer."
            )
        if "residual" in kinds and (self.confounds or self.harmonise or self.beside):
            raise ValueError(
                "the residual head uses spatial latents unchanged, without confounds, harmonise or beside; leave those out, or "
                "leave residual out of heads."
            )
        return self

    def _with_genotypes(self) -> None:
        if self.genotypes is not None and self.external is not None:
            raise ValueError(
                "genotypes= compares genes and scans by cross-validation, and the head of fit= learned from scans alone; leave out "
                "genotypes=, or fit= and external=."
            )

    def _without_latents(self, heads: Sequence[str]) -> None:
        if self.fit is not None:
            raise ValueError("latents= is missing: give those that the head of fit= was fitted with.")
        if heads:
            raise ValueError(
                f"latents= is missing: the head {heads[0]} learns from latents (gen3d encode); leave it out of heads= to compare "
                "trained classifiers alone."
            )
        if self.prepared is None:
            raise ValueError("give latents=, or prepared= where only trained classifiers are compared.")
        for name in ("beside", "synthetic", "harmonise", "confounds"):
            if getattr(self, name):
                raise ValueError(f"{name}= is about latents, and there are none; leave it out, or give latents=.")

    def reads(self) -> Inputs:
        """The folders and files that are read, by field."""
        named: dict[str, Any] = {"latents": list(self.latents)} if self.latents is not None else {}
        if self.beside:
            named["beside"] = list(self.beside)
        runs = [run for head in self.heads if isinstance(head, RunSettings) for run in head.candidates]
        if runs:
            named["heads"] = runs
        for name in ("table", "fit", "readers", "genotypes"):
            if getattr(self, name) is not None:
                named[name] = getattr(self, name)
        for name in ("prepared", "synthetic", "external"):
            if getattr(self, name) is not None:
                named[name] = list(getattr(self, name))
        return named


def contestant_names(heads: Heads) -> list[str]:
    """As tables call them."""
    return [head.called if isinstance(head, RunSettings) else head.kind for head in heads]

"""The settings of a study of heads: who is told from whom, by what, tested how."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from gen3d.classify.heads.settings import HeadSettings, LinearSettings, Threshold
from gen3d.cohort.duplicates import Duplicates
from gen3d.cohort.seen import SeenPolicy
from gen3d.cohort.target import Task
from gen3d.core.config import Folder, Folders, execution, waiver
from gen3d.core.work import FolderVerb, Inputs
from gen3d.harmonise.recipe import Harmonisation


def _by_name(value: Any) -> Any:
    """`linear` and `[linear, svm]` are short for groups with that kind."""
    listed = value if isinstance(value, (list, tuple)) else [value]
    return [{"kind": item} if isinstance(item, str) else item for item in listed]


Heads = Annotated[tuple[HeadSettings, ...], BeforeValidator(_by_name), Field(min_length=1)]


MOST_PERMUTED_NETWORKS = 100


class StudySettings(FolderVerb):
    """The fields of `gen3d classify`, and the inputs among them."""

    latents: Folders = Field(description="folders of encode or harmonise (one run), or maps of anomaly (their scores)")
    beside: tuple[Folder, ...] = Field((), description="further such folders of the same scans, as further features")
    table: Folder | None = Field(
        None,
        description="CSV or TSV with further columns: subject (or participant_id), session if they differ by session",
    )
    target: str = Field(description="column to be told: a diagnosis, a stage, a grade, age_years, sex, site")
    classes: tuple[str | float, ...] | None = Field(
        None, description="values to tell apart, healthy first: [CN,AD]; others are left out; all values if none"
    )
    task: Task | None = Field(
        None, description="categories, ordered (grades, in the order of classes) or number; none: found out"
    )
    only: dict[str, Any] = Field(
        default_factory=dict, description="use these scans only: column: value, [values] or [lowest, highest]"
    )
    sessions: Literal["first", "all"] = Field(
        "first", description="the first session of every person, or all (they stay together in every split)"
    )
    heads: Heads = Field(
        (LinearSettings(),),
        description="heads, the one that counts first: linear, svm, boosting, mlp, residual (spatial latents only); by name, or "
        "groups with settings",
    )
    components: int = Field(30, gt=0, description="principal components that heads other than residual are given")
    confounds: tuple[str, ...] = Field(
        (), description="columns regressed out of the features, fitted on controls of the training people"
    )
    harmonise: Harmonisation | None = Field(
        None, description="take a site's location and scale out of the features (ComBat), fitted on training people"
    )
    threshold: Threshold = Field(
        "prevalence",
        description="probability of the last of two classes from which it is called; prevalence: of training",
    )
    covariates: tuple[str, ...] = Field(("age_years", "sex"), description="columns of the baseline without any scan")
    volumes: tuple[str, ...] | None = Field(
        None,
        description="columns with volumes of the same scans as baselines; none: hippocampus and ventricles, if there",
    )
    voxels: bool = Field(True, description="the voxel-wise linear SVM as a baseline; needs the prepared scans")
    prepared: Folders | None = Field(
        None, description="prepared folders of the scans; none: where the latents came from"
    )
    synthetic: Folders | None = Field(
        None, description="encoded synthetic scans of the same run, to learn from in every fold; never tested"
    )
    split: Literal["folds", "sites"] = Field("folds", description="stratified folds, or leave one site out at a time")
    folds: int = Field(5, ge=2, description="folds; a cross-fitted family has as many as members")
    repeats: int = Field(5, ge=1, description="times the people are dealt out to folds anew")
    seen: SeenPolicy = waiver(
        "refuse",
        "people whom a model behind the features saw: stop, leave_out, train_only (learn from them, test the "
        "others), or waive (test them; recorded and printed)",
        waives=("waive",),
    )
    duplicates: Duplicates = waiver(
        "refuse",
        "two ids whose scans look like one person: stop, merge (kept together), or waive",
        waives=("waive",),
    )
    permutations: int = Field(1000, ge=0, description="dealings of permuted labels (within sites) behind p")
    bootstrap: int = Field(2000, ge=100, description="resamples of people behind each interval")
    prevalences: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(
        (0.03, 0.1, 0.25), description="shares of ill people for which predictive values are given"
    )
    fit: Folder | None = Field(None, description="folder of a finished head (this verb), to be tested on external=")
    external: Folders | None = Field(None, description="latents of other people, encoded by the same run; with fit=")
    seed: int = Field(0, ge=0, description="seed of folds, permutations and resampling")
    workers: int = execution(0, "processes of the permutations; 0: one per core", ge=0)

    @model_validator(mode="after")
    def _together(self) -> StudySettings:
        if (self.fit is None) != (self.external is None):
            raise ValueError("fit= (a finished head) and external= (latents of other people) go together.")
        if self.harmonise is not None and self.harmonise.protects(self.target):
            raise ValueError(self.harmonise.protection_sentence(self.target))
        if self.target in self.confounds:
            raise ValueError(
                f"{self.target} is what is to be told, so it cannot be a confound; leave it out of confounds."
            )
        kinds = [head.kind for head in self.heads]
        if len(set(kinds)) < len(kinds):
            raise ValueError(f"heads names {max(kinds, key=kinds.count)} twice.")
        if kinds[0] == "residual" and self.permutations > MOST_PERMUTED_NETWORKS:
            raise ValueError(
                f"permuting the labels of the residual head {self.permutations} times would train {25 * self.permutations} "
                f"networks; name another head first, or set permutations={MOST_PERMUTED_NETWORKS} or fewer."
            )
        if "residual" in kinds and (self.confounds or self.harmonise or self.beside):
            raise ValueError(
                "the residual head takes spatial latents as they are, without confounds, harmonise or beside; leave those out, "
                "or residual."
            )
        return self

    def reads(self) -> Inputs:
        """The folders and files that are read, by field."""
        named: dict[str, Any] = {"latents": list(self.latents)}
        if self.beside:
            named["beside"] = list(self.beside)
        for name in ("table", "fit"):
            if getattr(self, name) is not None:
                named[name] = getattr(self, name)
        for name in ("prepared", "synthetic", "external"):
            if getattr(self, name) is not None:
                named[name] = list(getattr(self, name))
        return named

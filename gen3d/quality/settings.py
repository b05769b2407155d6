"""Settings of `gen3d quality`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gen3d.cohort.seen import LeaveOutPolicy
from gen3d.core.config import Folder, Folders, execution
from gen3d.core.work import FolderVerb
from gen3d.models.run import OneRun
from gen3d.quality.features import ExtractorConfig, RandomFeatures


class QualitySettings(FolderVerb):
    """What `gen3d quality` compares, and how precisely."""

    synthetic: Folder = Field(description="synthetic dataset (sample)")
    reference: Folders = Field(description="prepared folders (prepare or simulate) of real people")
    extractors: tuple[ExtractorConfig, ...] = Field(
        (RandomFeatures(),),
        min_length=1,
        description="networks whose features distances are computed in: random, {kind: med3d, weights: FILE}, "
        "{kind: radimagenet, weights: FILE}",
    )
    match: tuple[str, ...] = Field(
        ("diagnosis", "sex", "age_years"),
        description="columns in which the reference is narrowed to what was requested: categories, ranges of numbers",
    )
    seen: LeaveOutPolicy = Field(
        "refuse", description="when the generator saw people of the reference: refuse, or leave_out"
    )
    run_folder: OneRun | None = Field(
        None,
        alias="run",
        description="the generator's run, to measure what its autoencoder does to real scans; by default the run that "
        "gen3d sample recorded",
    )
    most_people: int = Field(
        2000,
        ge=100,
        description="synthetic scans, people of the reference and training people that are compared, a random choice of "
        "larger groups: time and memory grow with its square",
    )
    repeats: int = Field(100, ge=20, description="random halves of the real people behind each distance and its floor")
    pairs: int = Field(1000, ge=10, description="pairs of scans for diversity; all, where there are fewer")
    bootstrap: int = Field(1000, ge=100, description="resamples of people behind all other intervals")
    smoothing_voxels: float = Field(2.0, gt=0, description="FWHM of the smoothed real scans that serve as a yardstick")
    pictured: int = Field(8, ge=1, le=24, description="scans of each kind in the pictures")
    seed: int = Field(0, ge=0, description="of halves, pairs, folds, resamples and the order of pictures")
    device: Literal["auto", "cpu", "cuda"] = execution(
        "auto", "where features are computed; auto takes a GPU if there is one"
    )

    @model_validator(mode="after")
    def _distinct(self) -> QualitySettings:
        kinds = [config.kind for config in self.extractors]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"extractors names {', '.join(twice)} twice; each kind can be there once")
        return self

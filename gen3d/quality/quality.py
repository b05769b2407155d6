"""`gen3d quality`: synthetic scans against real people whom the generator never saw, every figure beside its floor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pandas as pd
from pydantic import Field, model_validator

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import LeaveOutPolicy
from gen3d.core.artefact import Work
from gen3d.core.config import Folder, Folders, execution
from gen3d.core.progress import say
from gen3d.core.tables import plain_row
from gen3d.core.work import FolderVerb, Identity, Inputs
from gen3d.models.run import OneRun
from gen3d.nets.device import device_of
from gen3d.quality.evaluation import Asked, Evaluation
from gen3d.quality.features import ExtractorConfig, RandomFeatures, check_extractors
from gen3d.quality.folder import write_quality
from gen3d.quality.people import People, choose_people
from gen3d.quality.sentences import sentences

TABLES = ("distances", "diversity", "structures", "fidelity", "utility")
REFERENCE_COLUMNS = ["key", "subject", "session", "role", "diagnosis", "age_years", "sex", "site"]


class Quality(FolderVerb):
    """Compare synthetic scans (`gen3d sample`) with real people of a prepared cohort whom the generator never saw.

    Writes metrics.json, tables (distances, diversity, structures, fidelity, fidelity_people, utility, reference) and
    figures/: shuffled.png, real and synthetic scans in random order, with the answer in shuffled_key.tsv; labelled.png;
    structures.png; fidelity.png. Every figure has its n, an interval, and what real people differ by among themselves.
    """

    synthetic: Folder = Field(description="synthetic dataset (sample)")
    reference: Folders = Field(description="prepared folders (prepare or simulate) of real people")
    extractors: tuple[ExtractorConfig, ...] = Field(
        (RandomFeatures(),),
        min_length=1,
        description="what features distances are taken in: random, {kind: med3d, weights: FILE}, "
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
        description="the generator's run, for what its autoencoder does; where sample found it if none",
    )
    repeats: int = Field(100, ge=20, description="halves of the real people drawn for each distance and its floor")
    pairs: int = Field(1000, ge=10, description="pairs of scans for diversity; all, where there are fewer")
    bootstrap: int = Field(1000, ge=100, description="resamples of people behind each other interval")
    smoothing_voxels: float = Field(2.0, gt=0, description="FWHM of the smoothing that distances are read against")
    pictured: int = Field(8, ge=1, le=24, description="scans of each kind in the pictures")
    seed: int = Field(0, ge=0, description="of halves, pairs, folds, resamples and the order of pictures")
    device: Literal["auto", "cpu", "cuda"] = execution(
        "auto", "where features are computed; auto takes a GPU if there is one"
    )

    @model_validator(mode="after")
    def _distinct(self) -> Quality:
        kinds = [config.kind for config in self.extractors]
        twice = sorted({kind for kind in kinds if kinds.count(kind) > 1})
        if twice:
            raise ValueError(f"extractors names {', '.join(twice)} twice; each kind can be there once")
        return self

    def plan(self) -> list[str]:
        """Who would be compared with whom."""
        check_extractors(self.extractors)
        people = self.open_inputs()[2]
        learned = f"{len(people.learned)} real people with role train for predictors"
        return [
            f"compares {len(people.synthetic)} synthetic scans with {len(people.reference)} real people; {learned}",
            *people.notes,
            f"features: {', '.join(config.kind for config in self.extractors)}",
            f"writes {self.out}",
        ]

    def reads(self) -> Inputs:
        """The synthetic scans, the real ones, and the generator if it is named."""
        inputs: dict[str, Any] = {"synthetic": self.synthetic, "reference": list(self.reference)}
        return inputs | ({"run": self.run_folder} if self.run_folder is not None else {})

    def identity(self, opened: Callable[[], Any]) -> Identity:
        """Also the weights of the extractors."""
        return Identity(self.reads(), {"weights": check_extractors(self.extractors)})

    def write(self, work: Work, opened: tuple[Prepared, Prepared, People]) -> dict[str, Any]:
        """Write the quality folder."""
        synthetic, real, people = opened
        for note in people.notes:
            say(f"reference: {note}")
        evaluation = Evaluation(self._asked(), synthetic, real, people)
        tables = {name: getattr(evaluation, name) for name in TABLES}
        evaluation.write_pictures()
        found = sentences(tables, len(people.synthetic), len(people.reference))
        self._write(evaluation, tables, found)
        for sentence in found:
            say(sentence)
        return {"sentences": found, "num_synthetic": len(people.synthetic), "num_real": len(people.reference)}

    def open_inputs(self) -> tuple[Prepared, Prepared, People]:
        """The synthetic and the real scans, and who of them is compared with whom."""
        synthetic, real = open_prepared(self.synthetic), open_prepared(self.reference)
        people = choose_people(synthetic, real, self.match, self.seen)
        real.require_channels((T1W,))
        return synthetic, real, people

    def _asked(self) -> Asked:
        device = str(device_of(self.device, 0, "device"))
        return Asked(
            self.out, self.extractors, self.run_folder, self.repeats, self.pairs, self.bootstrap,
            self.smoothing_voxels, self.pictured, self.seed, device,
        )  # fmt: skip

    def _write(self, evaluation: Evaluation, tables: dict[str, pd.DataFrame], found: list[str]) -> None:
        people = evaluation.people
        record = {
            "summary": found,
            "num_synthetic": len(people.synthetic),
            "num_real": len(people.reference),
            "num_learned": len(people.learned),
            "reference": list(people.notes),
            "not_included": evaluation.notes,
            "extractors": {kind: plain_row(row) for kind, row in evaluation.extractors.items()},
        }
        reference = people.reference[REFERENCE_COLUMNS]
        write_quality(self.out, record, tables, reference, evaluation.conditioning.people)

"""Settings that every network has that learns a column of the cohort table: what it tells, from whom, and when it is judged."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gen3d.cohort.target import Target
from gen3d.cohort.target import Task as TargetTask
from gen3d.core.config import Config
from gen3d.models.base import BaseModelConfig


class Answers(Config):
    """What the scores of a classifier mean, as training settled it from the cohort table."""

    name: str = Field(description="column of the cohort table")
    task: TargetTask = Field(description="categories, ordered or number")
    classes: tuple[str, ...] = Field((), description="classes in order; the last is the one to detect")

    @property
    def target(self) -> Target:
        """The same, as the other verbs know it."""
        return Target(self.name, self.task, self.classes)


class LabelConfig(BaseModelConfig):
    """A network that learns labels: the column, whose scans count, who only watches, and members with permuted labels."""

    target: str = Field("diagnosis", description="column of the cohort table to tell")
    classes: tuple[str, ...] | None = Field(
        None,
        description="classes in order, the one to detect last; people of others are left out. Default: all that occur",
    )
    task: TargetTask | None = Field(
        None, description="categories, ordered (grades) or number; default: as the column reads"
    )
    sessions: Literal["all", "first"] = Field(
        "all", description="scans of a person: all of them, in one fold, or the first"
    )
    validation: float = Field(
        0.15,
        ge=0,
        lt=0.5,
        description="share of each member's training people who are never trained on: they choose among the `looks`, which "
        "stops early by people, and classify calibrates with them; 0: the last weights are kept",
    )
    looks: int = Field(10, gt=0, description="times in a training at which the validation people are scored")
    permuted: int = Field(
        0,
        ge=0,
        description="further members trained with labels permuted between people of a site; a map of attention needs 19",
    )
    imbalance: str = Field("people", description="classes of unequal size")
    answers: Answers | None = Field(None, description="written by gen3d: what the scores mean")

    @model_validator(mode="after")
    def _two_classes(self) -> LabelConfig:
        if self.classes is not None and len(self.classes) < 2:
            raise ValueError(f"classes={list(self.classes)} is one class, and a network needs two")
        return self

    @property
    def has_expectation(self) -> bool:
        return False

    @property
    def has_twins(self) -> bool:
        """Whether members with random weights stand beside those that start from weights learned elsewhere."""
        return False

    @property
    def answered(self) -> Answers:
        """What the scores mean.

        Raises:
            ValueError: training has not settled it.
        """
        if self.answers is None:
            raise ValueError("answers is missing: what the scores mean")
        return self.answers

"""The settings of the heads (classifiers on latents); one union type is the registry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gen3d.cohort.fusion_folder import Subset
from gen3d.core.config import Config, Folder, Folders

Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]

Threshold = Literal["prevalence"] | Share
"""Probability from which the last of two classes is predicted.

`prevalence` is its share among the training scans: with calibrated probabilities the Bayes rule of balanced accuracy, known
before anybody is predicted."""

MtaRule = Literal["ferreira_2015", "claus_2017", "chinese_2019", "memory_clinic_2021"]
"""Which published cut-offs of medial temporal atrophy are meant, see `study.mta_rules`."""


class LinearSettings(Config):
    """L2 logistic regression with balanced classes; ridge regression where the target is a number."""

    kind: Literal["linear"] = Field("linear", description="logistic regression, or ridge regression for a number")
    penalties: tuple[Positive, ...] = Field(
        (10.0, 1.0, 0.1, 0.01, 0.001),
        min_length=1,
        description="strengths of the L2 penalty that the inner cross-validation tries, per mean loss of a training "
        "scan, for inputs scaled to a mean variance of 1",
    )


class SvmSettings(Config):
    """Linear support vector machine with balanced classes; support vector regression for a number."""

    kind: Literal["svm"] = Field("svm", description="linear support vector machine, or regression for a number")
    costs: tuple[Positive, ...] = Field(
        (0.01, 0.1, 1.0, 10.0),
        min_length=1,
        description="costs C of a scan on the wrong side that the inner cross-validation tries, for inputs whose mean "
        "squared distance from the centre is 1",
    )


class BoostingSettings(Config):
    """Gradient-boosted trees on histograms (LightGBM's algorithm, as in scikit-learn)."""

    kind: Literal["boosting"] = Field("boosting", description="gradient-boosted trees")
    num_trees: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (20, 50, 100), min_length=1, description="numbers of trees that the inner cross-validation tries"
    )
    learning_rate: float = Field(0.1, gt=0, le=1, description="share of a tree's correction that is added")
    num_leaves: int = Field(4, gt=1, description="leaves of a tree at most; 2 leaves out interactions")
    fewest_scans: int = Field(5, gt=0, description="training scans in a leaf at least")


class MlpSettings(Config):
    """A perceptron with one hidden layer of tanh units, with balanced classes."""

    kind: Literal["mlp"] = Field("mlp", description="perceptron with one hidden layer")
    hidden_units: int = Field(16, gt=0, description="units of the hidden layer")
    penalties: tuple[Positive, ...] = Field(
        (0.1, 0.03, 0.01),
        min_length=1,
        description="strengths of the L2 penalty on the weights that the inner cross-validation tries, per mean loss of "
        "a training scan, for inputs scaled to a mean variance of 1",
    )
    steps: int = Field(200, gt=0, description="steps of the optimiser (L-BFGS) at most")


class ResidualSettings(Config):
    """A residual 3D network on spatial latents, with class weights and focal loss (Lin et al. 2017)."""

    kind: Literal["residual"] = Field("residual", description="residual 3D network on spatial latents")
    channels: int = Field(16, gt=0, description="channels of the first block; they double where the grid is halved")
    blocks: int = Field(1, gt=0, description="residual blocks of each stage")
    dropout: float = Field(0.3, ge=0, lt=1, description="share of pooled features dropped in training")
    steps: int = Field(200, gt=0, description="weight updates")
    batch_size: int = Field(16, gt=0, description="scans per weight update")
    learning_rate: float = Field(3e-3, gt=0, description="learning rate of AdamW at its highest")
    weight_decay: float = Field(1e-2, ge=0, description="weight decay of AdamW, per update and learning rate")
    focal_gamma: float = Field(
        2.0, ge=0, description="exponent by which scans that are predicted well count less; 0 is cross-entropy"
    )


TableHead = LinearSettings | SvmSettings | BoostingSettings | MlpSettings
"""Heads on one vector per scan."""

HeadSettings = Annotated[
    LinearSettings | SvmSettings | BoostingSettings | MlpSettings | ResidualSettings, Field(discriminator="kind")
]
"""Settings of any head, distinguished by `kind`."""


class RunSettings(Config):
    """A classifier that `gen3d train` made: its scores of held-out people are a contestant as they are."""

    kind: Literal["run"] = Field("run", description="a trained classifier of volumes or slices")
    run: Folder = Field(description="folder of the run (gen3d train, model.kind=classifier)")
    or_run: Folders | None = Field(
        None,
        description="further runs trained with folds=RUN, for instance with another orientation: in every fold the one with the "
        "lowest loss of its validation people is taken, who are never tested in that fold",
    )
    again: Folders | None = Field(
        None,
        description="the same training with other seeds, and so in other folds: each is one more repeat of the cross-validation, "
        "for every model of the study",
    )
    subset: Subset = Field(
        "both", description="of a fusion of genetics and images: by what people have, or by genetics or images alone"
    )
    name: str = Field("", description="as tables call it; none: the name of the folder, and the side that is alone")

    @property
    def called(self) -> str:
        """Its name in tables."""
        alone = "" if self.subset == "both" else f" ({self.subset} alone)"
        return self.name or f"{self.run.resolve().name}{alone}"

    @property
    def candidates(self) -> tuple[Path, ...]:
        """All runs that one is chosen from in every fold."""
        return (self.run, *(self.or_run or ()))

    @property
    def repeats(self) -> tuple[Path, ...]:
        """A run per repeat of the cross-validation."""
        return (self.run, *(self.again or ()))

    @model_validator(mode="after")
    def _one_way(self) -> RunSettings:
        if self.or_run and self.again:
            raise ValueError(
                "or_run chooses between trainings in the same folds, and again adds folds; give one of them"
            )
        return self


ContestantSettings = Annotated[
    LinearSettings | SvmSettings | BoostingSettings | MlpSettings | ResidualSettings | RunSettings,
    Field(discriminator="kind"),
]
"""What a study compares, distinguished by `kind`: heads on latents, and trained classifiers."""

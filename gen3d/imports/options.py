"""Settings of imported networks that their tensors do not show, so that a user has to give them."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from gen3d.cohort.coding import Categorical, Coding, Numeric
from gen3d.core.config import Config


class AutoencoderOptions(Config):
    """What the tensors of an AutoencoderKL do not show."""

    norm_num_groups: int = Field(gt=0, description="norm_num_groups of its training; 32 unless it said otherwise")
    norm_eps: float = Field(1e-6, gt=0, description="norm_eps of its training; both packages' own value is 1e-6")
    use_convtranspose: bool = Field(False, description="of a monai-generative training: its use_convtranspose")
    include_fc: bool = Field(
        True, description="of a MONAI 1.4 training: its include_fc (every other version shows it in the tensors)"
    )
    entry: str | None = Field(None, description="entry of the file, where several hold an autoencoder")


class ImportedCondition(Config):
    """A condition of the U-Net, a number or a category, as the column of a cohort table."""

    name: str = Field(description="column, such as age_years, sex, diagnosis, ventricles_ml")
    zero: float | None = Field(None, description="a number: value that was coded as 0")
    one: float | None = Field(None, description="a number: value that was coded as 1")
    codes: tuple[str, ...] | None = Field(
        None, min_length=2, description="a category: codes in the order of their numbers 0, 1, 2 ..."
    )

    @model_validator(mode="after")
    def _one_kind(self) -> ImportedCondition:
        numeric = self.zero is not None and self.one is not None
        if numeric == (self.codes is not None) or (self.zero is None) != (self.one is None):
            raise ValueError(f"condition {self.name} needs either zero= and one=, or codes=")
        if numeric and self.zero == self.one:
            raise ValueError(f"condition {self.name}: zero and one are both {self.zero}")
        return self

    def covariate(self) -> Numeric | Categorical:
        """The coding that gives the U-Net the numbers of its training."""
        if self.codes is not None:
            return Categorical(self.name, self.codes)
        assert self.zero is not None
        assert self.one is not None
        low, high = sorted((self.zero, self.one))
        return Numeric(self.name, mean=self.zero, std=self.one - self.zero, low=low, high=high)


class DiffusionOptions(Config):
    """What the tensors of a DiffusionModelUNet do not show."""

    norm_num_groups: int = Field(gt=0, description="norm_num_groups of its training; 32 unless it said otherwise")
    norm_eps: float = Field(1e-6, gt=0, description="norm_eps of its training; both packages' own value is 1e-6")
    num_head_channels: tuple[int, ...] | int = Field(description="num_head_channels: one number, or one per level")
    upcast_attention: bool = Field(False, description="attention in float32 also under bf16")
    include_fc: bool = Field(
        True, description="of a MONAI 1.4 training: its include_fc (every other version shows it in the tensors)"
    )
    noising: Literal["linear", "scaled_linear", "flow"] = Field(
        description="the scheduler's schedule: linear_beta, scaled_linear_beta, or flow for RFlowScheduler"
    )
    beta_start: float | None = Field(None, gt=0, lt=1, description="the scheduler's, with linear and scaled_linear")
    beta_end: float | None = Field(None, gt=0, lt=1, description="the scheduler's, with linear and scaled_linear")
    prediction: Literal["epsilon", "v"] | None = Field(
        None, description="the scheduler's prediction_type; epsilon unless it said v_prediction; none with flow"
    )
    scale_factor: float | None = Field(
        None, gt=0, description="number that latents were multiplied with, where the file of the U-Net does not hold it"
    )
    conditions: tuple[ImportedCondition, ...] = Field((), description="conditions of the U-Net, in its order")
    entry: str | None = Field(None, description="entry of the file, where several hold a U-Net")

    @model_validator(mode="after")
    def _complete(self) -> DiffusionOptions:
        betas = (self.beta_start, self.beta_end)
        if self.noising == "flow" and (*betas, self.prediction) != (None, None, None):
            raise ValueError("noising=flow has no beta_start, beta_end and prediction; leave them out")
        if self.noising != "flow" and None in betas:
            raise ValueError(f"noising={self.noising} needs beta_start and beta_end, as its training script gave them")
        return self

    @property
    def betas(self) -> tuple[float, float] | None:
        """First and last beta, where the schedule has them."""
        return (self.beta_start, self.beta_end) if self.beta_start and self.beta_end else None

    @property
    def heads(self) -> tuple[int, ...]:
        """Channels per head: one number, or one per level."""
        return (self.num_head_channels,) if isinstance(self.num_head_channels, int) else self.num_head_channels

    @property
    def coding(self) -> Coding:
        """The conditions' coding."""
        return Coding(tuple(condition.covariate() for condition in self.conditions))

    @property
    def predicted(self) -> Literal["epsilon", "v", "flow"]:
        """What the U-Net predicts, by gen3d's names."""
        return "flow" if self.noising == "flow" else self.prediction or "epsilon"

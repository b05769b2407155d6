"""`gen3d import-weights`: networks of MONAI or monai-generative that were trained elsewhere, as a run folder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, cast

import numpy as np
from pydantic import Field, model_validator
from torch import nn

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.seen import SeenBy
from gen3d.core.config import Folder
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say
from gen3d.core.work import FolderVerb, Inputs
from gen3d.imaging.plan import FIELD_OF_VIEW_MM, REGISTRATION, Grid, GridPlan
from gen3d.imports.checkpoint_file import CheckpointFile, read_checkpoint
from gen3d.imports.options import AutoencoderOptions, DiffusionOptions
from gen3d.maths.design import Design
from gen3d.models.base import Model, Statistics
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig
from gen3d.models.normative.monai_autoencoder import AutoencoderKLConfig
from gen3d.models.run_folder import weights_path, write_people_and_plan, write_settings
from gen3d.models.weights import save_weights
from gen3d.nets.imported.denoiser import check_conditions
from gen3d.nets.imported.monai_networks import UNetArguments
from gen3d.nets.imported.old_weights import (
    AUTOENCODER_MARK,
    UNET_MARK,
    Saved,
    Tensors,
    autoencoder_arguments,
    fill,
    under_new_names,
    unet_arguments,
)

AXES = ("LR", "PA", "IS")
UNKNOWN_INTENSITY = "as the imported weights were trained; unknown to gen3d"
_X, _Y, _Z = ((low + high) / 2 for low, high in FIELD_OF_VIEW_MM)


class ImportWeights(FolderVerb):
    """Open weights of AutoencoderKL and DiffusionModelUNet (MONAI, or monai-generative up to 0.2.3) as a run folder.

    The architecture is read from the tensors; the options give what they do not show. The weights are loaded completely or
    not at all. Their training people are not known: people of your cohort may be among them, and scans drawn from them cannot
    be audited for copies, so `gen3d sample` needs a waiver.
    """

    autoencoder: Path = Field(description="file of an AutoencoderKL's weights (.pt or .safetensors)")
    autoencoder_options: AutoencoderOptions = Field(description="what its tensors do not show")
    diffusion: Path | None = Field(
        None, description="file of a DiffusionModelUNet's weights; none: only the autoencoder"
    )
    diffusion_options: DiffusionOptions | None = Field(None, description="what its tensors do not show; with diffusion")
    channels: tuple[str, ...] = Field(("t1w",), min_length=1, description="the volumes that the autoencoder takes")
    plan_from: Folder | None = Field(
        None, description="prepared folder whose plan the run adopts; or shape, spacing_mm"
    )
    shape: Grid | None = Field(None, description="voxels along x, y, z, where there is no plan_from")
    spacing_mm: float | None = Field(None, gt=0, description="edge of a voxel, mm, where there is no plan_from")
    centre_mm: tuple[float, float, float] = Field(
        (_X, _Y, _Z), description="MNI152 position of the grid's centre, mm; the default is that of gen3d's own grids"
    )
    orientation: str = Field("RAS", description="where x, y, z of its training's arrays lead: L or R, P or A, I or S")
    intensity: str = Field(UNKNOWN_INTENSITY, description="how the training made intensities comparable, in words")
    intensity_zero: float = Field(0.0, description="stored value that was 0 in the autoencoder's training")
    intensity_one: float = Field(1.0, description="stored value that was 1 in the autoencoder's training")

    @model_validator(mode="after")
    def _complete(self) -> ImportWeights:
        if self.diffusion is not None and self.diffusion_options is None:
            raise ValueError("diffusion= needs diffusion_options.norm_num_groups, .num_head_channels and .noising")
        if (self.plan_from is None) == (self.shape is None) or (self.shape is None) != (self.spacing_mm is None):
            raise ValueError("give either plan_from=PREPARED, or shape=[x,y,z] and spacing_mm=")
        if self.shape is not None and min(self.shape) < 1:
            raise ValueError(f"shape={list(self.shape)} has a side without voxels")
        if len(self.orientation) != 3 or sorted(self._rows()) != [0, 1, 2]:
            raise ValueError(f"orientation={self.orientation} is not three letters, one each of L or R, P or A, I or S")
        if self.intensity_zero == self.intensity_one:
            raise ValueError("intensity_zero and intensity_one are the same value")
        return self

    def plan(self) -> list[str]:
        """What would be imported; the files are read."""
        model, notes = self._read(self._grid())
        return [*notes, f"{_count_weights(model)} weights in all", f"writes {self.out}"]

    def reads(self) -> Inputs:
        """The files of weights, and the folder whose grid they are for."""
        files = {"autoencoder": self.autoencoder, "diffusion": self.diffusion, "plan_from": self.plan_from}
        return {name: path for name, path in files.items() if path is not None}

    def open_inputs(self) -> tuple[GridPlan, Any, list[str]]:
        """The grid, the model with its weights, and notes on them."""
        plan = self._grid()
        return plan, *self._read(plan)

    def write(self, work: Work, opened: tuple[GridPlan, Any, list[str]]) -> dict[str, Any]:
        """Write the run folder."""
        plan, model, notes = opened
        self._write(plan, model)
        work.record["config"] |= self._described(model)  # where other verbs look for the model of a run
        for note in notes:
            say(note)
        say(f"{self.out}: {model.config.kind}, imported; its training people are not known.")
        return {"kind": model.config.kind, "num_weights": _count_weights(model), "notes": notes}

    def _rows(self) -> list[int]:
        """The world axis (0 left to right, 1 back to front, 2 bottom to top) along which each axis of an array runs."""
        return [row for letter in self.orientation for row, ends in enumerate(AXES) if letter in ends]

    def _grid(self) -> GridPlan:
        """The plan of the prepared folder, or cubic voxels around `centre_mm`."""
        if self.plan_from is not None:
            prepared = open_prepared(self.plan_from)
            prepared.require_channels(self.channels)
            return prepared.plan
        assert self.shape is not None
        assert self.spacing_mm is not None
        affine = np.eye(4)
        affine[:3, :3] = 0
        for column, (row, letter) in enumerate(zip(self._rows(), self.orientation, strict=True)):
            affine[row, column] = self.spacing_mm if letter in "RAS" else -self.spacing_mm
        affine[:3, 3] = np.array(self.centre_mm) - affine[:3, :3] @ (np.array(self.shape) - 1) / 2
        return GridPlan(
            spacing_mm=self.spacing_mm,
            shape=self.shape,
            affine=tuple((float(row[0]), float(row[1]), float(row[2]), float(row[3])) for row in affine),
            divisible_by=math.gcd(*self.shape),
            intensity=self.intensity,
            channels=self.channels,
            registration=REGISTRATION,
        )

    def _read(self, plan: GridPlan) -> tuple[Any, list[str]]:
        """The model with its weights, and notes on them for the user."""
        options = self.autoencoder_options
        file = read_checkpoint(self.autoencoder, AUTOENCODER_MARK, "AutoencoderKL", options.entry)
        saved = under_new_names(file.tensors, options.include_fc)
        arguments, tensors = autoencoder_arguments(
            saved, str(self.autoencoder), options.norm_num_groups, options.norm_eps, options.use_convtranspose
        )
        if arguments.num_channels != len(self.channels):
            raise UserError(
                f"{self.autoencoder}: takes volumes of {arguments.num_channels} channels, but channels={list(self.channels)} names "
                f"{len(self.channels)}."
            )
        notes = [f"{self.autoencoder}: AutoencoderKL {_origin(saved)}, levels of {list(arguments.channels)} channels"]
        settings = {name: value for name, value in vars(arguments).items() if name != "num_channels"}
        autoencoder = AutoencoderKLConfig.model_validate(settings)
        if self.diffusion is None:
            built: Any = autoencoder.build(plan, self.channels, self._statistics(plan), 1)
            fill(built.network, tensors, str(self.autoencoder))
            return built, notes
        return self._with_diffusion(plan, autoencoder, tensors, file, notes)

    def _with_diffusion(
        self, plan: GridPlan, autoencoder: AutoencoderKLConfig, tensors: Tensors, file: CheckpointFile, notes: list[str]
    ) -> tuple[LatentDiffusion, list[str]]:
        options = self.diffusion_options
        assert options is not None
        assert self.diffusion is not None
        source = str(self.diffusion)
        unet_file = read_checkpoint(self.diffusion, UNET_MARK, "DiffusionModelUNet", options.entry)
        saved = under_new_names(unet_file.tensors, options.include_fc)
        arguments, unet = unet_arguments(
            saved, source, options.norm_num_groups, options.norm_eps, options.heads, options.upcast_attention
        )
        if arguments.out_channels != autoencoder.latent_channels:
            raise UserError(
                f"{source}: a network of {arguments.out_channels} latent channels, but the autoencoder's latents have "
                f"{autoencoder.latent_channels}; they do not belong together."
            )
        check_conditions(arguments, len(options.conditions), source)
        scale = _agreed_scale(options.scale_factor, unet_file.scale_factor or file.scale_factor, source)
        notes.append(f"{source}: DiffusionModelUNet {_origin(saved)}, levels of {list(arguments.channels)} channels")
        notes.append(f"latents are multiplied by {scale:g} before the U-Net and divided by it afterwards")
        model = self._diffusion_config(plan, autoencoder, arguments, options).build(
            plan, self.channels, self._statistics(plan), 1
        )
        fill(cast(nn.Module, model.autoencoder.network), tensors, str(self.autoencoder))
        fill(model.denoiser.network, _signed(unet, options), source)
        model.latent_std.fill_(1 / scale)
        return model, notes

    def _diffusion_config(
        self, plan: GridPlan, autoencoder: AutoencoderKLConfig, arguments: UNetArguments, options: DiffusionOptions
    ) -> LatentDiffusionConfig:
        reduction = 2 ** (len(arguments.channels) - 1)
        padded = autoencoder.model_copy(update={"latent_divisible_by": reduction})
        blank = padded.build(plan, self.channels, self._statistics(plan), 1)
        return LatentDiffusionConfig(
            conditions=options.coding.names,
            noising=options.noising,
            betas=options.betas,
            prediction=options.predicted,
            autoencoder=padded,
            coding=options.coding.to_dict(),
            latent_shape=blank.latent_shape,
            network=arguments,
        )

    def _statistics(self, plan: GridPlan) -> Statistics:
        count = len(self.channels)
        zero, one = self.intensity_zero, self.intensity_one
        return Statistics(
            np.full(count, zero, np.float32), np.full(count, one - zero, np.float32), np.ones(plan.shape, bool)
        )

    def _described(self, model: Any) -> dict[str, Any]:
        return {"model": model.config.model_dump(mode="json"), "channels": list(self.channels)}

    def _write(self, plan: GridPlan, model: Any) -> None:
        """The files of a run folder."""
        write_settings(self.out, self._described(model))
        write_people_and_plan(self.out, plan, SeenBy(({},)), _intercept_only())
        save_weights(weights_path(self.out, 0), model.state_dict(), plan.key, model.config.kind)


def _origin(saved: Saved) -> str:
    dropped = f", {len(saved.unused)} tensors left out that it stores but never applies" if saved.unused else ""
    return f"of {'monai-generative' if saved.old else 'MONAI'}{dropped}"


def _agreed_scale(option: float | None, stored: float | None, source: str) -> float:
    """The one latent scale.

    Raises:
        UserError: no scale is known, or the option and the file differ.
    """
    if option is None and stored is None:
        raise UserError(
            f"{source}: does not hold the number that latents were multiplied with; give diffusion_options.scale_factor=, "
            "which is `scale_factor` of the training script (often printed as the inverse of the standard deviation of the "
            "first batch of latents), or 1 where its inference decodes the U-Net's latents as they are."
        )
    if option is not None and stored is not None and not math.isclose(option, stored, rel_tol=1e-3):
        raise UserError(
            f"{source}: holds scale_factor {stored:g}, but diffusion_options.scale_factor={option:g}; leave it out."
        )
    return float(stored if stored is not None else option or 1.0)


def _signed(unet: Tensors, options: DiffusionOptions) -> Tensors:
    """MONAI's rectified flow predicts data minus noise, gen3d's noise minus data: the last layer changes its sign."""
    if options.predicted != "flow":
        return unet
    return unet | {name: -unet[name] for name in ("out.2.conv.weight", "out.2.conv.bias")}


def _intercept_only() -> Design:
    return Design((), math.nan, (math.nan, math.nan), 0.0, (), {}, {}, 0)


def _count_weights(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())

"""Latents to train on: those of `gen3d encode`, or encoded before the first step by a trained autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from gen3d.cohort.coding import Coding
from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.latents_folder import ARRAY, MIRRORED, SHAPE, TABLE, read_latents_table
from gen3d.cohort.region_validity import ML, remark
from gen3d.cohort.seen import SeenBy
from gen3d.cohort.structures import SUFFIX, with_structures
from gen3d.core.arrays import read_array
from gen3d.core.artefact import digest, file_digest, read, write_atomic
from gen3d.core.errors import UserError
from gen3d.core.inputs import input_of
from gen3d.core.output_folder import Work
from gen3d.core.plain_files import load_object
from gen3d.core.progress import track, warn
from gen3d.core.work import Inputs
from gen3d.core.work_arrays import save_array
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.diffusion.in_latents import InLatents
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, LatentDiffusionConfig, no_noise
from gen3d.models.run import Run, load_expecting
from gen3d.train.augment import AugmentConfig
from gen3d.train.engine.processes import Processes
from gen3d.train.learners import RunPeople, learners
from gen3d.train.log import Painter
from gen3d.train.material import NUM_PICTURED, TrainingMaterial, design_of
from gen3d.train.pictures import draw_samples
from gen3d.train.random_numbers import INITIAL_WEIGHTS, seed_of
from gen3d.train.settings import TrainSettings

CONDITIONS = "conditions.tsv"
SPATIAL = 4
"""Axes of a spatial latent: channels and three sides."""


@dataclass(frozen=True)
class LatentSource:
    """Rows of an array on disk as volumes; the first half of `rows` may be followed by the same scans mirrored."""

    arrays: tuple[NDArray[np.float32], ...]
    rows: NDArray[np.int64]
    shape: tuple[int, int, int, int]
    subjects: tuple[str, ...]
    coded: NDArray[np.float32]
    channels: tuple[str, ...] = ()

    def load(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        num = len(self.rows)
        latents = [self.arrays[row // num][self.rows[row % num]] for row in rows]
        return np.stack(latents).reshape(len(rows), *self.shape)

    def conditions(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.coded[rows]

    def labels(self, rows: NDArray[np.int64]) -> None:
        return None


@dataclass(frozen=True)
class LatentMaterial(TrainingMaterial):
    """Latents of people, the autoencoder that made them, and where the array lies or will lie.

    `autoencoder_named` is whether the user named the autoencoder. `rows` are the places in the array of the scans of
    `people.frame`, which names mirrored scans a second time.
    """

    autoencoder: Run
    coding: Coding
    rows: NDArray[np.int64]
    mirrored: bool
    folder: Path | None
    prepared: Prepared | None
    autoencoder_named: bool
    out: Path

    unused: ClassVar[frozenset[str]] = frozenset({"channels"})

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        kind = f"model.kind={settings.model.kind}"
        if (settings.prepared is None) == (settings.latents is None):
            raise ValueError(f"{kind} needs latents=FOLDER of `gen3d encode`, or prepared= and vae=")
        if settings.prepared is not None and settings.autoencoder is None:
            raise ValueError(f"{kind} with prepared= needs vae=FOLDER of a trained autoencoder")
        if settings.cross_fit != 1:
            raise ValueError(f"{kind} has one member; use cross_fit=1")
        for name in settings.augment.of_scans:
            raise ValueError(f"augment.{name} changes scans, not latents; leave it out for {kind}")

    @classmethod
    def open(cls, settings: TrainSettings) -> LatentMaterial:
        """Open the latents and their autoencoder, and choose the training people.

        Raises:
            UserError: latents of another autoencoder, of no volume, not finite; no training people; a condition that
                is not in the table.
        """
        prepared, latents, autoencoder, mirrored = (
            settings.prepared,
            settings.latents,
            settings.autoencoder,
            settings.augment.flip,
        )
        cohort = open_prepared(prepared) if prepared is not None else None
        if cohort is None:
            table = read_latents_table(cast(Path, latents), ("encode",))
            run = _autoencoder_of(cast(Path, latents), autoencoder)
            if mirrored and not (cast(Path, latents) / MIRRORED).is_file():
                raise UserError(
                    f"{latents}: no mirrored latents there; encode with mirrored=true, or set augment.flip=false."
                )
        else:
            run = load_expecting(cast(Path, autoencoder))
            run.require(cohort)
            table = cohort.manifest[cohort.manifest["role"] != "excluded"].reset_index(drop=True)
        latent_shape(run)
        chosen = learners(table, settings.patients)
        frame = table.iloc[chosen].reset_index(drop=True)
        if frame.empty:
            raise UserError(
                "nobody has the role train in the cohort table, so there are no training people; prepare with "
                "controls=[...] naming the diagnoses that are healthy, or add patients=0.8 to train on others too."
            )
        if cohort is not None:
            frame = with_structures(cohort, frame)
        coding = Coding.fit(frame, cast(LatentDiffusionConfig, settings.model).conditions)
        warn_of_readings(coding.names)
        everybody = pd.concat([frame, frame], ignore_index=True) if mirrored else frame
        people = RunPeople(everybody, (np.arange(len(everybody)),))
        rows = np.arange(len(frame)) if cohort is not None else chosen
        return cls(
            plan=run.plan,
            channels=run.channels,
            people=people,
            design=design_of(people),
            autoencoder=run,
            coding=coding,
            rows=rows,
            mirrored=mirrored,
            folder=latents,
            prepared=cohort,
            autoencoder_named=autoencoder is not None,
            out=settings.out,
        )

    @property
    def inputs(self) -> Inputs:
        named: dict[str, Path | Sequence[Path]] = {}
        if self.folder is not None:
            named["latents"] = self.folder
        if self.prepared is not None:
            named["prepared"] = list(self.prepared.folders)
        if self.autoencoder_named:
            named["autoencoder"] = self.autoencoder.folder
        return named

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels and sides of a latent."""
        return latent_shape(self.autoencoder)

    @cached_property
    def source(self) -> LatentSource:
        folder = self.folder or self._own
        names = (ARRAY, MIRRORED) if self.mirrored else (ARRAY,)
        arrays = tuple(mapped(folder / name) for name in names)
        for name, array in zip(names, arrays, strict=True):
            refuse_non_finite(folder / name, array[self.rows], self.people.frame["key"].tolist())
        subjects = tuple(str(subject) for subject in self.people.frame["subject"])
        return LatentSource(arrays, self.rows, self.shape, subjects, self.coding.encode(self.people.frame))

    @property
    def _own(self) -> Path:
        """Where latents made on the way lie."""
        return self.out / "latents"

    def fingerprint(self) -> str:
        if self.prepared is not None:
            return digest([self.prepared.fingerprint(), self.autoencoder.artefact.key])
        try:
            return digest([file_digest(cast(Path, self.folder) / name) for name in (ARRAY, TABLE)])
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be read ({error.strerror}).") from None

    def seen(self) -> SeenBy:
        """All people that the autoencoder or the diffusion model was trained on."""
        return SeenBy(({**self.autoencoder.seen.members[0], **self.people.seen().members[0]},))

    def completed(self, model: BaseModelConfig) -> BaseModelConfig:
        return model.model_copy(
            update={
                "autoencoder": self.autoencoder.model_config,
                "coding": self.coding.to_dict(),
                "latent_shape": self.shape,
            }
        )

    def prepare(self, processes: Processes) -> None:
        """Encode the scans, unless that was done before: the first process does it and all wait."""
        if self.prepared is not None:
            processes.on_first(self._encode)

    def _encode(self) -> None:
        prepared, model = cast(Prepared, self.prepared), self.autoencoder.member(0)
        names = (ARRAY, MIRRORED) if self.mirrored else (ARRAY,)
        if all((self._own / name).is_file() for name in names):
            return
        latents = {name: np.empty((len(self.rows), int(np.prod(self.shape))), np.float32) for name in names}
        for row in track(range(len(self.rows)), "encoding"):
            volume = torch.from_numpy(prepared.load([str(self.people.frame["key"].iloc[row])], self.channels))
            for name, array in latents.items():
                seen = volume.flip(2) if name == MIRRORED else volume
                array[row] = model.encode(seen.to(self.autoencoder.device)).flatten().cpu().numpy()
        for name, array in latents.items():
            save_array(self._own / name, array)

    def statistics(self, rows: NDArray[np.int64], processes: Processes) -> Statistics:
        model = self.autoencoder.member(0)
        mean, std, mask = (value.cpu().numpy() for value in (model.channel_mean, model.channel_std, model.brain_mask))
        return Statistics(mean, std, mask)

    def set_frozen_parts(self, model: Model, member: int, processes: Processes) -> None:
        """The autoencoder's weights, and the scale of the latents over all training scans: mean and SD per channel, mean latent."""
        assert isinstance(model, LatentDiffusion)
        model.autoencoder.load_state_dict(self.autoencoder.member(0).state_dict())
        set_scale(model, self.source.load, self.people.members[member], processes)

    def augmentation(self, settings: AugmentConfig) -> AugmentConfig:
        """None: latents are mirrored by their encoder, see `mirrored`."""
        return AugmentConfig()

    def painter(self, model: Model, rows: NDArray[np.int64], kind: str, seed: int) -> Painter:
        """Draws samples of a denoiser in training for the conditions of the first people, next to their scans."""
        assert isinstance(model, LatentDiffusion)
        shown, source = rows[:NUM_PICTURED], self.source
        conditions, latents = torch.from_numpy(source.conditions(shown)), torch.from_numpy(source.load(shown))

        def paint(denoiser: nn.Module, path: Path) -> None:
            model.denoiser = cast(Any, denoiser)
            device = next(denoiser.parameters()).device
            for name in ("latent_mean", "latent_std", "mean_latent"):
                setattr(model, name, getattr(model, name).to(device))
            generator = torch.Generator().manual_seed(seed_of(seed, INITIAL_WEIGHTS, 0))
            first = torch.randn((len(conditions), *model.latent_shape), generator=generator).to(device)
            drawn = model.generate(conditions.to(device), first, no_noise)
            home = model.brain_mask.device
            sampled, real = (model.decode(values.to(home)).cpu().numpy() for values in (drawn, latents))
            draw_samples(path, real, sampled, self.channels, f"{kind}: {path.stem}")

        return paint

    @property
    def mask(self) -> NDArray[np.bool_]:
        return cast(NDArray[np.bool_], self.autoencoder.member(0).brain_mask.cpu().numpy())

    def describe(self, work: Work) -> None:
        super().describe(work)
        # The order of the rows would reveal the people behind them.
        shuffled = self.people.frame.drop_duplicates("key").sample(frac=1.0, random_state=0)
        table = shuffled[list(self.coding.names)]
        write_atomic(work.folder / CONDITIONS, table.to_csv(sep="\t", index=False, na_rep="n/a", float_format="%.6g"))

    def sentences(self) -> list[str]:
        sides = "x".join(map(str, self.shape[1:]))
        known = ", ".join(covariate.describe() for covariate in self.coding.covariates) or "nothing"
        return [
            f"latents: {self.shape[0]} channels of {sides} by the {self.autoencoder.kind} of {self.autoencoder.folder}"
            + (", and mirrored" if self.mirrored else ""),
            f"conditions: {known}",
        ]


def set_scale(
    model: InLatents,
    load: Callable[[NDArray[np.int64]], NDArray[np.float32]],
    rows: NDArray[np.int64],
    processes: Processes,
) -> None:
    """Give a model the scale of latents: mean and SD per channel, and the mean latent.

    Args:
        model: whose buffers are set.
        load: latents [n, C, X, Y, Z] of some rows.
        rows: of all training scans.
        processes: that read a share of them each.

    Raises:
        UserError: a channel that the autoencoder does not use.
    """
    shape, mine = model.latent_shape, rows[processes.rank :: processes.num]
    total = np.zeros(shape)
    for row in mine:
        total += load(np.array([row]))[0]
    mean = processes.sum_array(total) / len(rows)
    channel_mean = mean.mean((1, 2, 3))
    around = mean if model.around_mean else np.broadcast_to(channel_mean[:, None, None, None], shape)
    squares = np.zeros(shape[0])
    for row in mine:
        squares += np.square(load(np.array([row]))[0] - around).sum((1, 2, 3))
    std = np.sqrt(processes.sum_array(squares) / (len(rows) * np.prod(shape[1:])))
    flat = np.flatnonzero(std < 1e-6 * max(float(std.max()), 1e-12))
    if len(flat) or float(std.max()) == 0:
        raise UserError(
            f"channel {int(flat[0]) if len(flat) else 0} of the latents is the same in all training scans: the autoencoder "
            "does not use it (its KL term may be too strong); train it with a lower model.beta or fewer latent_channels."
        )
    model.latent_mean.copy_(torch.from_numpy(channel_mean))
    model.latent_std.copy_(torch.from_numpy(std))
    model.mean_latent.copy_(torch.from_numpy(around - channel_mean[:, None, None, None]))


def _autoencoder_of(latents: Path, named: Path | None) -> Run:
    """The run that made the latents: where it was then, or where the user says it is now.

    Raises:
        UserError: it is not there any more, or vae= names another one.
    """
    try:
        shape = load_object(latents / SHAPE)
        made_by = str(shape["run_key"])
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{latents / SHAPE}: missing or damaged ({error}); encode again.") from None
    artefact = read(latents)
    record: list[Any] = artefact.inputs.get("run", [])
    if named is None and not record:
        raise UserError(f"{latents}: does not say which autoencoder made these latents; give vae=FOLDER.")
    folder = named if named is not None else input_of(artefact, record[0], "give vae=FOLDER")
    run = load_expecting(folder)
    if run.artefact.key != made_by:
        raise UserError(
            f"{latents}: latents of another VAE: they were made by run {made_by}, {folder} holds run {run.artefact.key}; "
            "give vae= the run that encoded them, or encode again."
        )
    return run


def latent_shape(run: Run, several: bool = False) -> tuple[int, int, int, int]:
    """Channels and sides of an autoencoder's latent.

    Args:
        run: of the autoencoder.
        several: whether it may have several members, each with latents of its own.

    Raises:
        UserError: the run has no latents that a model can be trained on.
    """
    usable = run.has_latent if several else run.comparable_latents
    if not usable or run.model_config.uses_covariates:
        raise UserError(
            f"{run.folder}: a {run.kind} run of {run.num_members} members has no latents that a diffusion model can be "
            "trained on; train a vae with model.latent=spatial and cross_fit=1."
        )
    shape = run.latent_shape
    if len(shape) != SPATIAL:
        raise UserError(
            f"{run.folder}: its latent is {' x '.join(map(str, shape))} numbers, not a volume; train a vae with "
            "model.latent=spatial for a diffusion model."
        )
    return cast(tuple[int, int, int, int], shape)


def mapped(path: Path) -> NDArray[np.float32]:
    try:
        return read_array(path, mapped=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: missing or damaged ({error}); encode again.") from None


def refuse_non_finite(path: Path, latents: NDArray[np.float32], keys: list[str]) -> None:
    bad = [key for key, latent in zip(keys, latents, strict=False) if not np.isfinite(latent).all()]
    if bad:
        raise UserError(
            f"{path}: NaN or infinite latents of {', '.join(bad[:5])}; encode again with a run that is not damaged."
        )


def warn_of_readings(conditions: Sequence[str]) -> None:
    """Warn of conditions that are named after a structure's volume and do not follow it."""
    for name in conditions:
        caution = remark(name.removesuffix(SUFFIX), ML) if name.endswith(SUFFIX) else ""
        if caution:
            warn(f"condition {name}: {caution}; scans drawn with it follow the reading, not the structure.")

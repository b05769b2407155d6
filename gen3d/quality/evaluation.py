"""The parts of one evaluation of synthetic scans: sets of scans, distances, diversity, structures, fidelity, utility."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from gen3d.cohort.channels import T1W
from gen3d.cohort.folder import Prepared
from gen3d.cohort.structures import SUFFIX, with_structures
from gen3d.core.errors import UserError
from gen3d.core.progress import track, warn
from gen3d.core.result_folder import write_picture
from gen3d.imaging.similarity import smooth_inside
from gen3d.imaging.volume import read_stored, store
from gen3d.models.base import Model
from gen3d.models.run import Run, load_run
from gen3d.quality.distances import distance_rows
from gen3d.quality.diversity import diversity_rows
from gen3d.quality.features import ExtractorConfig, FeatureMaker, Scans
from gen3d.quality.fidelity import Fidelity, Material, fidelity
from gen3d.quality.folder import SHUFFLED_KEY
from gen3d.quality.people import People, generator_run
from gen3d.quality.picture import draw_fidelity, draw_scans, draw_structures
from gen3d.quality.predictors import read_all
from gen3d.quality.structures import structure_columns, structure_rows
from gen3d.quality.utility import utility_rows
from gen3d.synthesis.folder import PROVENANCE

MIN_LEARNED = 8
"""People with role train whose scans set the scale of random features; with fewer, the people of the reference do."""

FEATURES, FIGURES = "features", "figures"


@dataclass(frozen=True)
class Asked:
    """What an evaluation was asked for; see the keys of `Quality`."""

    out: Path
    extractors: tuple[ExtractorConfig, ...]
    run: Path | None
    repeats: int
    pairs: int
    bootstrap: int
    smoothing_voxels: float
    pictured: int
    seed: int
    device: str


@dataclass(frozen=True)
class Evaluation:
    """One evaluation's parts, each computed when first asked for."""

    asked: Asked
    prepared: Prepared
    cohort: Prepared
    people: People

    @cached_property
    def notes(self) -> list[str]:
        """What the evaluation lacks, and why."""
        return []

    @cached_property
    def real(self) -> Scans:
        """Scans of the reference."""
        return Scans("real", tuple(self.people.reference["key"]), self._reader(self.cohort))

    @cached_property
    def sets(self) -> list[Scans]:
        """Real, synthetic, and what the real ones become."""
        synthetic = Scans("synthetic", tuple(self.people.synthetic["key"]), self._reader(self.prepared))
        spacing = self.cohort.plan.spacing_mm
        blurred = smoothed(self.real, self.cohort.mask, self.asked.smoothing_voxels * spacing, spacing)
        return [self.real, synthetic, *self._reconstructed(), blurred]

    def _reader(self, prepared: Prepared) -> Any:
        mask = self.cohort.mask
        return lambda key: np.asarray(prepared.volume(key, T1W) * mask, dtype=np.float32)

    def _reconstructed(self) -> list[Scans]:
        run = self._run()
        if run is None:
            self.notes.append(
                f"reconstructions: the generator's run is not where {PROVENANCE} says it is; give run=FOLDER to see what its "
                "autoencoder alone does to real scans"
            )
            warn(self.notes[-1])
            return []
        run.require(self.cohort)
        return [reconstructed(self.real, self.cohort, run, self.asked.out / "reconstructed")]

    def _run(self) -> Run | None:
        folder, key = generator_run(self.prepared.folders[0])
        folder = self.asked.run or folder
        if folder is None:
            return None
        run = load_run(folder, self.asked.device)
        if run.artefact.key != key:
            raise UserError(f"{folder}: is run {run.artefact.key}, but the synthetic scans were drawn from run {key}.")
        return run

    @cached_property
    def makers(self) -> list[FeatureMaker]:
        """The extractors; random features are scaled by people that the generator learned from, never by synthetic scans."""
        enough = len(self.people.learned) >= MIN_LEARNED
        chosen = self.people.learned if enough else self.people.reference
        scaling = Scans("scaling", tuple(chosen["key"]), self._reader(self.cohort))
        folder = self.asked.out / "features"
        return [
            FeatureMaker(config, folder, scaling, self.cohort.mask, self.asked.device)
            for config in self.asked.extractors
        ]

    @property
    def extractors(self) -> dict[str, dict[str, Any]]:
        """What a reader must know of each extractor."""
        scaled_by = "role train" if len(self.people.learned) >= MIN_LEARNED else "the reference"
        return {
            maker.config.kind: {"normalisation": maker.normalisation}
            | ({"num_scaling": len(maker.scaling), "scaled_by": scaled_by} if maker.config.kind == "random" else {})
            for maker in self.makers
        }

    @cached_property
    def distances(self) -> pd.DataFrame:
        """FID, KID and MMD of every extractor."""
        return distance_rows(self.makers, self.sets, self.asked.repeats, self.asked.seed)

    @cached_property
    def diversity(self) -> pd.DataFrame:
        """MS-SSIM over pairs of scans."""
        asked = self.asked
        rows = diversity_rows(
            self.cohort.mask, self.sets, asked.pairs, asked.bootstrap, asked.seed, asked.out / "features"
        )
        return pd.DataFrame(rows)

    @cached_property
    def _measured(self) -> dict[str, pd.DataFrame]:
        """Tables of people with their structure volumes."""
        people = self.people
        everybody = pd.concat([people.learned, people.held_out], ignore_index=True)
        return {
            "real": with_structures(self.cohort, everybody),
            "synthetic": with_structures(self.prepared, people.synthetic),
        }

    @property
    def _like(self) -> NDArray[np.int64]:
        """Rows of the measured real people that are the reference."""
        return np.flatnonzero(self._measured["real"]["key"].isin(set(self.people.reference["key"])))

    @cached_property
    def structures(self) -> pd.DataFrame:
        """Volumes of structures."""
        real, synthetic = self._measured["real"].iloc[self._like], self._measured["synthetic"]
        if not structure_columns(real, synthetic):
            self.notes.append("structures: the plan has no deformation channel, so that no volume is measured")
            return pd.DataFrame()
        return structure_rows(real, synthetic, self.asked.bootstrap, self.asked.repeats, self.asked.seed)

    @cached_property
    def material(self) -> Material:
        """What predictors learn from and are tested on."""
        real, synthetic = self._measured["real"], self._measured["synthetic"]
        readings = read_all([(self.cohort, real), (self.prepared, synthetic)])
        held_out = np.arange(len(self.people.learned), len(real))
        return Material(real, synthetic, readings[0], readings[1], held_out, self._like)

    @cached_property
    def conditioning(self) -> Fidelity:
        """Requested against measured."""
        found = fidelity(self.material, self.people.requested, self.asked.bootstrap, self.asked.seed)
        self.notes.extend(f"fidelity of {note}" for note in found.notes)
        return found

    @property
    def fidelity(self) -> pd.DataFrame:
        """The table of `conditioning`."""
        return self.conditioning.table

    @cached_property
    def utility(self) -> pd.DataFrame:
        """Synthetic scans as training material."""
        table, notes = utility_rows(self.material, self.people.requested, self.asked.bootstrap, self.asked.seed)
        self.notes.extend(f"training on synthetic scans, {note}" for note in notes)
        return table

    def write_pictures(self) -> None:
        """Grids of scans, structures and fidelity."""
        out = self.asked.out
        generator = np.random.default_rng(self.asked.seed)
        shown = [
            (scans, str(key))
            for scans in self.sets[:2]
            for key in generator.permutation(scans.keys)[: self.asked.pictured]
        ]
        order = generator.permutation(len(shown))
        plan = self.cohort.plan
        volumes = [scans.read(key) for scans, key in shown]
        names = [f"{scans.name}  {key}" for scans, key in shown]
        write_picture(out, "labelled", draw_scans(volumes, names, "Real and synthetic scans", plan))
        mixed = [volumes[i] for i in order]
        numbers = [str(number) for number in range(1, len(order) + 1)]
        title = "Which of these scans are real? The answer is in shuffled_key.tsv."
        write_picture(out, "shuffled", draw_scans(mixed, numbers, title, plan))
        key_rows = [
            {"number": n, "kind": shown[i][0].name, "key": shown[i][1]} for n, i in zip(numbers, order, strict=True)
        ]
        SHUFFLED_KEY.write(out / FIGURES, pd.DataFrame(key_rows))
        if len(self.structures):
            real = self._measured["real"].iloc[self._like]
            picture = draw_structures(real, self._measured["synthetic"], self.structures, SUFFIX)
            write_picture(out, "structures", picture)
        people = self.conditioning.people
        if len(people):
            write_picture(out, "fidelity", draw_fidelity(people, list(dict.fromkeys(people["covariate"]))))


RECONSTRUCTED, SMOOTHED = "reconstructed", "smoothed"


def smoothed(real: Scans, mask: NDArray[np.bool_], fwhm_mm: float, spacing_mm: float) -> Scans:
    """The real scans through a Gaussian of this FWHM inside the brain."""
    return Scans(SMOOTHED, real.keys, lambda key: smooth_inside(real.read(key), mask, fwhm_mm, spacing_mm), True)


def reconstructed(real: Scans, prepared: Prepared, run: Run, folder: Path) -> Scans:
    """The real scans through the encoder and the decoder that the generator draws through; volumes are kept in `folder`.

    What the synthetic scans are worse by than these, the diffusion model has to answer for.
    """
    model = run.member(0)
    autoencoder = cast(Model, getattr(model, "autoencoder", model))
    place = run.channels.index(T1W)
    paths = {key: folder / f"{key}_{T1W}.nii" for key in real.keys}
    waiting = [key for key, path in paths.items() if not path.is_file()]
    for key in track(waiting, "reconstructing"):
        volume = torch.from_numpy(prepared.load([key], run.channels)).to(run.device)
        expected = autoencoder.expect(volume).mean[0, place].float().cpu().numpy()
        store(paths[key], expected, prepared.plan.matrix)
    return Scans(RECONSTRUCTED, real.keys, lambda key: read_stored(paths[key]), True)

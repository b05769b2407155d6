"""The tables of one evaluation of synthetic scans: distances, diversity, structures, fidelity and utility."""

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
from gen3d.models.run import Run, load_run, require_finite_output
from gen3d.quality.distances import distance_rows
from gen3d.quality.diversity import diversity_rows
from gen3d.quality.features import FeatureMaker, ScanSet
from gen3d.quality.fidelity import Fidelity, PredictorMaterial, fidelity
from gen3d.quality.folder import SHUFFLED_KEY
from gen3d.quality.people import QualityPeople, generator_run
from gen3d.quality.picture import draw_fidelity, draw_scans, draw_structures
from gen3d.quality.predictors import read_all
from gen3d.quality.settings import QualitySettings
from gen3d.quality.structures import structure_columns, structure_rows
from gen3d.quality.utility import utility_rows
from gen3d.synthesis.folder import PROVENANCE

MIN_SCALING = 8
"""People with role train whose scans set the scale of random features; with fewer, the people of the reference do."""

FEATURES, FIGURES = "features", "figures"
NO_RUN = (
    f"reconstructions: the generator's run is not where {PROVENANCE} says it is; give run=FOLDER to see what its "
    "autoencoder alone does to real scans"
)
NO_STRUCTURES = "structures: the plan has no deformation channel, so no volume is measured"


@dataclass(frozen=True)
class Evaluation:
    """The tables and pictures of one evaluation, each computed when it is first read.

    Args:
        settings: of the verb.
        device: the device that `settings.device` stands for on this machine.
        synthetic: the dataset that is evaluated.
        real: the prepared cohort that it is compared with.
        people: whose scans are compared.
    """

    settings: QualitySettings
    device: str
    synthetic: Prepared
    real: Prepared
    people: QualityPeople

    @cached_property
    def notes(self) -> list[str]:
        """What could not be computed and why, in the order of the tables, whichever of them was read first."""
        return [
            *([] if self._run else [NO_RUN]),
            *([] if self._has_structures else [NO_STRUCTURES]),
            *(f"fidelity of {note}" for note in self.conditioning.notes),
            *(f"training on synthetic scans, {note}" for note in self._utility[1]),
        ]

    @cached_property
    def sets(self) -> list[ScanSet]:
        """The sets of scans that are compared: real (the reference), synthetic, reconstructed (with a run), smoothed."""
        real = ScanSet("real", tuple(self.people.reference["key"]), self._reader(self.real))
        synthetic = ScanSet("synthetic", tuple(self.people.synthetic["key"]), self._reader(self.synthetic))
        spacing = self.real.plan.spacing_mm
        blurred = smoothed(real, self.real.mask, self.settings.smoothing_voxels * spacing, spacing)
        return [real, synthetic, *self._reconstructed(real), blurred]

    def _reader(self, prepared: Prepared) -> Any:
        mask = self.real.mask
        return lambda key: np.asarray(prepared.volume(key, T1W) * mask, dtype=np.float32)

    def _reconstructed(self, real: ScanSet) -> list[ScanSet]:
        if self._run is None:
            warn(NO_RUN)
            return []
        self._run.require(self.real)
        return [reconstructed(real, self.real, self._run, self.settings.out / "reconstructed")]

    @cached_property
    def _run(self) -> Run | None:
        """The generator's run, None where it is not there any more."""
        recorded, key = generator_run(self.synthetic.folders[0])
        folder = self.settings.run_folder or recorded
        if folder is None:
            return None
        run = load_run(folder, self.device)
        if run.artefact.key != key:
            raise UserError(f"{folder}: is run {run.artefact.key}, but the synthetic scans were drawn from run {key}.")
        return run

    @property
    def _scaled_by_training_people(self) -> bool:
        return len(self.people.training) >= MIN_SCALING

    @cached_property
    def makers(self) -> list[FeatureMaker]:
        """The extractors. Real people set the scale of random features, training people where there are enough."""
        chosen = self.people.training if self._scaled_by_training_people else self.people.reference
        scaling = ScanSet("scaling", tuple(chosen["key"]), self._reader(self.real))
        folder = self.settings.out / FEATURES
        return [
            FeatureMaker(config, folder, scaling, self.real.mask, self.device) for config in self.settings.extractors
        ]

    @property
    def extractors(self) -> dict[str, dict[str, Any]]:
        """Normalisation of each extractor and, for random features, whose scans scale them."""
        scaled_by = "role train" if self._scaled_by_training_people else "the reference"
        return {
            maker.config.kind: {"normalisation": maker.normalisation}
            | ({"num_scaling": len(maker.scaling), "scaled_by": scaled_by} if maker.config.kind == "random" else {})
            for maker in self.makers
        }

    @cached_property
    def distances(self) -> pd.DataFrame:
        """FID, KID and MMD of every extractor."""
        return distance_rows(self.makers, self.sets, self.settings.repeats, self.settings.seed)

    @cached_property
    def diversity(self) -> pd.DataFrame:
        """MS-SSIM over pairs of scans."""
        settings = self.settings
        rows = diversity_rows(
            self.real.mask,
            self.sets,
            num_pairs=settings.pairs,
            num_resamples=settings.bootstrap,
            seed=settings.seed,
            folder=settings.out / FEATURES,
        )
        return pd.DataFrame(rows)

    @cached_property
    def _measured(self) -> dict[str, pd.DataFrame]:
        """Tables of people with the volumes of their structures: real (training, then held-out people) and synthetic."""
        people = self.people
        everybody = pd.concat([people.training, people.held_out], ignore_index=True)
        return {
            "real": with_structures(self.real, everybody),
            "synthetic": with_structures(self.synthetic, people.synthetic),
        }

    @property
    def _reference_rows(self) -> NDArray[np.int64]:
        """Rows of the measured real people that are the reference."""
        return np.flatnonzero(self._measured["real"]["key"].isin(set(self.people.reference["key"])))

    @property
    def _measured_reference(self) -> pd.DataFrame:
        return self._measured["real"].iloc[self._reference_rows]

    @property
    def _has_structures(self) -> bool:
        return bool(structure_columns(self._measured_reference, self._measured["synthetic"]))

    @cached_property
    def structures(self) -> pd.DataFrame:
        """Volumes of structures; empty where none is measured."""
        if not self._has_structures:
            return pd.DataFrame()
        settings = self.settings
        return structure_rows(
            self._measured_reference,
            self._measured["synthetic"],
            num_resamples=settings.bootstrap,
            num_repeats=settings.repeats,
            seed=settings.seed,
        )

    @cached_property
    def material(self) -> PredictorMaterial:
        """What predictors are trained and tested on."""
        real, synthetic = self._measured["real"], self._measured["synthetic"]
        readings = read_all([(self.real, real), (self.synthetic, synthetic)])
        held_out = np.arange(len(self.people.training), len(real))
        return PredictorMaterial(real, synthetic, readings[0], readings[1], held_out, self._reference_rows)

    @cached_property
    def conditioning(self) -> Fidelity:
        """Requested against measured conditions."""
        return fidelity(self.material, self.people.requested, self.settings.bootstrap, self.settings.seed)

    @property
    def fidelity(self) -> pd.DataFrame:
        """The table of `conditioning`."""
        return self.conditioning.table

    @property
    def utility(self) -> pd.DataFrame:
        """Synthetic scans as training material."""
        return self._utility[0]

    @cached_property
    def _utility(self) -> tuple[pd.DataFrame, list[str]]:
        """The table, and why a column has none."""
        return utility_rows(self.material, self.people.requested, self.settings.bootstrap, self.settings.seed)

    def write_pictures(self) -> None:
        """Draw grids of scans, structures and fidelity."""
        out = self.settings.out
        generator = np.random.default_rng(self.settings.seed)
        shown = [
            (scans, str(key))
            for scans in self.sets[:2]
            for key in generator.permutation(scans.keys)[: self.settings.pictured]
        ]
        order = generator.permutation(len(shown))
        plan = self.real.plan
        volumes = [scans.read(key) for scans, key in shown]
        names = [f"{scans.name}  {key}" for scans, key in shown]
        write_picture(out, "labelled", draw_scans(volumes, names, "Real and synthetic scans", plan))
        mixed = [volumes[i] for i in order]
        numbers = [str(number) for number in range(1, len(order) + 1)]
        title = f"Which of these scans are real? The answer is in {SHUFFLED_KEY.file}."
        write_picture(out, "shuffled", draw_scans(mixed, numbers, title, plan))
        key_rows = [
            {"number": n, "kind": shown[i][0].name, "key": shown[i][1]} for n, i in zip(numbers, order, strict=True)
        ]
        SHUFFLED_KEY.write(out / FIGURES, pd.DataFrame(key_rows))
        if len(self.structures):
            picture = draw_structures(
                self._measured_reference, self._measured["synthetic"], self.structures, suffix=SUFFIX
            )
            write_picture(out, "structures", picture)
        people = self.conditioning.people
        if len(people):
            write_picture(out, "fidelity", draw_fidelity(people, list(dict.fromkeys(people["covariate"]))))


RECONSTRUCTED, SMOOTHED = "reconstructed", "smoothed"


def smoothed(real: ScanSet, mask: NDArray[np.bool_], fwhm_mm: float, spacing_mm: float) -> ScanSet:
    """The real scans through a Gaussian of this FWHM inside the brain."""
    return ScanSet(SMOOTHED, real.keys, lambda key: smooth_inside(real.read(key), mask, fwhm_mm, spacing_mm), True)


def reconstructed(real: ScanSet, prepared: Prepared, run: Run, folder: Path) -> ScanSet:
    """The real scans through the generator's autoencoder (its own mean latent, decoded); volumes are kept in `folder`.

    The diffusion model can at best draw latents like these, so only what is worse than these is its own error.
    """
    model = run.member(0)
    autoencoder = cast(Model, getattr(model, "autoencoder", model))
    place = run.channels.index(T1W)
    paths = {key: folder / f"{key}_{T1W}.nii" for key in real.keys}
    waiting = [key for key, path in paths.items() if not path.is_file()]
    for key in track(waiting, "reconstructing"):
        volume = torch.from_numpy(prepared.load([key], run.channels)).to(run.device)
        expected = autoencoder.expect(volume).mean[0, place].float().cpu().numpy()
        require_finite_output(expected, run.folder, key)
        store(paths[key], expected, prepared.plan.matrix)
    return ScanSet(RECONSTRUCTED, real.keys, lambda key: read_stored(paths[key]), True)

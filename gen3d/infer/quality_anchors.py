"""Two known damages to the real scans, by which a reader learns what a distance means: the generator's own autoencoder, and
a smoothing."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from gen3d.anomaly.channels import T1W
from gen3d.cohort.folder import Prepared
from gen3d.core.progress import track
from gen3d.imaging.similarity import smooth_inside
from gen3d.imaging.volume import read_stored, store
from gen3d.infer.features import Scans
from gen3d.models.base import Model
from gen3d.models.run import Run

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

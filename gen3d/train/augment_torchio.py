"""What a scanner and a moving person add to a T1w scan, by TorchIO (Pérez-García et al. 2021), at random and reproducible.

Every parameter is drawn from the volume's own seed, and TorchIO's own generator is not used: a volume meets the same change in
whichever process, order and batch. The order is that of a scan: motion, blur, bias field, noise, gamma.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torchio
from torch import Tensor

AUGMENTATION_SCANNER = 3
"""Stream number of these changes (see `Batch.noise`)."""

MOVEMENTS = 2
"""Of a scan with motion."""

BIAS_ORDER, BIAS_TERMS = 3, 20
"""Order of the polynomial in x, y, z, and number of its terms."""

Change = Callable[[np.random.Generator, float], torchio.Transform]


def scanned(volume: Tensor, amounts: Mapping[str, float], share: float, seed: int) -> Tensor:
    """A T1w volume [X, Y, Z] on the CPU with some of the changes; what was exactly 0 stays background.

    Args:
        volume: stored units, white-matter median 1.
        amounts: the largest amount of each change by its name in `CHANGES`, without those that are off.
        share: probability of each change.
        seed: of this volume in this step.
    """
    generator = np.random.default_rng(np.random.SeedSequence([seed, AUGMENTATION_SCANNER]))
    image = torchio.ScalarImage(tensor=volume[None].clone())
    with torch.random.fork_rng(devices=[]):  # every transform draws a number, of which nothing depends
        for name, change in CHANGES.items():
            # Drawn also where it is off, so that switching one change on or off leaves the others as they were.
            chosen, own = generator.random() < share, generator.spawn(1)[0]
            if chosen and amounts.get(name, 0.0) > 0:
                image = change(own, amounts[name])(image)
    changed: Tensor = image.data[0].float()
    return torch.where(volume == 0, 0.0, changed)


def _motion(generator: np.random.Generator, amount: float) -> torchio.Transform:
    """Movements of up to so many degrees and voxels about and along each axis, at times of the scan."""
    degrees, shifts = generator.uniform(-amount, amount, (2, MOVEMENTS, 3))
    apart = 1 / (MOVEMENTS + 1)
    times = apart * (1 + np.arange(MOVEMENTS) + generator.uniform(-0.3, 0.3, MOVEMENTS))
    return torchio.Motion(degrees, shifts, times, "linear")


def _blur(generator: np.random.Generator, amount: float) -> torchio.Transform:
    """One Gaussian with a standard deviation up to `amount` voxels."""
    return torchio.Blur((generator.uniform(0, amount),) * 3)


def _bias_field(generator: np.random.Generator, amount: float) -> torchio.Transform:
    """The exponential of a polynomial with coefficients up to `amount`."""
    return torchio.BiasField(generator.uniform(-amount, amount, BIAS_TERMS).tolist(), BIAS_ORDER)


def _noise(generator: np.random.Generator, amount: float) -> torchio.Transform:
    """Gaussian noise with a standard deviation up to `amount`."""
    return torchio.Noise(0.0, generator.uniform(0, amount), int(generator.integers(2**31)))


def _gamma(generator: np.random.Generator, amount: float) -> torchio.Transform:
    """A power of up to exp(amount), or its inverse."""
    return torchio.Gamma(float(np.exp(generator.uniform(-amount, amount))))


CHANGES: Mapping[str, Change] = {
    "motion": _motion,
    "blur": _blur,
    "bias_field": _bias_field,
    "noise": _noise,
    "gamma": _gamma,
}

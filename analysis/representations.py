"""Representations on which heads are compared: principal components and VAEs, cross-fitted over everybody or seen by all.

Cross-fitted, each of five members never saw a fifth of the people, who are tested in that member's space only.
`SEEN_BY_ALL` is the leak: one model is trained and tested on everybody.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gen3d.cohort.manifest import Split
from gen3d.core.errors import Unfinished
from gen3d.latents.encode import Encode
from gen3d.prepare.prepare import Prepare
from gen3d.train.train import Train

Keys = dict[str, Any]
CROSS_FITTED, SEEN_BY_ALL = 5, 1


def pca(channels: tuple[str, ...], num_components: int = 30) -> Keys:
    """Principal components of voxels."""
    return {"channels": channels, "model": {"kind": "pca", "num_components": num_components}}


def vae(latent: str, levels: int, steps: int, **model: Any) -> Keys:
    """A small VAE of T1w; `levels` and the stem's halving set how far every side shrinks."""
    settings = {"kind": "vae", "latent": latent, "levels": levels, "base_channels": 16, "max_channels": 32, **model}
    return {"channels": ("t1w",), "model": settings, "optim": {"steps": steps, "batch_size": 4, "ema_decay": 0.99}}


def latents(prepared: Path, name: str, keys: Keys, out: Path, members: int = CROSS_FITTED) -> Path:
    """Train and encode what is not finished; the folder of latents."""
    name = name if members > 1 else f"{name}_seen_by_all"
    run = out / "runs" / name
    Train.model_validate({"prepared": prepared, "out": run, "cross_fit": members, **keys}).run()
    folder = out / "latents" / name
    Encode.model_validate({"prepared": prepared, "run": run, "out": folder}).run()
    return folder


def prepare_brains(source: Path, out: Path, spacing_mm: float = 2.5) -> Path:
    """Whole brains of a table on one grid, with everybody in role `train`; a scan that cannot be read is skipped."""
    split = Split(train=1.0, calibration=0.0, test=0.0)
    try:
        Prepare(source=(source,), out=out, spacing_mm=spacing_mm, controls=("all",), split=split).run()
    except Unfinished as error:
        print(error)
    return out


SLAB_MODELS: dict[str, Keys] = {
    "pca": pca(("t1w",)),
    "pca_both": pca(("t1w", "log_jacobian")),
    "vae_dense": vae("dense", levels=2, steps=250, latent_size=64),
    "vae_spatial": vae("spatial", levels=2, steps=120, latent_channels=3, beta=0.01),
}
"""16 slices of 2 mm allow two halvings."""

BRAIN_MODELS: dict[str, Keys] = {
    "pca": pca(("t1w",)),
    "pca_both": pca(("t1w", "log_jacobian")),
    "vae_dense": vae("dense", levels=3, steps=150, latent_size=64),
    "pca_50": pca(("t1w", "log_jacobian"), 50),
}

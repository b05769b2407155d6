"""A run that draws scans, in seconds: an untrained latent diffusion model around a VAE of a few steps, with a train's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gen3d.train.train import Train

SHORT: dict[str, Any] = {
    "optim": {"steps": 6, "batch_size": 4, "learning_rate": 3e-3},
    "engine": {"device": "cpu", "precision": "fp32"},
    "track": [],
    "picture_every": 1000,
}
SMALL: dict[str, Any] = {"base_channels": 8, "max_channels": 8}


def fit_generator(cohort: Path, runs: Path, channels: tuple[str, ...] = ("t1w",), levels: int = 2) -> Path:
    """Train both stages for a few steps on a cohort; returns the run that draws. Latents have 2^levels times shorter sides."""
    vae = {"kind": "vae", "latent": "spatial", "levels": levels, "latent_channels": 2, "beta": 1e-4, **SMALL}
    Train.model_validate({"prepared": cohort, "out": runs / "vae", "model": vae, "channels": channels, **SHORT}).run()
    model = {"kind": "latent_diffusion", "head_channels": 8, "conditions": ["age_years", "sex"]}
    model |= {"base_channels": 16, "max_channels": 16}
    tree = {"prepared": cohort, "vae": runs / "vae", "out": runs / "ldm", "model": model, **SHORT}
    return Train.model_validate(tree).run()

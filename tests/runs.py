"""Runs of closed-form models, made in milliseconds."""

from __future__ import annotations

from pathlib import Path

from gen3d.train.train import Train


def fit(prepared: Path, out: Path, **model: object) -> Path:
    """A run of a closed-form model on both channels."""
    cross_fit = model.pop("cross_fit", 1)
    keys = {"prepared": prepared, "out": out, "model": {"kind": "voxelwise", **model}, "cross_fit": cross_fit}
    return Train.model_validate({**keys, "track": []}).run()

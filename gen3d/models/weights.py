"""Weights on disk: one safetensors file per member, no pickle, loaded completely or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from gen3d.core.disk import whole_file, writing
from gen3d.core.errors import UserError
from gen3d.core.files import require_regular
from gen3d.core.plain_files import parse_json
from gen3d.models.base import Model, Statistics
from gen3d.nets.tensor_files import require_finite

FORMAT = "gen3d weights 1"
BUFFERS = ("channel_mean", "channel_std", "brain_mask")


def save_weights(path: Path, tensors: dict[str, Tensor], plan_key: str, model_kind: str) -> None:
    """Write a model's state, so that a reader finds the whole file or none.

    The metadata names the format, the model's kind and the plan the weights belong to.
    """
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    # One metadata entry: several would be written in random order, and equal weights shall be equal files.
    description = json.dumps({"format": FORMAT, "plan": plan_key, "kind": model_kind})
    with writing(path), whole_file(path) as partial:
        save_file(plain, partial, metadata={"gen3d": description})
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())


def read_weights(path: Path, plan_key: str, model_kind: str) -> dict[str, Tensor]:
    """Read a member's tensors.

    Raises:
        UserError: missing or damaged file, another format, another kind of model, weights of another plan, or weights that are
            NaN or infinite.
    """
    if not path.is_file():
        raise UserError(f"{path}: the member's weights are missing; train again with another out=.")
    try:
        require_regular(path)
        with safe_open(path, framework="pt") as stream:
            metadata = parse_json((stream.metadata() or {}).get("gen3d", "{}"))
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (not a mapping)
        if not isinstance(metadata, dict):
            raise ValueError("no description of the weights")
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged weights ({error}); copy the run folder again or train again.") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path}: not weights of gen3d ({metadata.get('format')!r}, expected {FORMAT!r}).")
    if metadata.get("kind") != model_kind:
        raise UserError(f"{path}: weights of a {metadata.get('kind')} model, but config.yaml describes {model_kind}.")
    if metadata.get("plan") != plan_key:
        raise UserError(
            f"{path}: weights of another plan: they were trained on plan {metadata.get('plan')}, but the plan.json "
            f"next to them is {plan_key}; restore the run folder's own files."
        )
    require_finite(tensors, path, "copy the run folder again or train again")
    return tensors


def statistics_in(path: Path, tensors: dict[str, Tensor]) -> Statistics:
    """The buffers that a model is built from before its weights are loaded."""
    missing = [name for name in BUFFERS if name not in tensors]
    if missing:
        raise UserError(f"{path}: incomplete weights, {', '.join(missing)} is missing; copy the run folder again.")
    mean, std, mask = (tensors[name].numpy() for name in BUFFERS)
    if mean.ndim != 1 or std.shape != mean.shape or mask.ndim != 3 or not (std > 0).all():
        raise UserError(f"{path}: damaged weights (its normalisation is none); copy the run folder again.")
    return Statistics(mean.astype(np.float32), std.astype(np.float32), mask.astype(bool))


def fill(path: Path, model: Model, tensors: dict[str, Tensor]) -> None:
    """Load tensors into a model; every name and shape must match.

    Raises:
        UserError: naming the first tensors that are missing, unexpected or of another shape.
    """
    require_fit(path, model, tensors)
    with torch.no_grad():
        model.load_state_dict(tensors, strict=True)


def require_fit(path: Path, model: Model, tensors: dict[str, Tensor]) -> None:
    """Refuse tensors that are not those of a model, which need not have any memory yet (torch's meta device).

    Raises:
        UserError: naming the first tensors that are missing, unexpected or of another shape.
    """
    expected = model.state_dict()
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    misshapen = [name for name in expected if name in tensors and expected[name].shape != tensors[name].shape]
    for problem, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", misshapen)):
        if names:
            raise UserError(
                f"{path}: the weights do not fit the model in config.yaml: {len(names)} tensors are {problem}, such as "
                f"{names[0]}; a model is loaded completely or not at all."
            )

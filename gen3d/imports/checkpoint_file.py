"""Tensors of a file of weights from elsewhere; nothing in the file is executed."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from gen3d.core.errors import UserError
from gen3d.nets.tensor_files import load_tensors, require_finite

DEPTH = 4
"""Levels of nested dictionaries that are searched: trainers wrap weights in one or two."""


@dataclass(frozen=True)
class CheckpointFile:
    """The tensors of one network in a file, and the latent scale where the file holds one."""

    tensors: dict[str, Tensor]
    entry: str
    scale_factor: float | None


def read_checkpoint(path: Path, mark: str, network: str, entry: str | None = None) -> CheckpointFile:
    """Read the network that has a tensor named `mark` from a file of torch.save or safetensors.

    The weights may be the file, an entry of it (such as `state_dict` or `model`), or a part of one under a prefix (such as
    `module.`, by parallel training).

    Args:
        path: the file.
        mark: a tensor that every such network has.
        network: its name, for messages.
        entry: which entry, where several hold such a network.

    Raises:
        UserError: no such file, a file that would have to be executed, a damaged one, or none or several such networks.
    """
    tree = _load(path)
    networks = dict(_networks(tree, mark))
    for tensors in networks.values():
        require_finite(tensors, path, "give a file that was not damaged, or of an earlier epoch")
    if entry is not None:
        if entry not in networks:
            raise UserError(f"{path}: has no {network} under `{entry}`; there is {_listed(networks)}.")
        return CheckpointFile(networks[entry], entry, _scale_factor(tree))
    if len(networks) > 1:
        raise UserError(f"{path}: holds several networks: {_listed(networks)}; choose one with ...options.entry=NAME.")
    if not networks:
        raise UserError(
            f"{path}: holds no weights of {network} (no tensor ends in {mark}); it holds {_described(tree)}. Give a file that "
            "MONAI or monai-generative trained."
        )
    label, tensors = next(iter(networks.items()))
    return CheckpointFile(tensors, label, _scale_factor(tree))


def _load(path: Path) -> Any:
    if not path.is_file():
        raise UserError(f"{path}: {'is a folder, not' if path.is_dir() else 'no such'} file of weights.")
    if _is_torchscript(path):
        raise UserError(
            f"{path}: a TorchScript archive, which is a program; give the .pt file of its weights instead (in a MONAI bundle, "
            "models/model.pt and not models/model.ts)."
        )
    try:
        return load_tensors(path)
    except pickle.UnpicklingError as error:
        if match := re.search(r"GLOBAL ([\w.]+)", str(error)):
            raise UserError(
                f"{path}: reading it would execute code ({match[1]}), so it was not read; where you trust the file, write its "
                "tensors alone with torch.save(model.state_dict(), ...) in the program that wrote it, and give that."
            ) from None
        raise _damaged(path, error) from None
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


def _is_torchscript(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False


def _damaged(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(f"{path}: not a file of weights, or a damaged one ({reason[:120]}); copy it again.")


def _mappings(tree: Any, label: str = "", depth: int = DEPTH) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every dictionary with its dotted place."""
    if depth == 0 or not isinstance(tree, Mapping):
        return
    yield label, tree
    for key, value in tree.items():
        yield from _mappings(value, f"{label}.{key}" if label else str(key), depth - 1)


def _networks(tree: Any, mark: str) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Every network that has the mark: its place in the file with its prefix, and its tensors without the prefix."""
    for label, mapping in _mappings(tree):
        names = [str(key) for key, value in mapping.items() if isinstance(value, Tensor)]
        for name in names:
            prefix = name.removesuffix(mark)
            if prefix == name or (prefix and not prefix.endswith(".")):
                continue
            place = ".".join(part for part in (label, prefix.removesuffix(".")) if part)
            of_network = [other for other in names if other.startswith(prefix)]
            yield place, {other.removeprefix(prefix): _plain(mapping[other]) for other in of_network}


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().float() if tensor.is_floating_point() else tensor.detach()


def _scale_factor(tree: Any) -> float | None:
    """The one number called scale_factor, wherever it is."""
    factors = set()
    for _, mapping in _mappings(tree):
        for key, value in mapping.items():
            if str(key).rpartition(".")[2] != "scale_factor":
                continue
            single = isinstance(value, Tensor) and value.numel() == 1
            if single or (isinstance(value, (int, float)) and not isinstance(value, bool)):
                factors.add(float(value))
    return factors.pop() if len(factors) == 1 else None


def _listed(networks: Mapping[str, Any]) -> str:
    return ", ".join(f"`{label}`" if label else "the file itself" for label in networks) or "none at all"


def _described(tree: Any) -> str:
    if not isinstance(tree, Mapping):
        return f"a {type(tree).__name__}"
    names = [str(key) for key in tree]
    return f"{len(names)} entries, such as {', '.join(names[:3])}" if names else "nothing"

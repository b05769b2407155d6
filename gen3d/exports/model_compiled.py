"""Networks compiled ahead of time and as ONNX, compared with the network that they were made from, when written and when opened.

A package holds machine code: it runs with the torch that made it, on processors of the kind that it was made on.
"""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gen3d.core.disk import whole_file, writing
from gen3d.core.errors import UserError
from gen3d.exports.folder import AGAIN, ONNX, PACKAGE, ExportedModel, check_view, member_path

Scorer = Callable[[Tensor, Tensor | None], Tensor]
"""Views [B, C, *size], and ages in years [B] or None -> scores [B, num_scores]."""

MOST_IN_BATCH = 64
CHECKED = (1, 3)
"""Sizes of the batches on which an export is compared with its network."""

CHECK_AGE_YEARS = 70.0
TOLERANCE, LEAST_TOLERANCE = 1e-3, 1e-6
"""Largest difference of a score, as a share of the largest score and in addition to it. Instance normalisation of nearly
constant maps enlarges rounding: ONNX Runtime was seen 1e-4 away. Initial scores are small, so the share is of them."""

COMPILERS = ("g++", "clang++", "c++")
INPUTS, OUTPUT = ("views", "age_years"), "scores"


@dataclass(frozen=True)
class Check:
    """Input of the comparison: views [3, C, *size] that hold nothing of a person, ages, and the network's scores of them."""

    views: Tensor
    ages: Tensor | None
    scores: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, network: nn.Module, channels: int, size: tuple[int, ...], takes_age: bool) -> Check:
        """Run the network."""
        views = torch.from_numpy(check_view(max(CHECKED), channels, size))
        ages = torch.full((len(views),), CHECK_AGE_YEARS) if takes_age else None
        scores = network(views) if ages is None else network(views, ages)
        return cls(views, ages, scores)

    @property
    def tolerance(self) -> float:
        """Largest difference that is rounding."""
        return LEAST_TOLERANCE + TOLERANCE * float(self.scores.abs().max())

    def difference(self, scorer: Scorer, path: Path) -> float:
        """Largest difference of a score over batches of the sizes `CHECKED`.

        Raises:
            UserError: larger than rounding.
        """
        found = 0.0
        for num in CHECKED:
            ages = self.ages[:num] if self.ages is not None else None
            found = max(found, float((scorer(self.views[:num], ages) - self.scores[:num]).abs().max()))
        if not found <= self.tolerance:
            raise UserError(
                f"{path}: gives other scores than the network it was made from (by {found:.2g}, more than rounding); leave its "
                "format out of formats=, or use another version of torch."
            )
        return found


def require_compiler() -> None:
    """Refuse to compile without a compiler.

    Raises:
        UserError: there is none.
    """
    named = os.environ.get("CXX", "")
    if not any(shutil.which(name) for name in (named, *COMPILERS) if name):
        raise UserError(
            "formats=compiled needs a C++ compiler, and none of g++, clang++ and c++ is there; install one, or give formats=[onnx]."
        )


def require_onnx() -> None:
    """Refuse ONNX without its packages.

    Raises:
        UserError: naming the first that is missing.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise UserError(f"formats=onnx needs {package}: pip install 'gen3d[export]', or give formats=[compiled].")


def compile_package(network: nn.Module, check: Check, path: Path) -> None:
    """Write a network as a package of machine code with any number of views from 1 to `MOST_IN_BATCH`.

    Raises:
        UserError: torch cannot compile it.
    """
    import torch._inductor

    inputs, dynamic = _example(check)
    path.parent.mkdir(parents=True, exist_ok=True)
    # One process: workers of the compiler would outlive the export.
    with writing(path), _quiet(), torch.no_grad(), torch._inductor.config.patch(compile_threads=1):
        try:
            program = torch.export.export(network, inputs, dynamic_shapes=dynamic)
            with whole_file(path) as partial:
                torch._inductor.aoti_compile_and_package(program, package_path=str(partial))
        except OSError:
            raise
        except Exception as error:  # whatever the compiler's many parts raise
            raise _not_exported(path, "compiled", error) from error


def write_onnx(network: nn.Module, check: Check, path: Path) -> None:
    """Write a network as ONNX, with any number of views.

    Raises:
        UserError: torch cannot translate it.
    """
    inputs, dynamic = _example(check)
    path.parent.mkdir(parents=True, exist_ok=True)
    with writing(path), _quiet(), torch.no_grad():
        try:
            names = list(INPUTS[: len(inputs)])
            program = torch.onnx.export(
                network,
                inputs,
                dynamo=True,
                dynamic_shapes=dynamic,
                input_names=names,
                output_names=[OUTPUT],
                verbose=False,
            )
            assert program is not None
            _without_places(program.model)
            with whole_file(path) as partial:
                program.save(partial, external_data=False)
        except OSError:
            raise
        except Exception as error:
            raise _not_exported(path, "onnx", error) from error


def package_scorer(path: Path) -> Scorer:
    """A compiled package, opened."""
    import torch._inductor

    package = torch._inductor.aoti_load_package(str(path))

    def scorer(views: Tensor, ages: Tensor | None) -> Tensor:
        scores: Tensor = package(views) if ages is None else package(views, ages)
        return scores

    return scorer


def onnx_scorer(path: Path) -> Scorer:
    """An ONNX file, opened by ONNX Runtime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def scorer(views: Tensor, ages: Tensor | None) -> Tensor:
        given = {INPUTS[0]: views.numpy()} | ({} if ages is None else {INPUTS[1]: ages.numpy()})
        return torch.from_numpy(np.asarray(session.run([OUTPUT], given)[0]))

    return scorer


def open_package(model: ExportedModel, member: int) -> Scorer:
    """A member's compiled package, compared with the network it was made from.

    Raises:
        UserError: compiled by another torch or for another processor, not there, or giving other scores than the network.
    """
    here, cpu = torch.__version__.split("+")[0], torch.backends.cpu.get_cpu_capability()
    if model.torch_version.split("+")[0] != here:
        raise UserError(
            f"{model.folder}: was compiled by torch {model.torch_version}, and this is torch {here}; {AGAIN}."
        )
    if model.description["cpu"] != cpu:
        raise UserError(
            f"{model.folder}: was compiled for a processor with {model.description['cpu']}, and this one has {cpu}; {AGAIN} here."
        )
    path, entry = member_path(model.folder, member, PACKAGE), model.member(member)
    if not path.is_file():
        raise UserError(f"{path}: no compiled package is there; {AGAIN} with formats=[compiled].")
    return _as_the_network(package_scorer(path), path, model, entry)


def open_onnx(model: ExportedModel, member: int) -> Scorer:
    """A member's ONNX file in ONNX Runtime, compared with the network it was made from.

    Raises:
        UserError: not there, no ONNX, or giving other scores than the network.
    """
    require_onnx()
    path, entry = member_path(model.folder, member, ONNX), model.member(member)
    if not path.is_file():
        raise UserError(f"{path}: no ONNX file is there; {AGAIN} with formats=[onnx].")
    try:
        scorer = onnx_scorer(path)
    except Exception as error:  # whatever the runtime raises at a damaged file
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{path}: damaged ({reason}); {AGAIN}.") from None
    return _as_the_network(scorer, path, model, entry)


def _as_the_network(scorer: Scorer, path: Path, model: ExportedModel, entry: Mapping[str, Any]) -> Scorer:
    """The scorer, if it gives the scores that were kept of its network.

    Raises:
        UserError: it does not.
    """
    known = torch.tensor(entry["check_scores"])
    views = torch.from_numpy(
        check_view(len(known), len(model.description["channels"]), model.description["window"]["size"])
    )
    ages = torch.full((len(known),), CHECK_AGE_YEARS) if model.description["takes_age"] else None
    difference = float((scorer(views, ages) - known).abs().max())
    if not difference <= entry["tolerance"]:
        raise UserError(f"{path}: gives other scores than the network it was made from (by {difference:.2g}); {AGAIN}.")
    return scorer


def _without_places(model: Any) -> None:
    """Drop what torch notes of every operation, among it the folders of this machine's Python files."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()


def _example(check: Check) -> tuple[tuple[Tensor, ...], tuple[dict[int, object], ...]]:
    """Inputs of two views, so that torch takes their number for a variable, and which of their sides that is."""
    batch = torch.export.Dim("batch", min=1, max=MOST_IN_BATCH)
    inputs = tuple(each[:2].clone() for each in (check.views, check.ages) if each is not None)
    return inputs, tuple({0: batch} for _ in inputs)


def _not_exported(path: Path, wanted: str, error: Exception) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"{path}: torch {torch.__version__} cannot export this network ({reason}); leave {wanted} out of formats=."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Within this context the exporters' remarks about themselves are not shown."""
    known = {name: logging.getLogger(name).level for name in ("torch.onnx", "torch._inductor", "onnxscript")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for name in known:
                logging.getLogger(name).setLevel(logging.ERROR)
            yield
        finally:
            for name, level in known.items():
                logging.getLogger(name).setLevel(level)

"""What is installed: Python, gen3d's requirements and extras, and what its torch can do on this machine."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

from gen3d import __version__
from gen3d.doctor.finding import Finding, good, harmful, missing

NAME = "gen3d"
NEWEST_PYTHON = (3, 13)
UNUSED_EXTRAS = ("dev",)
"""Of developers."""

USES = {
    "deepspeed": "sharded training on many GPUs (engine.kind=deepspeed)",
    "tracking": "curves in TensorBoard (track=[tensorboard] of gen3d train)",
    "mlflow": "trainings in MLflow (track=[mlflow]) and gen3d register",
    "wandb": "trainings in Weights & Biases (track=[wandb])",
    "sweep": "gen3d sweep",
    "serve": "gen3d serve, the page where one scan is uploaded",
    "export": "ONNX files of export-model",
    "parquet": "Parquet tables in prepare-slices",
    "dicom": "DICOM folders and zips as a source of gen3d prepare",
    "masks": "brain_mask=deepbet of gen3d prepare",
    "genetics": "PLINK, VCF and BCF files in gen3d genotypes",
}


def package_findings() -> Iterator[Finding]:
    """Python, gen3d, its requirements and its extras."""
    yield python()
    requirements = _requirements()
    if requirements is None:
        yield harmful("gen3d", f"{__version__}, not installed: its requirements are not known", "pip install -e .")
        return
    yield whole()
    wrong = [text for requirement, extra in requirements if not extra if (text := _wrong(requirement))]
    if wrong:
        yield harmful("requirements", "; ".join(wrong), "pip install --upgrade gen3d (or `make setup` in a checkout)")
    else:
        yield good("requirements", f"all {sum(not extra for _, extra in requirements)} are installed")
    yield from extras(requirements)


def whole() -> Finding:
    """gen3d itself: whether every file that was installed is there."""
    listed = [path for path in importlib.metadata.files(NAME) or [] if path.parts[0] == NAME and path.suffix != ".pyc"]
    lost = [str(path) for path in listed if not Path(str(path.locate())).is_file()]
    if lost:
        found = f"{__version__}, lacks {lost[0]}" + (f" and {len(lost) - 1} more of its files" if len(lost) > 1 else "")
        return harmful("gen3d", found, "pip install --force-reinstall --no-deps gen3d")
    return good("gen3d", __version__)


def python() -> Finding:
    """The interpreter."""
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info[:2] > NEWEST_PYTHON:
        return missing("Python", f"{found}; tested up to {'.'.join(map(str, NEWEST_PYTHON))}")
    return good("Python", f"{found}, {sys.executable}")


def extras(requirements: list[tuple[Requirement, str]]) -> Iterator[Finding]:
    """Each extra: complete, or the command that completes it."""
    for extra in dict.fromkeys(name for _, name in requirements if name and name not in UNUSED_EXTRAS):
        wrong = [text for requirement, name in requirements if name == extra if (text := _wrong(requirement))]
        what, use = f"extra {extra}", USES.get(extra, "")
        if wrong:
            text = "; ".join(wrong) + (f"; only for {use}" if use else "")
            yield missing(what, text, f"pip install 'gen3d[{extra}]'")
        else:
            yield good(what, f"installed, for {use}" if use else "installed")


def torch_findings() -> Iterator[Finding]:
    """What torch was built for, what it can do here, and the libraries that stand on it."""
    try:
        torch: Any = importlib.import_module("torch")
    except Exception as error:
        yield harmful("torch", f"cannot be imported ({_first_line(error)})", "pip install --force-reinstall torch")
        return
    built = f"{torch.__version__}, built for {'CUDA ' + torch.version.cuda if torch.version.cuda else 'CPUs'}"
    yield good("torch", f"{built}, processor level {torch.backends.cpu.get_cpu_capability()}")
    yield _gpus(torch)
    yield _bfloat16(torch)
    for name, use in (("gen3d.nets.torchvision_models", "networks of video and slices"), ("umap", "maps of people")):
        try:
            importlib.import_module(name)
        except Exception as error:
            yield harmful(
                name.split(".")[-1], f"cannot be imported ({_first_line(error)})", f"reinstall it; needed for {use}"
            )
    yield _deepspeed()


def _gpus(torch: Any) -> Finding:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(place) for place in range(torch.cuda.device_count())]
        return good("GPU", ", ".join(f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for gpu in names))
    if shutil.which("nvidia-smi"):
        return harmful(
            "GPU",
            "there is a driver of NVIDIA, but this torch cannot use it"
            + ("" if torch.version.cuda else " (it is built for CPUs)"),
            "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126",
        )
    return missing("GPU", "none; trainings run on the processor (configs/train/*_laptop.yaml fit)")


def _bfloat16(torch: Any) -> Finding:
    if torch.cuda.is_available():
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)()) or bool(
            getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        )
    if fast:
        return good("bfloat16", "computed by the hardware: engine.precision=auto uses it")
    return missing(
        "bfloat16", "not computed by this hardware; engine.precision=auto stays with float32 where that is faster"
    )


def _deepspeed() -> Finding:
    if importlib.util.find_spec("deepspeed") is None:
        return missing(
            "DeepSpeed", "not installed; only for sharded training on many GPUs", "pip install 'gen3d[deepspeed]'"
        )
    return good("DeepSpeed", importlib.metadata.version("deepspeed"))


def _requirements() -> list[tuple[Requirement, str]] | None:
    """Every requirement with the extra that it belongs to ("" for none); None where gen3d is not installed."""
    try:
        listed = importlib.metadata.requires(NAME) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    found = []
    for text in listed:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        extra = marker.partition('extra == "')[2].partition('"')[0]
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            found.append((requirement, extra))
    return found


def _wrong(requirement: Requirement) -> str:
    """What is wrong with an installed requirement; "" for nothing."""
    try:
        version = importlib.metadata.version(requirement.name)
    except importlib.metadata.PackageNotFoundError:
        return f"{requirement.name} is not installed"
    if requirement.specifier.contains(version, prereleases=True):
        return ""
    return f"{requirement.name} is {version}, needed is {requirement.specifier}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]

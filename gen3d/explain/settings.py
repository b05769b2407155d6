"""Settings of explanations: which people, which methods, how maps are shown, and how hard the judges look."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from gen3d.core.config import Folders, execution
from gen3d.core.work import FolderVerb
from gen3d.explain.thresholds import Rule
from gen3d.models.run import OneRun

Method = Literal["smoothgrad", "grad_cam", "integrated_gradients", "occlusion"]
METHODS: tuple[Method, ...] = ("smoothgrad", "grad_cam", "integrated_gradients", "occlusion")


def _one_or_many(value: Any) -> Any:
    return [value] if isinstance(value, (str, int)) else value


Words = Annotated[tuple[str, ...], BeforeValidator(_one_or_many)]
Methods = Annotated[tuple[Method, ...], BeforeValidator(_one_or_many), Field(min_length=1)]


class ExplainingVerb(FolderVerb):
    """What explanations are told, see `gen3d.explain.explain.Explain`."""

    run_folder: OneRun = Field(alias="run", description="run folder of a classifier (train, model.kind=classifier)")
    prepared: Folders = Field(description="prepared folders (prepare or simulate) of the people to explain")
    methods: Methods | None = Field(
        None,
        description="smoothgrad, grad_cam, integrated_gradients, occlusion (of regions); default: all, but grad_cam only where the "
        "network has a map of the volume",
    )
    answer: str = Field(
        "contrast",
        description="what is explained: contrast (logit of the last class less that of the first; grades: how far above the "
        "first; numbers: the number), or a class (its logit)",
    )
    people: int = Field(
        12, ge=0, description="people explained per class, among those whom a member never saw; 0: all of them"
    )
    subjects: Words = Field(
        (), description="ids of people with pictures, animations and maps of their own space; default: see shown"
    )
    shown: int = Field(1, ge=0, description="people per class with pictures and animations, where subjects= names none")
    judged: int = Field(
        4,
        ge=0,
        description="people per class for whom weights are randomised and regions replaced, which takes most of the time; "
        "0: these judges are not asked",
    )
    draws: int = Field(25, ge=1, description="smoothgrad: noisy copies per scan")
    noise: float = Field(
        0.15, gt=0, le=1, description="smoothgrad: SD of the noise, as a share of each channel's range inside the brain"
    )
    steps: int = Field(32, ge=2, description="integrated_gradients: steps from the mean of controls to the scan")
    layer: str = Field(
        "",
        description="grad_cam: stage or module whose map is weighed; default: the last with 3 cells or more along every axis",
    )
    edge_mm: float = Field(3.0, ge=0, description="occlusion: SD of the soft edge of a replaced region, mm")
    regions: Words = Field(
        ("hippocampus", "entorhinal"),
        description="regions whose enrichment is tested; all others are ranked beside them",
    )
    rotations: int = Field(1000, ge=99, description="maps turned inside the brain behind each p of enrichment")
    threshold: Rule = Field(
        "otsu",
        description="what pictures show: percentile (see top_percent), otsu, or sd (see sd_above); inside the brain",
    )
    top_percent: float = Field(
        10.0, gt=0, le=100, description="percentile: strongest percent of the brain that is kept"
    )
    sd_above: float = Field(2.0, description="sd: standard deviations above the mean from which on voxels are kept")
    orders: int = Field(10, ge=1, description="random orders behind the floor of insertion and deletion")
    changed_log_jacobian: float = Field(
        0.1, gt=0, description="simulated people: size of the true log-Jacobian from which a voxel counts as changed"
    )
    animation: Literal["webp", "apng", "gif", "none"] = Field(
        "webp", description="kind of the animations of three planes"
    )
    seed: int = Field(0, ge=0, description="seed of noise, random weights, orders and turned maps")
    batch: int = execution(4, "volumes in the network at a time: memory against speed", gt=0)
    device: Literal["auto", "cpu", "cuda"] = execution("auto", "auto takes a GPU if there is one")
    workers: int = execution(1, "scans explained at a time, each in a process; 0: one per core", ge=0)

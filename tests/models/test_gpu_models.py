"""A run on a GPU expects and encodes what it does on a CPU, and draws the same scans each time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from gen3d.classify.heads.residual import train_heads
from gen3d.classify.heads.settings import ResidualSettings
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.target import Target
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion
from gen3d.models.run import covariates_of, load_run
from gen3d.nets.doubling import double_and_convolve
from gen3d.synthesis.drawing import Drawing
from gen3d.train.train import Train
from tests.train.conftest import write_cohort

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")]

SHAPE = (24, 28, 24)
SMALL: dict[str, dict[str, Any]] = {
    "voxelwise": {},
    "pca": {"num_components": 2},
    "vae": {"base_channels": 8, "max_channels": 16, "latent_size": 6, "levels": 2},
    "spatial": {"kind": "vae", "latent": "spatial", "base_channels": 8, "max_channels": 16, "levels": 2},
    "restorer": {"base_channels": 8, "max_channels": 16, "levels": 2},
    "latent_diffusion": {"conditions": ["age_years", "sex"], "base_channels": 16, "max_channels": 16}
    | {"head_channels": 8, "levels": 1},
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort") / "prepared", shape=SHAPE)


@pytest.fixture(scope="module")
def runs(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every kind, trained on the CPU."""
    folder = tmp_path_factory.mktemp("runs")
    made: dict[str, Path] = {}
    for name, settings in SMALL.items():
        asked: dict[str, Any] = {"prepared": cohort, "model": {"kind": name, **settings}, "out": folder / name}
        asked |= {"engine": {"precision": "fp32", "device": "cpu"}, "optim": {"steps": 4, "batch_size": 2}}
        asked |= {"vae": made["spatial"]} if name == "latent_diffusion" else {"channels": ["t1w"]}
        made[name] = Train.model_validate({**asked, "track": [], "picture_every": 4}).run()
    return made


@pytest.fixture
def exact_convolutions() -> Iterator[None]:
    """Without TF32, which torch uses for convolutions of float32 unless told otherwise."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def both(folder: Path, cohort: Path, what: str) -> tuple[np.ndarray, np.ndarray]:
    """What a run makes of one scan on a CPU and on a GPU."""
    prepared = open_prepared(cohort)
    row = prepared.manifest.iloc[-1]
    results = []
    for device in ("cpu", "cuda"):
        run = load_run(folder, device)
        asked = (prepared.load([row["key"]], run.channels)[0], row["subject"], covariates_of(run, row))
        expected = run.encode(*asked) if what == "encode" else run.expect(*asked, samples=2, seed=3, allow_seen=True)
        results.append(expected[0] if isinstance(expected, tuple) else expected)
        assert run.member(0).channel_mean.device.type == device
    return results[0], results[1]


@pytest.mark.parametrize("name", SMALL)
def test_expectations_are_those_of_a_cpu(
    name: str, runs: dict[str, Path], cohort: Path, exact_convolutions: None
) -> None:
    on_cpu, on_gpu = both(runs[name], cohort, "expect")
    assert on_cpu.std() > 0
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3 * on_cpu.std())


@pytest.mark.parametrize("name", [name for name in SMALL if name not in ("voxelwise", "restorer")])
def test_latents_are_those_of_a_cpu(name: str, runs: dict[str, Path], cohort: Path, exact_convolutions: None) -> None:
    on_cpu, on_gpu = both(runs[name], cohort, "encode")
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3 * np.abs(on_cpu).max())


@pytest.mark.parametrize("name", ["vae", "restorer"])
def test_convolutions_as_torch_sets_them_stay_near_a_cpu(name: str, runs: dict[str, Path], cohort: Path) -> None:
    on_cpu, on_gpu = both(runs[name], cohort, "expect")
    np.testing.assert_allclose(on_gpu, on_cpu, atol=0.02 * on_cpu.std())


def drawing_of(folder: Path, device: str) -> Drawing:
    model = load_run(folder, device).member(0)
    assert isinstance(model, LatentDiffusion)
    return Drawing(model, 5, "dpm_solver", 4, 1.0, 2, torch.float32)


def test_samples_of_a_gpu_are_the_same_to_the_last_bit_and_near_those_of_a_cpu(
    runs: dict[str, Path], exact_convolutions: None
) -> None:
    coded = np.zeros((2, 2), np.float32)
    drawn = []
    for device in ("cpu", "cuda", "cuda"):
        drawing = drawing_of(runs["latent_diffusion"], device)
        latents = drawing.latents(drawing.group(3), coded)
        assert latents.device.type == device
        drawn.append(drawing.decoded(latents))
    assert np.array_equal(drawn[1], drawn[2])
    np.testing.assert_allclose(drawn[1], drawn[0], atol=2e-3 * drawn[0].std())


@pytest.mark.parametrize("kind", ["vae", "restorer", "latent_diffusion"])
def test_a_run_trained_on_a_gpu_opens_on_a_cpu(
    kind: str, runs: dict[str, Path], cohort: Path, tmp_path: Path, exact_convolutions: None
) -> None:
    asked: dict[str, Any] = {"prepared": cohort, "model": {"kind": kind, **SMALL[kind]}, "out": tmp_path / "run"}
    asked |= {"engine": {"precision": "bf16", "device": "cuda"}, "optim": {"steps": 4, "batch_size": 2}}
    asked |= {"vae": runs["spatial"]} if kind == "latent_diffusion" else {"channels": ["t1w"]}
    folder = Train.model_validate({**asked, "track": [], "picture_every": 4}).run()
    assert next((folder / "pictures").iterdir()).stat().st_size > 0
    on_cpu, on_gpu = both(folder, cohort, "expect")
    np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3 * on_cpu.std())


def test_the_residual_head_learns_on_a_gpu_what_it_learns_on_a_cpu() -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 2, 80).astype(float)
    latents = generator.standard_normal((80, 2, 5, 4, 4))
    latents[:, 0, 1:3] += 1.5 * codes[:, None, None, None]
    settings = ResidualSettings.model_validate(
        {"channels": 8, "blocks": 1, "steps": 40, "batch_size": 16, "dropout": 0.0}
    )
    target = Target("y", "categories", ("a", "b"))
    on_cpu, on_gpu = (
        train_heads(latents, codes, np.arange(80) % 2, target, settings, seed=0, device=device)
        for device in ("cpu", "cuda")
    )
    for head in (on_cpu, on_gpu):
        assert all(parameter.device.type == "cpu" for network in head.networks for parameter in network.parameters())
        assert ((head.held_out[:, 1] > head.held_out[:, 0]) == (codes == 1)).mean() > 0.9
    np.testing.assert_allclose(on_gpu.losses[:2], on_cpu.losses[:2], rtol=0.02)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_doubling_and_convolving_is_that_of_the_doubled_map(
    layout: torch.memory_format, dtype: torch.dtype, tolerance: float, exact_convolutions: None
) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn((2, 8, 6, 8, 6), generator=generator).to("cuda", dtype).contiguous(memory_format=layout)
    weight = (0.1 * torch.randn((8, 8, 3, 3, 3), generator=generator)).to("cuda", dtype)
    inputs = [features.requires_grad_(), weight.requires_grad_()]
    doubled = functional.interpolate(features, scale_factor=2.0, mode="nearest")
    expected, found = functional.conv3d(doubled, weight, padding=1), double_and_convolve(features, weight, None)
    direction = torch.randn(expected.shape, generator=generator).to("cuda", dtype)
    pairs = [(found, expected)]
    pairs += zip(*(torch.autograd.grad(result, inputs, direction) for result in (found, expected)), strict=True)
    for ours, theirs in ((first.detach().float(), second.detach().float()) for first, second in pairs):
        assert torch.allclose(ours, theirs, atol=tolerance * float(theirs.abs().max()))

"""`gen3d import-weights`: weights of elsewhere as a run that gives what their own package gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import monai.networks.nets as monai_networks
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.networks.schedulers import DDIMScheduler, RFlowScheduler
from safetensors.torch import save_file

from gen3d.cohort.folder import open_prepared
from gen3d.core.artefact import read
from gen3d.core.config import load
from gen3d.core.errors import UserError
from gen3d.imaging.plan import plan_grid
from gen3d.imports.import_weights import ImportWeights
from gen3d.latents.encode import Encode
from gen3d.latents.reconstruct import Reconstruct
from gen3d.models.diffusion.samplers import SPACING
from gen3d.models.run import load_run
from gen3d.synthesis.sample import Sample
from tests.cohorts import write_cohort
from tests.old_package import distance, old_networks, with_random_weights

SHAPE = (16, 24, 16)
AUTOENCODER: dict[str, Any] = {
    "spatial_dims": 3,
    "num_res_blocks": (1, 1),
    "attention_levels": (False, True),
    "norm_num_groups": 4,
    "latent_channels": 3,
}
UNET: dict[str, Any] = {
    "spatial_dims": 3,
    "in_channels": 7,
    "out_channels": 3,
    "num_res_blocks": 1,
    "attention_levels": (False, True),
    "norm_num_groups": 4,
    "num_head_channels": (0, 8),
    "resblock_updown": True,
    "with_conditioning": True,
    "cross_attention_dim": 4,
    "upcast_attention": True,
}
SCHEDULE: dict[str, Any] = {"beta_start": 0.0015, "beta_end": 0.0205}
CONDITIONS: list[dict[str, Any]] = [
    {"name": "sex", "codes": ["F", "M"]},
    {"name": "age_years", "zero": 44, "one": 82},
    {"name": "ventricles_ml", "zero": 10, "one": 110},
    {"name": "brain_ml", "zero": 900, "one": 1700},
]
OPTIONS: dict[str, Any] = {
    "norm_num_groups": 4,
    "num_head_channels": [0, 8],
    "upcast_attention": True,
    "noising": "scaled_linear",
    **SCHEDULE,
    "scale_factor": 1.7,
    "conditions": CONDITIONS,
}


def settings(folder: Path, **changes: Any) -> dict[str, Any]:
    return {
        "autoencoder": folder / "autoencoder.pt",
        "autoencoder_options": {"norm_num_groups": 4},
        "shape": SHAPE,
        "spacing_mm": 4.0,
        "out": folder / "run",
        **changes,
    }


def with_diffusion(folder: Path, **changes: Any) -> dict[str, Any]:
    return settings(folder, diffusion=folder / "unet.pt", diffusion_options={**OPTIONS, **changes})


def old_autoencoder(folder: Path) -> Any:
    network = with_random_weights(old_networks().AutoencoderKL(num_channels=(8, 8), **AUTOENCODER))
    torch.save(network.state_dict(), folder / "autoencoder.pt")
    return network


def old_unet(folder: Path) -> Any:
    network = with_random_weights(old_networks().DiffusionModelUNet(num_channels=(8, 16), **UNET), seed=1)
    torch.save(network.state_dict(), folder / "unet.pt")
    return network


def own_autoencoder(folder: Path, **changes: Any) -> Any:
    network = with_random_weights(monai_networks.AutoencoderKL(channels=(8, 8), **{**AUTOENCODER, **changes}))
    torch.save(network.state_dict(), folder / "autoencoder.pt")
    return network


def own_unet(folder: Path, **changes: Any) -> Any:
    network = with_random_weights(monai_networks.DiffusionModelUNet(channels=(8, 16), **{**UNET, **changes}), seed=1)
    torch.save(network.state_dict(), folder / "unet.pt")
    return network


def imported(given: dict[str, Any]) -> Any:
    """The run that an import of these settings writes."""
    return load_run(ImportWeights.model_validate(given).run())


def draws(seed: int) -> torch.Tensor:
    return torch.randn(1, 3, 8, 12, 8, generator=torch.Generator().manual_seed(seed))


def test_an_old_autoencoder_is_a_run_that_encodes_and_decodes_as_the_old_package_does(tmp_path: Path) -> None:
    old = old_autoencoder(tmp_path)
    run = imported(settings(tmp_path))
    volume = torch.rand(1, 1, *SHAPE, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        latent, reconstruction = old.encode(volume)[0], old.reconstruct(volume)
    assert run.kind == "autoencoder_kl"
    assert distance(latent.flatten(), torch.from_numpy(run.encode(volume[0].numpy(), "somebody"))) < 1e-5
    expected = run.expect(volume[0].numpy(), "somebody")
    assert expected is not None
    assert distance(reconstruction[0], torch.from_numpy(expected[0])) < 1e-5


@pytest.mark.parametrize("schedule", ["scaled_linear", "linear"])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_the_bundles_own_sampling_loop_gives_the_same_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prediction: str, schedule: str
) -> None:
    """The loop of the public brain LDM bundle: DDIM, conditions as a token and as constant channels."""
    monkeypatch.setitem(SPACING, "ddim", "time")  # gen3d's own spacing of these steps is another
    old_autoencoder(tmp_path)
    old = old_unet(tmp_path)
    model = imported(with_diffusion(tmp_path, prediction=prediction, noising=schedule)).member(0)
    kind = "epsilon" if prediction == "epsilon" else "v_prediction"
    scheduler = DDIMScheduler(1000, f"{schedule}_beta", clip_sample=False, prediction_type=kind, **SCHEDULE)
    scheduler.set_timesteps(10)
    scheduler.timesteps = torch.arange(999, -1, -100)  # the bundle's own spacing begins one step below the noisiest
    told = torch.tensor([[1.0, 0.5, 0.25, 0.75]])
    latents = first = draws(0)
    maps = told[:, :, None, None, None].expand(1, 4, 8, 12, 8)
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = old(torch.cat([latents, maps], dim=1), t[None], context=told[:, None])
            latents, _ = scheduler.step(output, t, latents)
    person = {"sex": "M", "age_years": 63.0, "ventricles_ml": 35.0, "brain_ml": 1500.0}
    coded = torch.tensor([[covariate.code(person[covariate.name]) for covariate in model.coding.covariates]])
    assert torch.allclose(coded, told)
    found = model.generate(coded, first, lambda step: first, sampler="ddim", num_steps=10)
    assert distance(latents / 1.7, found) < 1e-3


def test_rectified_flow_of_monai_gives_the_same_latents(tmp_path: Path) -> None:
    own_autoencoder(tmp_path)
    saved = own_unet(tmp_path, in_channels=3, with_conditioning=False, cross_attention_dim=None)
    options = {name: value for name, value in OPTIONS.items() if name not in ("conditions", *SCHEDULE)}
    given = settings(tmp_path, diffusion=tmp_path / "unet.pt", diffusion_options={**options, "noising": "flow"})
    model = imported(given).member(0)
    scheduler = RFlowScheduler(use_discrete_timesteps=False)
    scheduler.set_timesteps(8)
    latents = first = draws(1) * 0.1
    with torch.no_grad():
        for t in scheduler.timesteps:
            latents, _ = scheduler.step(saved(latents, t[None]), t, latents)
    found = model.generate(torch.zeros(1, 0), first, lambda step: first, sampler="euler", num_steps=8)
    assert distance(latents / 1.7, found) < 1e-3


def test_a_file_may_hold_the_scale_and_wrap_the_weights(tmp_path: Path) -> None:
    autoencoder, unet = own_autoencoder(tmp_path), own_unet(tmp_path)
    parallel = {f"module.{name}": tensor for name, tensor in unet.state_dict().items()}
    beside = {"epoch": np.int64(3), "best_loss": np.float64(0.2), "scale_factor": torch.tensor(0.9)}
    torch.save({**beside, "unet_state_dict": parallel}, tmp_path / "unet.pt")
    save_file(autoencoder.state_dict(), tmp_path / "autoencoder.safetensors")
    given = with_diffusion(tmp_path, scale_factor=None) | {"autoencoder": tmp_path / "autoencoder.safetensors"}
    model = imported(given).member(0)
    assert torch.allclose(model.latent_std, torch.tensor(1 / 0.9))
    assert torch.equal(model.denoiser.network.conv_in.conv.weight, unet.conv_in.conv.weight)
    with pytest.raises(UserError, match=r"holds scale_factor 0\.9, but diffusion_options\.scale_factor=1\.7"):
        imported(with_diffusion(tmp_path) | {"out": tmp_path / "other"})


def test_the_run_says_what_it_does_not_know(tmp_path: Path) -> None:
    own_autoencoder(tmp_path)
    own_unet(tmp_path)
    run = imported(with_diffusion(tmp_path))
    assert run.artefact.verb == "import-weights"
    assert json.loads((run.folder / "subjects.json").read_text()) == {"0": {}}
    assert not (run.folder / "conditions.tsv").exists()
    assert run.plan.intensity.endswith("unknown to gen3d")
    assert run.member(0).latent_shape == (3, 8, 12, 8)
    assert "multiplied by 1.7" in " ".join(read(run.folder).summary["notes"])


@pytest.mark.parametrize("orientation", ["RAS", "LPS", "SAR"])
def test_the_grid_is_centred_where_gen3ds_own_grids_are(tmp_path: Path, orientation: str) -> None:
    own_autoencoder(tmp_path)
    own, plan = plan_grid(4.0), imported(settings(tmp_path, orientation=orientation)).plan
    middles = [grid.matrix @ [*(np.array(grid.shape) - 1) / 2, 1] for grid in (own, plan)]
    assert np.allclose(*middles)
    assert plan.shape == SHAPE
    assert "".join(nib.aff2axcodes(plan.matrix)) == orientation


def test_a_run_on_the_plan_of_a_cohort_encodes_and_reconstructs_it(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", num_controls=4, num_patients=1)
    plain = {
        "attention_levels": (False, False),
        "with_encoder_nonlocal_attn": False,
        "with_decoder_nonlocal_attn": False,
    }
    own = own_autoencoder(tmp_path, **plain)
    given = settings(tmp_path, plan_from=cohort, shape=None, spacing_mm=None, intensity_one=2.0)
    run = imported(given)
    latents = np.load(Encode(prepared=(cohort,), run=run.folder, out=tmp_path / "latents").run() / "latents.npy")
    prepared = open_prepared(cohort)
    volumes = torch.from_numpy(prepared.load(list(prepared.manifest["key"]), ("t1w",)))
    with torch.no_grad():
        expected = own.encode(volumes / 2.0)[0].flatten(1)
    assert distance(expected, torch.from_numpy(latents)) < 1e-5
    metrics = Reconstruct(prepared=(cohort,), run=run.folder, out=tmp_path / "again").run() / "metrics.tsv"
    assert "seen" in metrics.read_text()


def test_scans_are_drawn_from_imported_weights_with_a_waiver_only(tmp_path: Path) -> None:
    own_autoencoder(tmp_path)
    own_unet(tmp_path)
    run = imported(with_diffusion(tmp_path)).folder
    person = {"sex": "F", "age_years": [70, 80], "ventricles_ml": 30, "brain_ml": 1200}
    asked: dict[str, Any] = {"run": run, "count": 1, "steps": 2, "measure": False, "condition": person}
    with pytest.raises(UserError, match="no audit for copies of training people is possible"):
        Sample.model_validate({**asked, "out": tmp_path / "unaudited"}).run()
    asked["waiver"] = "the training people are not known"
    with pytest.raises(UserError, match="trained without unknown conditions"):
        Sample.model_validate({**asked, "condition": {"sex": "F"}, "out": tmp_path / "unknown"}).run()
    drawn = open_prepared(Sample.model_validate({**asked, "out": tmp_path / "drawn"}).run())
    assert np.isfinite(drawn.load(list(drawn.manifest["key"]), ("t1w",))).all()
    assert drawn.plan.key == load_run(run).plan.key


BAD: list[tuple[dict[str, Any], str]] = [
    ({"scale_factor": None}, "does not hold the number that latents were multiplied with"),
    ({"conditions": CONDITIONS[:3]}, "takes 4 conditions, but diffusion_options.conditions names 3"),
    ({"norm_num_groups": 3}, "norm_num_groups=3 does not divide a level of 8 channels"),
    ({"num_head_channels": 5}, "does not divide a level of 16 channels"),
    ({"entry": "ema"}, "has no DiffusionModelUNet under `ema`"),
]


@pytest.mark.parametrize(("changes", "sentence"), BAD)
def test_options_that_do_not_fit_are_told(tmp_path: Path, changes: dict[str, Any], sentence: str) -> None:
    own_autoencoder(tmp_path)
    own_unet(tmp_path)
    with pytest.raises(UserError, match=sentence):
        imported(with_diffusion(tmp_path, **changes))
    assert not (tmp_path / "run").exists()


def test_networks_that_do_not_belong_together_are_told(tmp_path: Path) -> None:
    own_autoencoder(tmp_path, latent_channels=4)
    own_unet(tmp_path)
    with pytest.raises(UserError, match="3 latent channels, but the autoencoder's latents have 4"):
        imported(with_diffusion(tmp_path))
    with pytest.raises(UserError, match=r"takes volumes of 1 channels, but channels=\['t1w', 'log_jacobian'\] names 2"):
        imported(settings(tmp_path, channels=("t1w", "log_jacobian"), out=tmp_path / "two"))


class Trainer:
    """Something that only code can rebuild."""


def test_files_that_are_no_weights_are_told(tmp_path: Path) -> None:
    own_autoencoder(tmp_path)
    file = tmp_path / "autoencoder.pt"
    whole = file.read_bytes()

    def refused(sentence: str) -> None:
        with pytest.raises(UserError, match=sentence):
            imported(settings(tmp_path))

    file.write_bytes(whole[: len(whole) // 2])
    refused("not a file of weights, or a damaged one")
    file.write_bytes(b"")
    refused("not a file of weights, or a damaged one")
    torch.save({"state_dict": {}, "trainer": Trainer()}, file)
    refused(r"reading it would execute code \(.*Trainer\), so it was not read")
    torch.save([1, 2], file)
    refused("holds no weights of AutoencoderKL .*it holds a list")
    tensors = own_autoencoder(tmp_path).state_dict()
    torch.save({"model": tensors, "ema": tensors}, file)
    refused("holds several networks: `model`, `ema`; choose one with")
    torch.jit.script(torch.nn.Linear(1, 1)).save(file)
    refused("a TorchScript archive, which is a program")
    file.unlink()
    refused("no such file of weights")
    (tmp_path / "autoencoder.safetensors").write_text("nothing")
    with pytest.raises(UserError, match="not a file of weights"):
        imported(settings(tmp_path, autoencoder=tmp_path / "autoencoder.safetensors"))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["diffusion=unet.pt"], "needs diffusion_options.norm_num_groups"),
        (["spacing_mm=null"], "either plan_from=PREPARED, or shape"),
        (["plan_from=prepared"], "either plan_from=PREPARED, or shape"),
        (["autoencoder_options={}"], "`autoencoder_options.norm_num_groups` is missing"),
        (["intensity_one=0"], "are the same value"),
        (["orientation=RLS"], "orientation=RLS is not three letters"),
        (
            ["diffusion_options={norm_num_groups: 4, num_head_channels: 8, noising: linear}"],
            "needs beta_start and beta_end",
        ),
        (
            ["diffusion_options={norm_num_groups: 4, num_head_channels: 8, noising: flow, prediction: v}"],
            "noising=flow has no beta_start, beta_end and prediction",
        ),
        (
            [
                "diffusion_options={norm_num_groups: 4, num_head_channels: 8, noising: flow, conditions: [{name: age_years}]}"
            ],
            "condition age_years needs either zero= and one=, or codes=",
        ),
    ],
)
def test_settings_that_are_not_complete_are_told(overrides: list[str], sentence: str) -> None:
    whole = ["autoencoder=a.pt", "autoencoder_options.norm_num_groups=32", "shape=[8,8,8]", "spacing_mm=1", "out=o"]
    load(ImportWeights, None, whole)
    with pytest.raises(UserError, match=sentence):
        load(ImportWeights, None, [*whole, *overrides])

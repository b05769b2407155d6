"""The memorisation audit on a latent diffusion model: one that learned four people by heart trips it, real people pass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gen3d.cohort.folder import Prepared, open_prepared
from gen3d.cohort.manifest import read_manifest, subject_hash, write_manifest
from gen3d.core.errors import UserError
from gen3d.imaging.volume import store
from gen3d.models.diffusion.latent_diffusion import LatentDiffusion, no_noise
from gen3d.models.run import Run, load_run
from gen3d.synthesis.audit import Audit, AuditSettings, CoarseVoxels, draw_nearest, known_people, run_audit
from gen3d.train.train import Train
from tests.runs import fit
from tests.sealing import reseal
from tests.train.conftest import smooth_field, write_cohort

SIDE, NUM_PEOPLE, NUM_TRAIN, NUM_SYNTHETIC = 20, 20, 4, 20
QUICK = AuditSettings(draws=100)
Volume = NDArray[np.float32]


def train(out: Path, steps: int, model: dict[str, Any], **settings: Any) -> Path:
    tree = {"out": out, "model": model, "track": [], "picture_every": 10**6, "channels": ["t1w"]}
    optim = {"steps": steps, "batch_size": 8, "ema_decay": 0.98, "learning_rate": 3e-3}
    engine = {"precision": "fp32", "checkpoint_every": 10**6}
    return Train.model_validate({**tree, "optim": optim, "engine": engine, **settings}).run()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    """Four people to learn from and sixteen others, each a smooth random field: nobody resembles anybody."""
    folder = write_cohort(tmp_path_factory.mktemp("audit") / "prepared", NUM_PEOPLE, (SIDE, SIDE, SIDE))
    frame = read_manifest(folder)
    write_manifest(folder, frame.assign(role=["train" if i < NUM_TRAIN else "test" for i in range(NUM_PEOPLE)]))
    prepared = open_prepared(reseal(folder))
    for person, key in enumerate(frame["key"]):
        field = smooth_field(np.random.default_rng(person), (SIDE, SIDE, SIDE), 0.15)
        store(prepared.path(key, "t1w"), (0.7 + field) * prepared.mask, prepared.plan.matrix)
    reseal(folder)
    return prepared


@pytest.fixture(scope="module")
def autoencoder(reference: Prepared, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = {"kind": "vae", "latent": "spatial", "base_channels": 8, "max_channels": 16, "levels": 2, "beta": 1e-3}
    return train(tmp_path_factory.mktemp("runs") / "vae", 80, model, prepared=reference.folders[0])


@pytest.fixture(scope="module")
def run(reference: Prepared, autoencoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A latent diffusion model that was trained on four people until it knew them by heart."""
    model = {"kind": "latent_diffusion", "base_channels": 16, "max_channels": 32, "head_channels": 8, "levels": 1}
    out = tmp_path_factory.mktemp("runs") / "diffusion"
    settings = {"prepared": reference.folders[0], "vae": autoencoder}
    return load_run(train(out, 250, {**model, "conditions": []}, **settings))


@pytest.fixture(scope="module")
def overfitted(run: Run, reference: Prepared) -> tuple[Audit, dict[str, Volume]]:
    model = run.member(0)
    assert isinstance(model, LatentDiffusion)
    first = torch.randn(NUM_SYNTHETIC, *model.latent_shape, generator=torch.Generator().manual_seed(0))
    latents = model.generate(torch.zeros(NUM_SYNTHETIC, 0), first, no_noise, "euler", 20)
    with torch.no_grad():
        volumes = model.decode(latents).numpy()
    synthetic = {f"sub-syn{k:05d}_ses-1": volume for k, volume in enumerate(volumes)}
    return run_audit(run, synthetic.items(), reference, QUICK), synthetic


def reconstructed(
    run: Run, prepared: Prepared, keys: list[str], mirrored: bool = False
) -> Iterator[tuple[str, Volume]]:
    """What a generator that draws exactly these scans hands out."""
    model = run.member(0)
    assert isinstance(model, LatentDiffusion)
    for key in keys:
        volume = prepared.load([key], run.channels)[0]
        volume = np.ascontiguousarray(volume[:, ::-1]) if mirrored else volume
        with torch.no_grad():
            yield f"made-{key}", model.decode(model.autoencoder.encode(torch.from_numpy(volume)[None]))[0].numpy()


def keys_of(prepared: Prepared, role: str) -> list[str]:
    return [str(key) for key in prepared.select([role])["key"]]


def without(prepared: Prepared, keys: list[str]) -> Prepared:
    kept = prepared.manifest[~prepared.manifest["key"].isin(keys)].reset_index(drop=True)
    return replace(prepared, manifest=kept)


@pytest.mark.slow
def test_a_deliberately_overfitted_model_trips_the_alarm(overfitted: tuple[Audit, dict[str, Volume]]) -> None:
    audit, _ = overfitted
    assert audit.failed
    assert audit.copies.low > 0.1
    assert "failed" in audit.sentences[0]
    assert all("are nearer to training people (one of them" in sentence for sentence in audit.sentences[1:])
    for figures in audit.embeddings.values():
        assert figures.copied.any()
        assert figures.membership.low > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 1])
def test_held_out_people_in_the_role_of_synthetic_scans_pass(run: Run, reference: Prepared, first: int) -> None:
    made = keys_of(reference, "test")[first::2]
    audit = run_audit(run, reconstructed(run, reference, made), without(reference, made), QUICK)
    assert not audit.failed
    assert not audit.copied.any()
    assert "passed" in audit.sentences[0]
    assert {figures.num_held_out for figures in audit.embeddings.values()} == {NUM_PEOPLE - NUM_TRAIN - len(made)}


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [False, True])
def test_a_copy_among_others_is_found_and_named_by_hash(run: Run, reference: Prepared, mirrored: bool) -> None:
    copied, made = keys_of(reference, "train")[2], keys_of(reference, "test")[:4]
    synthetic = [*reconstructed(run, reference, [copied], mirrored), *reconstructed(run, reference, made)]
    audit = run_audit(run, synthetic, without(reference, made), QUICK)
    np.testing.assert_array_equal(audit.copied, [True] + [False] * 4)
    assert audit.failed
    row = audit.nearest.query("embedding == 'voxels'").iloc[0]
    assert (row["key"], row["copy"], row["mirrored"]) == (f"made-{copied}", True, mirrored)
    assert row["nearest_subject"] == subject_hash(str(reference.row(copied)["subject"]))
    assert row["similarity"] > 0.99
    alone = run_audit(run, synthetic[:1], without(reference, made), QUICK)
    assert alone.failed
    json.dumps(alone.to_dict(), allow_nan=False)
    allowed = run_audit(run, synthetic, without(reference, made), AuditSettings(limit=0.2, draws=100))
    assert not allowed.failed


@pytest.mark.slow
def test_no_person_can_be_read_off_the_record(overfitted: tuple[Audit, dict[str, Volume]], reference: Prepared) -> None:
    audit, _ = overfitted
    text = json.dumps(audit.to_dict()) + audit.nearest.to_csv() + " ".join(audit.sentences)
    for name in [*reference.manifest["subject"], *reference.manifest["key"]]:
        assert str(name) not in text
    record = audit.to_dict()
    assert record["failed"] is True
    assert set(record["embeddings"]) == {"latent", "voxels"}
    voxels = record["embeddings"]["voxels"]
    assert voxels["num_train_people"] == NUM_TRAIN
    assert set(voxels["membership"]) == {"value", "low", "high", "num"}
    assert [one["percentile"] for one in voxels["closeness"]] == [95.0, 99.0]


@pytest.mark.slow
def test_the_picture_shows_the_nearest_scans_side_by_side(
    overfitted: tuple[Audit, dict[str, Volume]], reference: Prepared, tmp_path: Path
) -> None:
    audit, synthetic = overfitted
    shown = audit.most_copied(3)
    excess = [audit.embeddings[name].isolation[audit.keys.index(key)] for key, name, _, _ in shown]
    assert excess[0] > audit.embeddings[shown[0][1]].threshold
    assert {key for _, _, key, _ in shown} <= set(keys_of(reference, "train"))
    draw_nearest(tmp_path / "figures" / "nearest.png", audit, lambda key: synthetic[key][0], reference, num=3)
    with Image.open(tmp_path / "figures" / "nearest.png") as picture:
        assert min(picture.size) > 300
        assert np.asarray(picture.convert("L")).std() > 20


@pytest.mark.slow
def test_further_features_are_a_third_embedding(run: Run, reference: Prepared) -> None:
    copied = keys_of(reference, "train")
    audit = run_audit(
        run, reconstructed(run, reference, copied), reference, QUICK, extractor=lambda volume: volume[0, ::2, ::2, ::2]
    )
    assert list(audit.embeddings) == ["latent", "voxels", "extractor"]
    assert audit.embeddings["extractor"].copies.value == 1.0


@pytest.mark.slow
def test_a_run_of_an_autoencoder_can_be_audited_too(autoencoder: Path, reference: Prepared) -> None:
    run, copied = load_run(autoencoder), keys_of(reference, "train")[:2]
    volumes = torch.from_numpy(reference.load(copied, run.channels))
    audit = run_audit(run, zip(copied, run.member(0).expect(volumes).mean.numpy(), strict=True), reference, QUICK)
    assert audit.failed


@pytest.fixture
def simple(cohort: Path, pca_run: Path) -> tuple[Run, Prepared]:
    return load_run(pca_run), open_prepared(cohort)


def test_who_is_compared_with_whom(simple: tuple[Run, Prepared]) -> None:
    run, prepared = simple
    train, held_out = known_people(run, prepared, QUICK)
    assert set(train["role"]) == {"train"}
    assert set(held_out["role"]) == {"calibration", "test"}  # patients are another kind of people
    frame = prepared.manifest.copy()
    frame["base"], frame["generator"] = "", ""
    unseen = frame.index[frame["role"] == "test"]
    frame.loc[unseen[0], ["base", "role"]] = ["sub-x_ses-1", "evaluation"]  # a planted twin
    frame.loc[unseen[1], "generator"] = "0123"  # a synthetic scan
    frame.loc[unseen[2], "role"] = "excluded"
    _, fewer = known_people(run, replace(prepared, manifest=frame), QUICK)
    assert set(held_out["key"]) - set(fewer["key"]) == set(frame.loc[unseen[:3], "key"])


def test_too_few_people_are_one_sentence(simple: tuple[Run, Prepared]) -> None:
    run, prepared = simple
    frame = prepared.manifest
    only_train = replace(prepared, manifest=frame[frame["role"] == "train"].reset_index(drop=True))
    with pytest.raises(UserError, match=r"holds 0 people that .* never saw with the diagnosis control"):
        run_audit(run, [], only_train)
    strangers = replace(prepared, manifest=frame[frame["role"] == "test"].reset_index(drop=True))
    with pytest.raises(UserError, match=r"holds 0 of the training people of"):
        run_audit(run, [], strangers)
    with pytest.raises(UserError, match="no synthetic scans"):
        run_audit(run, [], prepared)


def test_a_run_without_latents_is_refused(run_without_latents: Run, cohort: Path) -> None:
    with pytest.raises(UserError, match="no latents to audit with"):
        run_audit(run_without_latents, [], open_prepared(cohort))


@pytest.fixture
def run_without_latents(cohort: Path, tmp_path: Path) -> Run:
    return load_run(fit(cohort, tmp_path / "voxelwise"))


def test_coarse_voxels_of_a_constant_are_constant_and_mirror_with_the_volume() -> None:
    mask = np.ones((24, 24, 24), bool)
    coarse = CoarseVoxels(mask, 2.0, 6.0)
    values = coarse(np.ones(mask.shape, np.float32))
    assert values.shape == (8**3,)
    np.testing.assert_allclose(values, 1.0, rtol=1e-5)
    volume = np.random.default_rng(0).standard_normal(mask.shape).astype(np.float32)
    np.testing.assert_allclose(coarse(volume[::-1]).reshape(8, 8, 8)[::-1], coarse(volume).reshape(8, 8, 8), atol=1e-5)

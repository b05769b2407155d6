from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import open_prepared
from gen3d.cohort.latents_folder import open_latents_folder
from gen3d.cohort.seen import identity_of
from gen3d.core.errors import UserError
from gen3d.imaging.volume import read_stored
from gen3d.latents.encode import Encode
from gen3d.latents.reconstruct import Reconstruct
from gen3d.models.run import load_run
from tests.runs import fit


def test_latents_are_the_models_own(cohort: Path, pca_run: Path, tmp_path: Path) -> None:
    folder = Encode.model_validate({"prepared": cohort, "run": pca_run, "out": tmp_path / "latents"}).run()
    latents = np.load(folder / "latents.npy")
    table = pd.read_csv(folder / "latents.tsv", sep="\t")
    prepared, run = open_prepared(cohort), load_run(pca_run)
    assert latents.shape == (len(prepared.manifest), 4)
    assert np.isfinite(latents).all()
    row = table.iloc[7]
    expected = run.encode(prepared.load([row["key"]], run.channels)[0], row["subject"])
    np.testing.assert_allclose(latents[7], expected, rtol=1e-5)
    assert table["seen"].sum() == (table["role"] == "train").sum()


def test_each_member_of_a_family_has_a_space_of_its_own(cohort: Path, tmp_path: Path) -> None:
    run = fit(cohort, tmp_path / "run", kind="pca", num_components=3, cross_fit=3)
    folder = Encode.model_validate({"prepared": cohort, "run": run, "out": tmp_path / "l"}).run()
    latents, prepared, opened = open_latents_folder(folder), open_prepared(cohort), load_run(run)
    assert latents.values.shape == (3, len(prepared.manifest), 3)
    row = latents.table.iloc[5]
    volume = prepared.load([row["key"]], opened.channels)[0]
    for member in range(3):
        np.testing.assert_allclose(
            latents.values[member, 5], opened.encode(volume, row["subject"], member=member), rtol=1e-5
        )
    assert not np.allclose(latents.values[0], latents.values[1])
    for index, subject in enumerate(latents.table["subject"]):
        assert list(np.flatnonzero(latents.blind[:, index])) == opened.seen.blind_to(identity_of(subject))
    with pytest.raises(UserError, match="cross_fit=1"):
        Encode.model_validate({"prepared": cohort, "run": run, "mirrored": True, "out": tmp_path / "m"}).run()


def test_voxelwise_has_no_latent(cohort: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no latent space"):
        Encode.model_validate({"prepared": cohort, "run": run, "out": tmp_path / "l"}).run()


def test_reconstructions_and_their_gap(cohort: Path, pca_run: Path, tmp_path: Path) -> None:
    folder = Reconstruct.model_validate({"prepared": cohort, "run": pca_run, "out": tmp_path / "r"}).run()
    metrics = pd.read_csv(folder / "metrics.tsv", sep="\t").query("channel == 't1w'")
    assert metrics.query("seen")["psnr"].mean() > metrics.query("not seen")["psnr"].mean() + 1
    prepared = open_prepared(cohort)
    row = metrics.iloc[3]
    observed, expected = prepared.volume(row["key"], "t1w"), read_stored(folder / "volumes" / f"{row['key']}_t1w.nii")
    assert row["mse"] == pytest.approx(float(((observed - expected)[prepared.mask] ** 2).mean()), rel=1e-4)
    assert not expected[~prepared.mask].any()
    assert json.loads((folder / "artefact.json").read_text())["status"] == "finished"

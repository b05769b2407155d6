"""Head size appears once globally, and local volume once per region."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

from gen3d.anomaly.anomaly import Anomaly
from gen3d.anomaly.region_channels import WHOLE_BRAIN, SizeReading, has_sizes, log_scale, read_log_scale
from gen3d.anomaly.region_means import RegionMeans
from gen3d.cohort.folder import open_prepared
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.imaging.plan import plan_grid, write_plan
from gen3d.imaging.volume import store
from tests.cohorts import write_cohort
from tests.runs import fit


def write_transforms(folder: Path, smaller: float, seed: int = 0) -> None:
    """Affines of heads that differ by 4 % in volume; those of patients are `smaller` times as large."""
    generator = np.random.default_rng(seed)
    prepared = open_prepared(folder)
    for key, role in prepared.manifest[["key", "role"]].to_numpy():
        volume = np.exp(0.04 * generator.standard_normal()) * (smaller if role == "evaluation" else 1.0)
        affine = np.diag([*(np.full(3, volume ** (1 / 3))), 1.0])
        affine[:3, 3] = 3, -4, 5
        write_json(folder / "transforms" / f"{key}.json", {"affine_template_to_scan": affine.tolist()})


def test_a_smaller_head_is_seen_once_globally_and_not_in_the_regions(tmp_path: Path) -> None:
    cohort = write_cohort(tmp_path / "cohort", num_controls=32, num_patients=3, effect=0.0)
    write_transforms(cohort, 0.85)
    keys = {"prepared": cohort, "run": fit(cohort, tmp_path / "run"), "channels": ["deformation"], "native": False}
    maps = Anomaly.model_validate({**keys, "out": tmp_path / "maps"}).run()
    regions = pd.read_csv(maps / "regions.tsv", sep="\t", na_values="n/a")
    patients = set(open_prepared(cohort).select(["evaluation"])["key"])
    mine = regions[regions["key"].isin(patients)]
    size, local = mine[mine["channel"] == "size"], mine[mine["channel"] == "deformation"]
    whole = size[size["region"] == WHOLE_BRAIN]
    assert len(whole) == 3
    assert whole["z"].mean() < -2.5
    assert whole["effect_percent"].mean() == pytest.approx(-15, abs=4)
    assert size.groupby("region")["effect_percent"].mean().to_numpy() == pytest.approx(-15, abs=6)
    assert local["z"].abs().mean() < 1.3
    record = json.loads((maps / "calibration.json").read_text())["size"]
    assert record["num_controls"] == regions[regions["channel"] == "size"]["key"].nunique() - 3 - 8
    assert "size" not in pd.read_csv(maps / "subjects.tsv", sep="\t").columns.str.cat()


def test_affine_and_deformation_add_up_to_what_a_rigid_alignment_shows(tmp_path: Path) -> None:
    """log |det| of the whole map template -> scan, by finite differences, is log |det affine| + log-Jacobian."""
    cohort = write_cohort(tmp_path / "cohort", num_controls=4, num_patients=0)
    prepared = open_prepared(cohort)
    shape, spacing = prepared.plan.shape, prepared.plan.spacing_mm
    generator = np.random.default_rng(3)
    grid = np.stack(np.meshgrid(*(spacing * np.arange(side) for side in shape), indexing="ij"))
    bend = np.stack([ndimage.gaussian_filter(generator.standard_normal(shape), 4.0) for _ in range(3)])
    bend *= 2.0 / bend.std()

    def log_jacobian(points: np.ndarray) -> np.ndarray:
        rows = [np.stack(np.gradient(points[axis], spacing), axis=-1) for axis in range(3)]
        return np.log(np.linalg.det(np.stack(rows, axis=-2)))

    affine = np.array([[0.9, 0.1, 0.0, 4], [-0.05, 0.95, 0.08, 2], [0.0, 0.03, 0.85, -3], [0, 0, 0, 1.0]])
    total = log_jacobian(np.einsum("ab,bxyz->axyz", affine[:3, :3], grid + bend))
    key = prepared.manifest["key"][0]
    store(prepared.path(key, "log_jacobian"), log_jacobian(grid + bend) * prepared.mask, prepared.plan.matrix)
    write_json(cohort / "transforms" / f"{key}.json", {"affine_template_to_scan": affine.tolist()})
    reading = SizeReading(prepared)
    found = reading(prepared.manifest.iloc[0])
    means = RegionMeans(prepared.regions, prepared.mask, prepared.region_table)
    np.testing.assert_allclose(found[1:], means(total[prepared.mask].astype(np.float32)), atol=2e-3)
    assert found[0] == pytest.approx(log_scale(affine))
    assert list(reading.names["name"]) == [WHOLE_BRAIN, "left block", "right block"]


def test_rigid_cohorts_have_no_size_rows_and_missing_transforms_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cohort = write_cohort(tmp_path / "cohort", num_controls=4, num_patients=0)
    prepared = open_prepared(cohort)
    assert not has_sizes(prepared)
    assert "3 more transforms are missing" in capsys.readouterr().out
    write_transforms(cohort, 1.0)
    assert has_sizes(prepared)
    write_plan(cohort / "plan.json", plan_grid(4.0).model_copy(update={"degrees_of_freedom": 6}))
    assert not has_sizes(open_prepared(cohort))
    broken = cohort / "transforms" / "broken.json"
    broken.write_text("{}")
    with pytest.raises(UserError, match="damaged"):
        read_log_scale(broken)

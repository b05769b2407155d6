"""The dataset says where everything is, names no place on this machine, and its native maps lie where they should."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from gen3d.anomaly.folder import CLUSTERS, REGIONS, write_map
from gen3d.cohort.bids_names import resolution, stem
from gen3d.core.artefact import write_json
from gen3d.core.errors import UserError
from gen3d.exports.bids import Export
from gen3d.exports.sidecars import COLUMNS, describe_column
from gen3d.imaging.deformation import exponential, identity_grid, invert, random_velocity, warp
from gen3d.imaging.plan import plan_grid, write_plan
from gen3d.imaging.template import full_template, template_on
from gen3d.imaging.volume import store
from tests.maps_folder import write_tables as write_maps_tables
from tests.validator import bids_errors

PLAN = plan_grid(4)
SPACE = "MNI152NLin2009aSym"
CHANNELS = ("residual", "deformation")
CENTRE = (12, 20, 16)
SCAN_AFFINE = np.array([[-3.0, 0, 0, 100], [0, 3.0, 0, -130], [0, 0, 3.0, -90], [0, 0, 0, 1.0]])
TEMPLATE_TO_SCAN = np.array([[1.05, 0.1, 0, 4], [-0.1, 1.05, 0, -6], [0, 0, 0.98, 9], [0, 0, 0, 1.0]])


def record(folder: Path, verb: str, **inputs: object) -> None:
    fields = {"gen3d": "0", "verb": verb, "key": f"{verb} {folder.name}", "status": "finished", "config": {"q": 0.05}}
    write_json(folder / "artefact.json", {**fields, "inputs": inputs, "summary": {}, "finished_at": ""})


def blob() -> np.ndarray:
    squared = sum((g - c) ** 2 for g, c in zip(identity_grid(PLAN.shape), CENTRE, strict=True))
    return (5 * np.exp(-squared / (2 * 2.0**2))).astype(np.float32)


@pytest.fixture(scope="module")
def displacement() -> np.ndarray:
    """A known deformation template -> scan, of about two voxels at the blob."""
    velocity = random_velocity(PLAN.shape, 5.0, 1.6, np.random.default_rng(8), template_on(PLAN).mask)
    return exponential(velocity)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, displacement: np.ndarray) -> Path:
    """Two people: `a1` with two sessions of a real scan, `b2` simulated; a blob at one place of the template."""
    root = tmp_path_factory.mktemp("world")
    prepared, maps, template = root / "prepared", root / "maps", template_on(PLAN)
    t1w = warp(template.t1w, invert(displacement, num_iterations=12))
    rows, regions, clusters = [], [], []
    for subject, session, age in (("a1", "1", 61.0), ("a1", "2", 63.0), ("b2", "", 70.0)):
        key = f"sub-{subject}_ses-{session}"
        store(prepared / "volumes" / f"{key}_t1w.nii", t1w, PLAN.matrix)
        transform = {
            "affine_template_to_scan": TEMPLATE_TO_SCAN.tolist(),
            "scan": "" if subject == "b2" else "s.nii.gz",
        }
        transform |= {"scan_affine": SCAN_AFFINE.tolist(), "scan_shape": [70, 80, 64]}
        write_json(prepared / "transforms" / f"{key}.json", transform)
        for channel in CHANNELS:
            write_map(maps, key, channel, blob(), blob() > 4, PLAN.matrix)
            regions += [(key, channel, name, 0.01, np.nan, 1.0, 0.3, 0.4, 0.5) for name in ("left hippocampus", "pons")]
        clusters.append((key, "residual", "pons", 5.0, 1.2, 1.0, 2.0, 3.0))
        rows.append((key, subject, session, "test", "CN", age, "F", "s1", "", 1.5, 40.0))
    names = [
        "key",
        "subject",
        "session",
        "role",
        "diagnosis",
        "age_years",
        "sex",
        "site",
        "flags",
        "score_residual",
        "x",
    ]
    cluster_names = ["key", "channel", "region", "peak_z", "volume_ml", "x_mm", "y_mm", "z_mm"]
    write_maps_tables(
        maps,
        pd.DataFrame(rows, columns=names),
        pd.DataFrame(regions, columns=list(REGIONS.columns)),
        pd.DataFrame(clusters, columns=cluster_names),
    )
    people = pd.read_csv(maps / "subjects.tsv", sep="\t", dtype=str, keep_default_na=False)
    people = people.assign(cdr="n/a", mmse="n/a")
    people.to_csv(prepared / "manifest.tsv", sep="\t", index=False)
    write_plan(prepared / "plan.json", PLAN)
    record(prepared, "prepare")
    record(maps, "anomaly", prepared=[{"path": str(prepared), "verb": "prepare", "key": "prepare prepared"}], run=[])
    return root


@pytest.fixture(scope="module")
def dataset(world: Path) -> Path:
    return Export(
        maps=world / "maps", out=world / "dataset", workers=1, source=("doi:10.1/x", "https://example.org")
    ).run()


def read_json(path: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_every_map_is_there_under_its_name(world: Path, dataset: Path) -> None:
    anat = dataset / "sub-a1" / "ses-2" / "anat"
    names = {path.name for path in anat.iterdir()}
    wanted = {f"sub-a1_ses-2_space-{SPACE}_res-4mm_desc-{c}_stat-z_statmap.nii.gz" for c in CHANNELS}
    wanted |= {f"sub-a1_ses-2_space-{SPACE}_res-4mm_desc-{c}FDR_mask.nii.gz" for c in CHANNELS}
    wanted |= {f"sub-a1_ses-2_space-individual_desc-{c}_stat-z_statmap.nii.gz" for c in CHANNELS}
    assert names == wanted | {"sub-a1_ses-2_desc-regions_stats.tsv"}
    shared = anat / f"sub-a1_ses-2_space-{SPACE}_res-4mm_desc-residual_stat-z_statmap.nii.gz"
    original = world / "maps" / "maps" / "sub-a1_ses-2_desc-residual_zmap.nii.gz"
    assert shared.read_bytes() == original.read_bytes()
    without_session = {path.name for path in (dataset / "sub-b2" / "anat").iterdir()}
    assert f"sub-b2_space-{SPACE}_res-4mm_desc-residual_stat-z_statmap.nii.gz" in without_session
    assert not any("individual" in name for name in without_session)


def test_the_description_is_that_of_a_derivative(dataset: Path) -> None:
    found = read_json(dataset / "dataset_description.json")
    assert found["DatasetType"] == "derivative"
    assert found["GeneratedBy"][0]["Name"] == "gen3d"  # type: ignore[index]
    assert found["SourceDatasets"] == [{"DOI": "doi:10.1/x"}, {"URL": "https://example.org"}]
    assert {"Name", "BIDSVersion"} <= set(found)


def test_the_bids_validator_finds_no_error(dataset: Path) -> None:
    assert bids_errors(dataset) == []


def test_no_file_names_a_place_on_this_machine(world: Path, dataset: Path) -> None:
    for path in dataset.rglob("*"):
        if path.is_file() and path.suffix in (".json", ".tsv", "") and path.name != ".lock":
            assert str(world.parent) not in path.read_text(), path
    assert "artefact.json" in (dataset / ".bidsignore").read_text()


def test_every_column_of_every_table_is_described(dataset: Path) -> None:
    """By the JSON of the same name or, by inheritance, one at the top whose name ends the table's name."""
    sidecars = {path.stem: read_json(path) for path in dataset.glob("*.json")}
    tables = sorted(dataset.rglob("*.tsv"))
    assert len(tables) == 3 + 3 + 1 + 1
    for path in tables:
        columns = path.read_text().splitlines()[0].split("\t")
        fitting = [s for name, s in sidecars.items() if path.stem == name or path.stem.endswith(f"_{name}")]
        described = max(fitting, key=len)
        assert set(columns) <= set(described), path
        assert all(entry["Description"] for entry in described.values())  # type: ignore[index]
    regions = sidecars["desc-regions_stats"]
    assert regions["effect_percent"]["Units"] == "percent"  # type: ignore[index]


def test_tables_hold_every_scan_and_missing_values_as_bids_writes_them(dataset: Path) -> None:
    group = pd.read_csv(dataset / "group_desc-regions_stats.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert len(group) == 12
    assert set(group["session_id"]) == {"ses-1", "ses-2", "n/a"}
    assert set(group["effect_percent"]) == {"n/a"}
    people = pd.read_csv(dataset / "participants.tsv", sep="\t", dtype=str, keep_default_na=False)
    assert people["participant_id"].tolist() == ["sub-a1", "sub-b2"]
    assert people["age"].tolist() == ["61", "70"]
    sessions = pd.read_csv(dataset / "sub-a1" / "sub-a1_sessions.tsv", sep="\t", dtype=str)
    assert sessions["age"].tolist() == ["61", "63"]
    for path in dataset.rglob("*.tsv"):
        assert not any("" in line.split("\t") for line in path.read_text().splitlines()), path


@pytest.mark.parametrize("channel", CHANNELS)
def test_native_maps_lie_where_the_transforms_say(dataset: Path, displacement: np.ndarray, channel: str) -> None:
    """residual: through the affine; deformation: through the (registered) deformation, then the affine."""
    image = nib.load(
        dataset / "sub-a1/ses-1/anat" / f"sub-a1_ses-1_space-individual_desc-{channel}_stat-z_statmap.nii.gz"
    )
    data = np.asarray(image.dataobj)
    np.testing.assert_allclose(image.affine, SCAN_AFFINE)
    weights = np.clip(data - 0.6 * data.max(), 0, None)
    found = image.affine @ [*[np.average(axis, weights=weights) for axis in np.indices(data.shape)], 1.0]
    moved = displacement[(slice(None), *CENTRE)] if channel == "deformation" else np.zeros(3)
    expected = TEMPLATE_TO_SCAN @ PLAN.matrix @ [*(np.array(CENTRE) + moved), 1.0]
    if channel == "deformation":
        assert np.linalg.norm(PLAN.spacing_mm * moved) > 6  # the affine alone would be wrong by this much
    assert np.linalg.norm(found - expected) < PLAN.spacing_mm * (0.3 if channel == "residual" else 1.0)
    sidecar = read_json(dataset / f"space-individual_desc-{channel}_stat-z_statmap.json")
    assert sidecar["SpatialReference"] == "orig"
    assert ("deformation" in str(sidecar["Description"]).split("resampled")[1]) == (channel == "deformation")


def test_the_template_is_the_one_that_the_name_says() -> None:
    """Release 2009a has 197 x 233 x 189 voxels (2009c: 193 x 229 x 193); the symmetric version is its own mirror image."""
    template = full_template()
    assert template.t1w.shape == (197, 233, 189)
    np.testing.assert_array_equal(template.affine[:3, 3], [-98, -134, -72])
    np.testing.assert_array_equal(template.t1w, template.t1w[::-1])


def test_finished_work_is_left_alone(world: Path, dataset: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob("*.json")}
    Export(maps=world / "maps", out=dataset, workers=1, source=("doi:10.1/x", "https://example.org")).run()
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*.json")} == before
    with pytest.raises(UserError, match="other settings"):
        Export(maps=world / "maps", out=dataset, native=False).run()


def test_without_the_prepared_folder_native_maps_are_refused(world: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    maps.mkdir()
    for path in (world / "maps").glob("*.tsv"):
        (maps / path.name).write_bytes(path.read_bytes())
    (maps / "maps").symlink_to(world / "maps" / "maps")
    record(maps, "anomaly", prepared=[{"path": str(tmp_path / "gone"), "verb": "prepare", "key": "g"}])
    with pytest.raises(UserError, match="give prepared=FOLDER, or native=false"):
        Export(maps=maps, out=tmp_path / "dataset").run()
    assert not (tmp_path / "dataset").exists()
    out = Export(maps=maps, out=tmp_path / "dataset", native=False).run()
    assert not list(out.rglob("*individual*"))


def test_ids_that_are_one_as_labels_are_refused(world: Path, tmp_path: Path) -> None:
    maps = tmp_path / "maps"
    (maps / "maps").mkdir(parents=True)
    text = (world / "maps" / "subjects.tsv").read_text().replace("b2\t\t", "a_1\t1\t")
    (maps / "subjects.tsv").write_text(text)
    record(maps, "anomaly")
    with pytest.raises(UserError, match="rename it in the source"):
        Export(maps=maps, out=tmp_path / "dataset", native=False).run()


def test_columns_of_the_maps_folder_have_words_of_their_own() -> None:
    assert set(CLUSTERS.columns) - {"key"} == set(COLUMNS["clusters"])
    assert set(REGIONS.columns) - {"key"} <= set(COLUMNS["regions"])
    assert describe_column("region_score_deformation", "scans")["Units"] == "standard deviations"
    assert "channel residual" in describe_column("voxels_fdr_residual", "scans")["Description"]


def test_labels() -> None:
    assert resolution(2.5) == "2p5mm"
    assert stem("OAS1_0101", "v-1") == "sub-OAS10101_ses-v1"

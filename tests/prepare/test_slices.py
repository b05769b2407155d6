"""Slice images with people become a cohort; without people they are refused."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from gen3d.cohort.folder import VERDICTS, open_prepared
from gen3d.core.errors import Unfinished, UserError
from gen3d.prepare.slice_stacking import on_grid
from gen3d.prepare.slices import PrepareSlices

PEOPLE = {"a1": "CN", "a2": "CN", "b1": "AD", "b2": "AD"}
NUM_SLICES, ROWS, COLUMNS = 3, 12, 10


def picture(person: int, number: int) -> np.ndarray:
    """Grey values [rows, columns]: brighter at the top (front) and at the left, differing by person and slice."""
    rows, columns = np.mgrid[0:ROWS, 0:COLUMNS]
    return (40 + 10 * person + 20 * number + 3 * (ROWS - rows) + (COLUMNS - columns)).astype(np.uint8)


def write_images(folder: Path) -> pd.DataFrame:
    rows = []
    for person, (subject, diagnosis) in enumerate(PEOPLE.items()):
        for number in range(NUM_SLICES):
            path = folder / diagnosis / f"{subject}_{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(person, number)).save(path)
            rows.append((subject, number, diagnosis, f"{diagnosis}/{path.name}"))
    return pd.DataFrame(rows, columns=["subject", "slice", "diagnosis", "path"])


def run(tmp_path: Path, source: Path, **settings: object) -> np.ndarray:
    """The volumes of the cohort, in the order of its people, [n, X, Y, Z]."""
    PrepareSlices(source=source, out=tmp_path / "out", workers=1, **settings).run()
    prepared = open_prepared(tmp_path / "out")
    return prepared.load([f"sub-{subject}_ses-1" for subject in PEOPLE], ["t1w"])[:, 0]


def expected() -> np.ndarray:
    volumes = []
    for person in range(len(PEOPLE)):
        stack = np.stack([picture(person, number)[::-1].T for number in range(NUM_SLICES)], axis=2).astype(float)
        volumes.append(stack / np.percentile(stack, 99.5))
    return np.stack(volumes)


def test_a_table_a_parquet_file_and_a_folder_give_the_same_cohort(tmp_path: Path) -> None:
    table = write_images(tmp_path / "images")
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "images" / "slices.csv", index=False)
    from_table = run(tmp_path / "1", tmp_path / "images" / "slices.csv")
    np.testing.assert_allclose(from_table, expected(), atol=1e-3)

    def content(path: str) -> dict[str, object]:
        buffer = io.BytesIO()
        Image.open(tmp_path / "images" / path).save(buffer, format="PNG")
        return {"bytes": buffer.getvalue(), "path": path}

    packed = table.assign(image=[content(path) for path in table["path"]]).drop(columns="path")
    packed.to_parquet(tmp_path / "slices.parquet")
    np.testing.assert_array_equal(run(tmp_path / "2", tmp_path / "slices.parquet"), from_table)

    pattern = r"(?P<diagnosis>[^/]+)/(?P<subject>[^_/]+)_(?P<slice>[0-9]+)"
    (tmp_path / "images" / "slices.csv").unlink()
    np.testing.assert_array_equal(run(tmp_path / "3", tmp_path / "images", pattern=pattern), from_table)
    manifest = open_prepared(tmp_path / "3" / "out").manifest.set_index("subject")
    assert manifest["diagnosis"].to_dict() == PEOPLE
    assert (manifest.loc[["b1", "b2"], "role"] == "evaluation").all()
    assert manifest["scan_hash"].nunique() == len(PEOPLE)


def test_the_front_is_the_upper_edge_and_left_is_left(tmp_path: Path) -> None:
    write_images(tmp_path / "images").to_csv(tmp_path / "images" / "slices.csv", index=False)
    volume = run(tmp_path, tmp_path / "images" / "slices.csv")[0]
    assert volume.shape == (COLUMNS, ROWS, NUM_SLICES)
    assert (np.diff(volume, axis=1) > 0).all(), "y runs from back to front"
    assert (np.diff(volume, axis=0) < 0).all(), "x runs from left to right"


def test_slabs_are_joined_to_a_table_of_people(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for subject in PEOPLE:
        data = generator.uniform(1, 200, (9, 11, 8)).astype(np.float32)
        path = tmp_path / "slabs" / f"sub-{subject}_slab.nii.gz"
        path.parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(data, np.diag([2.0, 2.0, 2.0, 1.0])), path)
    people = pd.DataFrame({"subject": [*PEOPLE, "zz"], "dx": [*PEOPLE.values(), "CN"], "SES": 2, "MMSE": 29})
    people.to_csv(tmp_path / "people.tsv", sep="\t", index=False)
    volumes = run(
        tmp_path,
        tmp_path / "slabs",
        pattern="sub-(?P<subject>[a-z0-9]+)_",
        people=tmp_path / "people.tsv",
        columns={"diagnosis": "dx"},
        num_slices=4,
    )
    assert volumes.shape == (4, 9, 11, 4)
    manifest = open_prepared(tmp_path / "out").manifest
    assert manifest["diagnosis"].tolist() == list(PEOPLE.values())
    assert (manifest["session"] == "1").all(), "SES is a socioeconomic status, not a session"
    assert "zz" in (tmp_path / "out" / "unmatched.tsv").read_text(encoding="utf-8")


def test_a_scan_with_too_few_slices_is_excluded_and_said(tmp_path: Path) -> None:
    table = write_images(tmp_path / "images")
    table = table[~((table["subject"] == "b2") & (table["slice"] == 1))]
    table.to_csv(tmp_path / "images" / "slices.csv", index=False)
    with pytest.raises(Unfinished, match="1 of 4 scans could not be used, the others are done"):
        PrepareSlices(source=tmp_path / "images" / "slices.csv", out=tmp_path / "out", workers=1).run()
    verdicts = VERDICTS.read(tmp_path / "out").set_index("key")
    assert verdicts.loc["sub-b2_ses-1", "verdict"] == "exclude"
    assert "2 slices, and 3 are needed" in verdicts.loc["sub-b2_ses-1", "reason"]
    roles = open_prepared(tmp_path / "out").manifest.set_index("subject")["role"]
    assert roles["b2"] == "excluded"


@pytest.mark.parametrize("subject", ["a1", "b2"])
@pytest.mark.parametrize("damage", ["cut", "last bytes", "one bit", "no image"])
def test_one_damaged_image_costs_its_scan_alone(damage: str, subject: str, tmp_path: Path) -> None:
    """Also where it is the first image, which settles the grid, and where all pixels can still be decoded."""
    write_images(tmp_path / "images").to_csv(tmp_path / "images" / "slices.csv", index=False)
    path = tmp_path / "images" / PEOPLE[subject] / f"{subject}_0.png"
    whole = path.read_bytes()
    place = whole.index(b"IDAT") + 8
    path.write_bytes(
        {
            "cut": whole[:place],
            "last bytes": whole[:-14],
            "one bit": whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :],
            "no image": b"not an image",
        }[damage]
    )
    with pytest.raises(Unfinished, match=f"sub-{subject}_ses-1: .*cannot be read as an image"):
        PrepareSlices(source=tmp_path / "images" / "slices.csv", out=tmp_path / "out", workers=1).run()
    prepared = open_prepared(tmp_path / "out")
    assert prepared.manifest.set_index("subject")["role"].eq("excluded").to_dict() == {
        name: name == subject for name in PEOPLE
    }
    others = [number for number, name in enumerate(PEOPLE) if name != subject]
    keys = [f"sub-{name}_ses-1" for name in PEOPLE if name != subject]
    np.testing.assert_allclose(prepared.load(keys, ["t1w"])[:, 0], expected()[others], atol=1e-3)


def test_slices_are_chosen_evenly_and_planes_fitted_around_the_centre() -> None:
    volume = np.arange(5 * 4 * 9, dtype=np.float32).reshape(5, 4, 9)
    fitted = on_grid(volume, (3, 6, 3), "axial")
    np.testing.assert_array_equal(fitted[:, 1:5], volume[1:4][:, :, [0, 4, 8]])
    assert (fitted[:, [0, 5]] == 0).all()
    with pytest.raises(UserError, match="9 slices, and 10 are needed"):
        on_grid(volume, (5, 4, 10), "axial")


REFUSED = {
    "no people": (lambda table: table.drop(columns="subject"), {}, "slices without people cannot be split"),
    "no numbers": (lambda table: table.drop(columns="slice"), {}, "have no number"),
    "a number twice": (lambda table: table.assign(slice=0), {}, "given twice"),
    "no image": (lambda table: table.assign(path="absent.png"), {}, "cannot be read"),
    "no paths": (lambda table: table.drop(columns="path"), {}, "no column with the images' files"),
    "no column": (lambda table: table, {"columns": {"diagnosis": "dx"}}, "no column `dx`"),
    "a pattern": (lambda table: table, {"pattern": "x"}, "goes with a folder"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_one_sentence(case: str, tmp_path: Path) -> None:
    change, settings, sentence = REFUSED[case]
    table = write_images(tmp_path / "images")
    change(table).to_csv(tmp_path / "images" / "slices.csv", index=False)
    with pytest.raises(UserError, match=sentence):
        PrepareSlices(source=tmp_path / "images" / "slices.csv", out=tmp_path / "out", workers=1, **settings).run()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        (None, "say whose slice a file is"),
        ("(?P<slice>[0-9])", "has no group"),
        ("(?P<subject>", "not a regular expression"),
        ("(?P<subject>q+)", "does not match"),
    ],
)
def test_a_folder_needs_a_pattern_with_people(pattern: str | None, sentence: str, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    with pytest.raises(UserError, match=sentence):
        PrepareSlices(source=tmp_path / "images", pattern=pattern, out=tmp_path / "out").run()


def test_people_without_any_slice_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "images").to_csv(tmp_path / "images" / "slices.csv", index=False)
    (tmp_path / "people.csv").write_text("subject,age\nq9,70\n", encoding="utf-8")
    with pytest.raises(UserError, match="none of its people has a slice"):
        PrepareSlices(
            source=tmp_path / "images" / "slices.csv", people=tmp_path / "people.csv", out=tmp_path / "out"
        ).run()

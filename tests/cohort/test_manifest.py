from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.manifest import (
    REQUIRED,
    Split,
    assign_folds,
    assign_roles,
    is_control,
    is_twin,
    read_manifest,
    scan_key,
    subject_hash,
    write_manifest,
)
from gen3d.core.errors import UserError


def cohort(num: int = 120, seed: int = 0, sessions: int = 1) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(num):
        person = {
            "subject": f"s{i:03d}",
            "site": generator.choice(["a", "b", "c"]),
            "age_years": float(generator.uniform(20, 80)),
            "sex": generator.choice(["F", "M"]),
            "diagnosis": "control" if i % 4 else "AD",
            "cdr": np.nan,
            "mmse": np.nan,
            "role": "",
        }
        rows += [
            {**person, "session": str(s), "key": scan_key(person["subject"], str(s))} for s in range(1, sessions + 1)
        ]
    return pd.DataFrame(rows)


def test_roles_are_by_subject_and_patients_are_never_trained_on() -> None:
    frame = assign_roles(cohort(sessions=2), Split())
    assert (frame.groupby("subject")["role"].nunique() == 1).all()
    assert set(frame.loc[frame["diagnosis"] == "AD", "role"]) == {"evaluation"}


def test_shares_and_balance() -> None:
    frame = assign_roles(cohort(400), Split(train=0.5, calibration=0.3, test=0.2))
    controls = frame[frame["diagnosis"] == "control"]
    shares = controls["role"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.5, abs=0.02)
    assert shares["test"] == pytest.approx(0.2, abs=0.02)
    ages = controls.groupby("role")["age_years"].mean()
    assert ages.max() - ages.min() < 4
    by_site = controls.groupby("role")["site"].value_counts(normalize=True).unstack()
    assert (by_site.max() - by_site.min()).max() < 0.08


def test_seeded() -> None:
    frame = cohort()
    same = assign_roles(frame, Split(seed=1))["role"].equals(assign_roles(frame, Split(seed=1))["role"])
    other = assign_roles(frame, Split(seed=1))["role"].equals(assign_roles(frame, Split(seed=2))["role"])
    assert same
    assert not other


def test_a_person_who_is_a_patient_at_one_session_is_not_a_control() -> None:
    frame = cohort(8, sessions=2)
    frame.loc[(frame["subject"] == "s001") & (frame["session"] == "2"), "diagnosis"] = "MCI"
    assert set(assign_roles(frame, Split()).set_index("subject").loc["s001", "role"]) == {"evaluation"}


def test_excluded_scans() -> None:
    frame = assign_roles(cohort(8), Split(), excluded=["sub-s001_ses-1"])
    assert frame.set_index("subject").loc["s001", "role"] == "excluded"


def test_a_torn_split_cannot_be_written_or_read(tmp_path: Path) -> None:
    frame = assign_roles(cohort(8, sessions=2), Split())
    write_manifest(tmp_path, frame)
    torn = frame.copy()
    torn.loc[torn.index[torn["subject"] == "s001"][0], "role"] = "test"
    torn.loc[torn.index[torn["subject"] == "s001"][1], "role"] = "train"
    with pytest.raises(UserError, match="s001: sessions of one person have different roles"):
        write_manifest(tmp_path, torn)
    text = (tmp_path / "manifest.tsv").read_text().splitlines()
    rows = [line.replace(frame.loc[frame["subject"] == "s001", "role"].iloc[0], "evaluation", 1) for line in text[3:4]]
    (tmp_path / "manifest.tsv").write_text("\n".join([*text[:3], *rows, *text[4:]]))
    with pytest.raises(UserError, match="a split is by subject"):
        read_manifest(tmp_path)


def test_twins_have_no_say_in_the_split_and_are_never_learned_from(tmp_path: Path) -> None:
    frame = assign_roles(cohort(8), Split())
    twin = frame[frame["role"] == "train"].head(1)
    twin = twin.assign(base=twin["key"], session="1tnull", key="sub-x_ses-1tnull", role="evaluation", diagnosis="null")
    both = pd.concat([frame, twin], ignore_index=True)
    write_manifest(tmp_path, both)
    back = read_manifest(tmp_path)
    assert back["base"].tolist() == [""] * 8 + twin["base"].tolist()
    assert is_twin(back).tolist() == [False] * 8 + [True]
    assert not is_twin(frame).any()
    with pytest.raises(UserError, match="its role is always evaluation"):
        write_manifest(tmp_path, both.assign(role="train"))


def test_round_trip_keeps_types_and_further_columns(tmp_path: Path) -> None:
    frame = assign_roles(cohort(12), Split()).assign(hand="left")
    frame.loc[0, "age_years"] = np.nan
    write_manifest(tmp_path, frame)
    back = read_manifest(tmp_path)
    assert back["subject"].tolist() == frame["subject"].tolist()
    assert np.isnan(back.loc[0, "age_years"])
    assert back["hand"].eq("left").all()
    assert back["session"].map(type).eq(str).all()


def test_folds_are_by_subject_and_even() -> None:
    frame = cohort(50, sessions=2)
    folds = assign_folds(frame, 5, seed=0)
    assert folds.groupby(frame["subject"]).nunique().eq(1).all()
    assert folds.value_counts().max() - folds.value_counts().min() <= 2
    with pytest.raises(UserError, match="5 folds need at least 5 subjects"):
        assign_folds(cohort(4), 5, seed=0)


def test_controls_are_named_or_recognised() -> None:
    frame = cohort(4)
    frame["diagnosis"] = ["CN", "depr", "Healthy", ""]
    assert is_control(frame).tolist() == [True, False, True, False]
    assert is_control(frame, ["depr"]).tolist() == [False, True, False, False]
    assert is_control(frame, ["all"]).all()
    with pytest.raises(UserError, match="the diagnoses in the table are: CN 1, depr 1"):
        is_control(frame, ["kontrolle"])


def test_split_must_sum_to_one() -> None:
    with pytest.raises(ValueError, match="must be 1"):
        Split(train=0.5)


def test_hash_identifies_people_without_naming_them() -> None:
    assert subject_hash("01") == subject_hash("01")
    assert subject_hash("01") != subject_hash("02")
    assert "01" not in subject_hash("01")[:4] or len(subject_hash("01")) == 16


@pytest.mark.parametrize("column", ["key", "subject", "session", "base"])
def test_a_cohort_table_that_leads_out_of_its_folder_is_refused(column: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({name: ["x"] for name in REQUIRED}).assign(age_years=50.0, role="evaluation", base="")
    write_manifest(tmp_path, frame.assign(**{column: "../../escaped"}))
    with pytest.raises(
        UserError, match=rf"manifest\.tsv: the {column} '\.\./\.\./escaped' cannot be part of a file's name"
    ):
        read_manifest(tmp_path)


def test_an_infinite_age_is_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({name: ["x"] for name in REQUIRED}).assign(age_years=np.inf, role="evaluation")
    write_manifest(tmp_path, frame)
    with pytest.raises(UserError, match=r"manifest\.tsv: age_years is infinite"):
        read_manifest(tmp_path)

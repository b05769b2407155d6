from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.study.features import one_scan_each, open_features
from gen3d.classify.study.joining import with_columns
from gen3d.classify.study.scans import scans_behind
from gen3d.classify.study.selection import only_those
from gen3d.cohort.manifest import subject_hash
from gen3d.core.artefact import read
from gen3d.core.errors import UserError
from gen3d.core.output_folder import begin
from tests.latents_folder import Encoded, cohort_table, write_latents
from tests.maps_folder import write_tables
from tests.sealing import reseal

GENERATOR = np.random.default_rng(0)


def write_maps(folder: Path, table: pd.DataFrame, judged: np.ndarray) -> Path:
    """Maps as `gen3d anomaly` leaves them: scores and regions, NaN where nobody could judge."""
    work = begin(Encoded(out=folder), "anomaly", {})
    score = np.where(judged, np.arange(len(table), dtype=float), np.nan)
    rows = [
        {"key": key, "channel": "deformation", "region": region, "z": value + shift}
        for key, value in zip(table["key"], score, strict=True)
        for region, shift in (("left hippocampus", 0.5), ("right hippocampus", -0.5))
    ]
    write_tables(folder, table.assign(score_deformation=score), pd.DataFrame(rows))
    work.finish({})
    return folder


def test_maps_become_scores_of_the_people_who_were_judged(tmp_path: Path) -> None:
    table = cohort_table(6)
    features = open_features([write_maps(tmp_path / "m", table, np.arange(6) != 2)])
    assert features.values.shape == (1, 5, 3)
    np.testing.assert_allclose(features.values[0, 1], [1.0, 1.5, 0.5])
    assert "1 scan that" in features.notes[0]


def test_people_who_calibrate_maps_count_as_seen_by_them(tmp_path: Path) -> None:
    table = cohort_table(4, role=["calibration", "test", "evaluation", "train"])
    features = open_features([write_maps(tmp_path / "m", table, np.ones(4, dtype=bool))])
    np.testing.assert_array_equal(features.blind, [[False, True, True, False]])
    assert features.seen[subject_hash("p0000")] == "calibration of m (calibration)"


def test_further_features_are_joined_by_person_not_by_place(tmp_path: Path) -> None:
    values, other = GENERATOR.standard_normal((6, 4)), np.arange(12.0).reshape(6, 2)
    table = cohort_table(6)
    first = write_latents(tmp_path / "a", values, table)
    shuffled = table.iloc[[3, 0, 5, 1, 4]].reset_index(drop=True)
    second = write_latents(tmp_path / "b", other[[3, 0, 5, 1, 4]], shuffled, run_key="other", kind="pca")
    both = open_features([first], [second])
    assert list(both.table["subject"]) == ["p0000", "p0001", "p0003", "p0004", "p0005"]
    np.testing.assert_allclose(both.values[0][:, 4:], other[[0, 1, 3, 4, 5]])
    np.testing.assert_allclose(both.values[0][:, :4], values[[0, 1, 3, 4, 5]], rtol=1e-6)
    assert both.blocks == (4, 2)
    assert both.made_by == ("k", "other")
    stranger = write_latents(tmp_path / "c", other, cohort_table(6, subject=[f"x{i}" for i in range(6)]), run_key="o")
    with pytest.raises(UserError, match="no scan"):
        open_features([first], [stranger])


def test_somebody_seen_by_what_stands_beside_is_seen(tmp_path: Path) -> None:
    table = cohort_table(4)
    first = write_latents(tmp_path / "a", np.ones((4, 2)), table)
    family = write_latents(
        tmp_path / "b",
        np.ones((3, 4, 2)),
        table,
        run_key="f",
        seen=[{subject_hash("p0001"): "pca (train)"}, {subject_hash("p0001"): "pca (train)"}, {}],
    )
    both = open_features([first], [family])
    assert both.values.shape == (3, 4, 4)
    np.testing.assert_array_equal(both.blind[:, 1], [False, False, True])
    maps = write_maps(tmp_path / "m", table.assign(role="calibration"), np.ones(4, dtype=bool))
    waived = open_features([family], [maps])
    assert not waived.blind.any()
    np.testing.assert_array_equal(waived.may_test(waived=True)[:, 1], [False, False, True])
    assert waived.may_test(waived=True)[:, 0].all()
    two = write_latents(tmp_path / "d", np.ones((2, 4, 2)), table, run_key="g", seen=[{}, {}])
    with pytest.raises(UserError, match="2 members, but the latents have 3"):
        open_features([family], [two])


def test_weights_that_name_nobody_are_not_taken_for_blind_without_a_word(tmp_path: Path) -> None:
    unknown = open_features([write_latents(tmp_path / "a", np.ones((4, 2)), cohort_table(4), kind="autoencoder_kl")])
    assert "autoencoder_kl" in unknown.notes[0]
    assert "not known" in unknown.notes[0]
    seen = {subject_hash("somebody else"): "vae (train)"}
    assert open_features([write_latents(tmp_path / "b", np.ones((4, 2)), cohort_table(4), seen=seen)]).notes == ()


def test_twins_synthetic_scans_and_later_sessions_are_left_out(tmp_path: Path) -> None:
    table = cohort_table(
        5, subject=["a", "a", "b", "c", "syn1"], session=["2", "1", "1", "1", "1"], base=["", "", "", "sub-a", ""]
    )
    table["generator"] = ["", "", "", "", "ldm"]
    features = open_features([write_latents(tmp_path / "l", np.arange(10.0).reshape(5, 2), table)])
    first = one_scan_each(features, "first")
    assert list(first.table["key"]) == ["sub-a_ses-1", "sub-b_ses-1"]
    assert list(one_scan_each(features, "all").table["subject"]) == ["a", "a", "b"]
    assert any("1 later session" in note for note in first.notes)


def test_conditions_choose_scans(tmp_path: Path) -> None:
    table = cohort_table(6, age_years=[50.0, 60, 70, 80, np.nan, 65], sex=list("FMFMFM"))
    features = open_features([write_latents(tmp_path / "l", np.zeros((6, 2)), table)])
    assert list(only_those(features, {"age_years": [60, None]}).table["age_years"]) == [60, 70, 80, 65]
    assert list(only_those(features, {"sex": "F", "age_years": [0, 60]}).table["age_years"]) == [50]
    assert len(only_those(features, {"sex": ["F", "M"]})) == 6
    with pytest.raises(UserError, match="height is not a column"):
        only_those(features, {"height": 1})


def test_columns_come_from_a_table_by_subject_and_session(tmp_path: Path) -> None:
    table = cohort_table(4, subject=["a", "a", "b", "c"], session=["1", "2", "1", "1"])
    features = open_features([write_latents(tmp_path / "l", np.zeros((4, 2)), table)])
    (tmp_path / "t.tsv").write_text("participant_id\tsession\tmmse2\nsub-a\t2\t20\nsub-b\t1\t29\n")
    assert with_columns(features, tmp_path / "t.tsv").table["mmse2"].fillna(-1).tolist() == [-1, 20, 29, -1]
    for text, words in (
        ("name\tmmse2\na\t1\n", "no column subject"),
        ("subject\tmmse2\na\t1\na\t2\n", "a is given twice"),
    ):
        (tmp_path / "bad.tsv").write_text(text)
        with pytest.raises(UserError, match=words):
            with_columns(features, tmp_path / "bad.tsv")
    with pytest.raises(UserError, match="not a table"):
        with_columns(features, tmp_path / "nowhere.csv")


def test_a_table_of_labels_is_not_outvoted_by_older_ones(tmp_path: Path) -> None:
    table = cohort_table(4, subject=list("abcd"), diagnosis=["CN", "CN", "AD", "AD"], role="evaluation")
    table["source_subject"] = ["sub-a", "b", "c", "D 1"]
    features = open_features([write_latents(tmp_path / "l", np.zeros((4, 2)), table)])
    (tmp_path / "t.csv").write_text(
        "participant_id,diagnosis,role,scanner,code,edu\nsub-a,AD,train,0102,2180401,12\nb,AD,train,102,2180402,n/a\n"
        "c,CN,train,7,3,9\nD 1,CN,train,8,4,10\nz,CN,train,9,5,11\n"
    )
    joined = with_columns(features, tmp_path / "t.csv")
    assert list(joined.table["diagnosis"]) == ["AD", "AD", "CN", "CN"], "not those of the cohort table"
    assert set(joined.table["role"]) == {"evaluation"}, "what a scan is for is no label"
    assert list(joined.table["scanner"]) == ["0102", "102", "7", "8"], "codes are words"
    assert joined.table["edu"].fillna(-1).tolist() == [12, -1, 9, 10]
    told = "; ".join(joined.notes)
    assert "diagnosis of this table replaces that of the cohort table" in told
    assert "1 of 5 rows without a scan" in told
    assert "role cannot be changed by a table" in told


def test_a_table_that_matches_in_part_or_not_at_all_is_told(tmp_path: Path) -> None:
    table = cohort_table(3, subject=list("abc"), session=["1", "1", "1"], diagnosis=["CN", "CN", "AD"])
    features = open_features([write_latents(tmp_path / "l", np.zeros((3, 2)), table)])
    path = tmp_path / "t.csv"
    path.write_text("subject,diagnosis\na,AD\n")
    part = with_columns(features, path)
    assert list(part.table["diagnosis"]) == ["AD", "", ""]
    assert "2 of 3 scans without a row" in "; ".join(part.notes)
    for text, sentence in (
        ("subject,session,x\na,baseline,1\n", "none of its sessions"),
        ("subject,participant_id,x\na,b,1\n", "both may be the subject, and they differ"),
        ("subject,age_years\na,old\n", "age_years 'old' is not a number"),
        ("subject,x\na,1,2\n", "line 2 has 3 cells"),
        ("subject,x\nz,1\n", "none of its subjects has features"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=sentence):
            with_columns(features, path)


def test_codes_that_are_numbers_choose_classes_and_not_a_range(tmp_path: Path) -> None:
    table = cohort_table(3, site=["1", "2", "3"])
    features = open_features([write_latents(tmp_path / "l", np.zeros((3, 2)), table)])
    assert list(only_those(features, {"site": [1, 3]}).table["site"]) == ["1", "3"]


def test_latents_started_from_another_folder_never_take_other_peoples_scans(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record names `prepared`, as old ones do; there is a folder of that name, of other people with the same ids."""
    for place, key in (("mine", "k1"), ("other", "k2")):
        with begin(Encoded(out=tmp_path / place / "prepared"), "prepare", {}, {"key": key}) as work:
            work.finish()
    mine = read(tmp_path / "mine" / "prepared").key
    item = {"path": "prepared", "verb": "prepare", "key": mine}
    latents = reseal(
        write_latents(tmp_path / "mine" / "latents", np.zeros((3, 2)), cohort_table(3)), inputs={"prepared": [item]}
    )
    for place in ("mine", "other"):
        monkeypatch.chdir(tmp_path / place)
        assert [path.resolve() for path in scans_behind(latents)] == [tmp_path / "mine" / "prepared"]
    (tmp_path / "mine" / "prepared").rename(tmp_path / "elsewhere")
    with pytest.raises(
        UserError, match=r"latents: was made from prepared, which holds something else now .*voxels=false"
    ):
        scans_behind(latents)

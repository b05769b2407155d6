"""Nobody is tested by something that saw them: a contract of every verb, new ones included."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pandas as pd
import pytest

from gen3d.classify.classify import Classify
from gen3d.classify.predict import Predict
from gen3d.cohort.folder import open_prepared
from gen3d.cohort.latents_folder import open_latents_folder
from gen3d.cohort.manifest import is_control, subject_hash
from gen3d.cohort.scores_folder import RunScores, ScoredMember
from gen3d.cohort.seen import SeenBy, SeenPolicy, identities
from gen3d.cohort.target import Target
from gen3d.core.artefact import Artefact
from gen3d.core.errors import UserError
from gen3d.explain.people import to_explain
from gen3d.forecast.people import starts
from gen3d.harmonise.harmonise import Harmonise
from gen3d.latents.encode import Encode
from gen3d.models.run import load_run
from gen3d.quality.quality import Quality
from gen3d.stages.chain import Chain
from gen3d.stages.people import choose_people as choose_stage_people
from gen3d.synthesis.audit import AuditSettings, known_people
from gen3d.verbs import VERBS, verb_class
from tests.latents_folder import cohort_table, write_latents
from tests.sealing import reseal
from tests.stages.staged import train_chain, write_staged
from tests.synthetic_folder import people_of, write_synthetic

JUDGES = ("anomaly", "classify", "explain", "forecast", "predict", "quality", "sample", "stages")
"""Verbs that test or judge people; each has a test below that names it."""

PASSES_ON = ("train", "encode", "reconstruct", "harmonise", "norm")
"""Verbs that learn, and record whom they learned from; each has a test below that names it."""

JUDGES_NOBODY = {
    "prepare": "nothing is learned before it",
    "prepare-slices": "nothing is learned before it",
    "simulate": "its people are made",
    "explore": "describes its people by a column, learns nothing that is kept, and tests nobody",
    "genotypes": "fits no model; components of ancestry are fitted on training people and describe",
    "import-weights": "who was learned from is not known, which the report says",
    "stratify": "describes its people, and tests nobody; whether they were seen is a column that clusters are compared with",
    "change": "compares scans in maps of anomaly, which judges nobody who was seen",
    "evaluate": "measures maps of anomaly, and forecasts; those of people whom every member saw are refused",
    "export": "copies maps of anomaly and forecasts",
    "export-model": "writes networks with who they saw, and scores only scans that a network never saw",
    "register": "copies a run with who it saw; its answers are those of members that never saw the person",
    "report": "shows what other verbs wrote",
    "reference": "describes settings, and reads nobody's data",
    "sweep": "runs other verbs",
    "serve": "runs other verbs on people who come in, who are learned from nowhere",
    "demo": "runs other verbs",
}

QUICK = {"target": "diagnosis", "voxels": False, "permutations": 0, "bootstrap": 100, "repeats": 1, "folds": 2}
SEEN = ("p0003", "p0010")


def people(num: int = 40, prefix: str = "p", seed: int = 0) -> tuple[np.ndarray, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    ill = np.arange(num) % 2 == 1
    values = generator.standard_normal((num, 6)) + 2.0 * ill[:, None]
    subjects = [f"{prefix}{number:04d}" for number in range(num)]
    return values, cohort_table(num, subject=subjects, diagnosis=np.where(ill, "AD", "CN"))


def test_every_verb_says_whether_it_judges_people() -> None:
    assert sorted((*JUDGES, *PASSES_ON, *JUDGES_NOBODY)) == sorted(VERBS)
    tests = [name for name in globals() if name.startswith("test_")]
    for verb in (*JUDGES, *PASSES_ON):
        assert any(verb in name.split("_") for name in tests), verb


def test_every_setting_of_a_policy_offers_policies_of_the_guard_and_refuses_by_default() -> None:
    fields = [
        (verb, verb_class(verb).model_fields["seen"]) for verb in VERBS if "seen" in verb_class(verb).model_fields
    ]
    assert {verb for verb, _ in fields} == {"classify", "predict", "quality"}
    for _, field in fields:
        assert set(get_args(field.annotation)) <= set(get_args(SeenPolicy))
        assert field.default == "refuse"


def refused_or_left_out(plan: Callable[..., list[str]], sentence: str) -> None:
    """Refused by default, naming them; left out on demand, which is said."""
    with pytest.raises(UserError, match=sentence):
        plan()
    assert any("left out" in line for line in plan(seen="leave_out"))


def test_anomaly_judges_nobody_whom_its_model_saw(cohort: Path, run: Path, tmp_path: Path) -> None:
    seen = load_run(run).seen
    table = open_prepared([cohort]).manifest
    num = int((~seen.by_any(table) & (table["role"] != "excluded").to_numpy()).sum())
    assert 0 < num < len(table)
    plan = verb_class("anomaly").model_validate({"prepared": cohort, "run": run, "out": tmp_path / "maps"}).plan()
    assert plan[0].startswith(f"compares {num} scans")


def test_explain_explains_nobody_whom_its_member_saw(tmp_path: Path) -> None:
    table = people()[1].assign(label=lambda frame: frame["diagnosis"], group=lambda frame: frame["diagnosis"])
    members = (ScoredMember(0, "main", 0), ScoredMember(1, "main", 1))
    seen = SeenBy((SeenBy.rows(table.iloc[:30], "train").members[0], SeenBy.rows(table.iloc[10:], "train").members[0]))
    artefact = Artefact(tmp_path / "run", "train", "key", {}, {}, {}, "0.1.0", "")
    target = Target("diagnosis", "categories", ("CN", "AD"))
    scores = RunScores(artefact, target, "liu", "", ("t1w",), 0.1, 2, members, pd.DataFrame(), seen)
    tasks = to_explain(table, scores, (), 0, 1, 0)
    place = {str(name): number for number, name in enumerate(table["subject"])}
    assert {task.members for task in tasks if place[task.subject] < 10} == {(1,)}
    assert {task.members for task in tasks if place[task.subject] >= 30} == {(0,)}
    assert len(tasks) == 20
    with pytest.raises(UserError, match=f"every member of .*run saw {table['subject'].iloc[15]}"):
        to_explain(table, scores, (table["subject"].iloc[15],), 0, 1, 0)


def test_forecast_forecasts_nobody_whom_its_member_saw(tmp_path: Path) -> None:
    table = people()[1]
    seen = SeenBy((SeenBy.rows(table.iloc[:30], "train").members[0], SeenBy.rows(table.iloc[10:], "train").members[0]))
    found, left_out = starts(table, seen.blind_to, 1, "last", (), tmp_path / "run")
    place = {str(name): number for number, name in enumerate(table["subject"])}
    assert {task.members for task in found if place[task.subject] < 10} == {(1,)}
    assert {task.members for task in found if place[task.subject] >= 30} == {(0,)}
    assert (len(found), len(left_out)) == (20, 20)
    with pytest.raises(UserError, match=f"every member of .*run saw {table['subject'].iloc[15]}"):
        starts(table, seen.blind_to, 1, "last", (table["subject"].iloc[15],), tmp_path / "run")


def test_stages_sends_nobody_whom_a_fold_saw_along_that_fold(tmp_path: Path) -> None:
    prepared = write_staged(tmp_path / "cohort", people=(6, 6, 6))
    chain = Chain.open(train_chain(tmp_path / "run", prepared, steps=1, cross_fit=3), "cpu")
    chosen = choose_stage_people(open_prepared(prepared), chain)
    assert len(chosen.table) == 18
    assert set(chosen.folds.tolist()) == {0, 1, 2}
    for row, person in enumerate(identities(chosen.table)):
        fold = int(chosen.folds[row])
        assert not {2 * fold, 2 * fold + 1} & set(chain.run.seen.saw(person))
    plain = Chain.open(train_chain(tmp_path / "one", prepared, steps=1, validation=0.0), "cpu")
    with pytest.raises(UserError, match="every generator was trained on all 18 people"):
        choose_stage_people(open_prepared(prepared), plain)


def renamed(cohort: Path, folder: Path) -> Path:
    """The same scans prepared under other ids."""
    shutil.copytree(cohort, folder, copy_function=os.link)
    table = pd.read_csv(cohort / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    (folder / "manifest.tsv").unlink()
    table.assign(subject="siteA" + table["subject"]).to_csv(folder / "manifest.tsv", sep="\t", index=False)
    return reseal(folder)


def test_anomaly_and_sample_recognise_training_people_under_other_ids(cohort: Path, run: Path, tmp_path: Path) -> None:
    other = renamed(cohort, tmp_path / "renamed")
    plans = [
        verb_class("anomaly").model_validate({"prepared": folder, "run": run, "out": tmp_path / "maps"}).plan()[0]
        for folder in (cohort, other)
    ]
    assert plans[0] == plans[1]
    train, _ = known_people(load_run(run), open_prepared([other]), AuditSettings())
    assert train["subject"].str.startswith("siteA").all()
    table = pd.read_csv(other / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    table[table["role"] == "train"].to_csv(other / "manifest.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match=r"the same scan under another id\); nobody is left; [^;]*cross_fit=5\.$"):
        verb_class("anomaly").model_validate({"prepared": reseal(other), "run": run, "out": tmp_path / "maps"}).run()


@pytest.fixture(scope="module")
def fitted_norm(cohort: Path, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    keys = {"prepared": cohort, "run": run, "out": tmp_path_factory.mktemp("norm") / "norm"}
    return verb_class("norm").model_validate(keys).run()


def test_norm_records_whom_it_was_calibrated_on_and_none_of_them_trained_its_model(
    cohort: Path, run: Path, fitted_norm: Path
) -> None:
    table = open_prepared([cohort]).manifest
    calibrating = table[(table["role"] == "calibration").to_numpy() & is_control(table).to_numpy()]
    recorded = set(SeenBy.read(fitted_norm / "seen.json", "").members[0])
    assert recorded == {name for person in identities(calibrating) for name in person}
    assert not recorded & set(load_run(run).seen.members[0])


def only(cohort: Path, role: str) -> Path:
    """A copy of a cohort, changed in its place, whose people of other roles are excluded."""
    table = pd.read_csv(cohort / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    table.loc[table["role"] != role, "role"] = "excluded"
    table.to_csv(cohort / "manifest.tsv", sep="\t", index=False)
    return reseal(cohort)


@pytest.mark.parametrize(("role", "witness"), [("calibration", r"norm \(calibration\)"), ("train", "its model")])
@pytest.mark.parametrize("other_id", [False, True])
def test_anomaly_by_a_norm_judges_nobody_whom_it_or_its_model_saw(
    role: str, witness: str, other_id: bool, cohort: Path, fitted_norm: Path, tmp_path: Path
) -> None:
    copy = renamed(cohort, tmp_path / "copy")
    if not other_id:
        shutil.copy(cohort / "manifest.tsv", copy / "manifest.tsv")
    keys = {"norm": fitted_norm, "prepared": copy, "out": tmp_path / "maps"}
    everybody = open_prepared([reseal(copy)]).manifest
    num = int(everybody["role"].isin(["test", "evaluation"]).sum())
    assert verb_class("anomaly").model_validate(keys).plan()[0].startswith(f"judges {num} scans ")
    with pytest.raises(UserError, match=rf"were seen by the norm .* \({witness}.*nobody is left"):
        verb_class("anomaly").model_validate(keys | {"prepared": only(copy, role)}).run()
    assert not (tmp_path / "maps").exists()


def test_two_folders_with_one_scan_of_two_people_are_refused(cohort: Path, tmp_path: Path) -> None:
    other = renamed(cohort, tmp_path / "renamed")
    table = pd.read_csv(other / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    table.assign(key="x" + table["key"]).to_csv(other / "manifest.tsv", sep="\t", index=False)
    reseal(other)
    with pytest.raises(UserError, match=r"are one scan, voxel by voxel, and \d+ more such pairs"):
        open_prepared([cohort, other])


def hashed(table: pd.DataFrame, of: Iterable[int]) -> pd.DataFrame:
    return table.assign(scan_hash=[f"v{number:016x}" for number in of])


@pytest.mark.parametrize("verb", ["classify", "predict"])
def test_classify_and_predict_recognise_people_of_the_head_under_other_ids(verb: str, tmp_path: Path) -> None:
    values, table = people()
    latents = write_latents(tmp_path / "l", values, hashed(table, range(40)))
    head = Classify.model_validate(QUICK | {"latents": latents, "out": tmp_path / "head"}).run()
    more, others = people(20, "n", seed=1)
    new = write_latents(tmp_path / "new", more, hashed(others, range(38, 58)))
    sentence = r"2 of 20 people \(n0000, n0001\) were seen by the head .*the same scan under another id"
    keys: dict[str, Any] = {"out": tmp_path / "out", "latents": new, "head": head}
    if verb == "classify":
        keys = QUICK | {"out": tmp_path / "out", "latents": latents, "fit": head, "external": new}
    request = verb_class(verb).model_validate(keys)
    with pytest.raises(UserError, match=sentence):
        request.run()


@pytest.mark.parametrize("policy", ["refuse", "leave_out", "train_only"])
def test_classify_tests_nobody_whom_a_model_behind_the_latents_saw(policy: str, tmp_path: Path) -> None:
    latents = write_latents(tmp_path / "l", *people(), seen=dict.fromkeys(map(subject_hash, SEEN), "vae (train)"))
    verb = Classify.model_validate(QUICK | {"latents": latents, "out": tmp_path / "head", "seen": policy})
    if policy == "refuse":
        with pytest.raises(UserError, match=r"2 of 40 people \(p0003, p0010\) were seen by .* \(vae \(train\)\)"):
            verb.run()
        return
    tested = pd.read_csv(verb.run() / "predictions.tsv", sep="\t")["subject"]
    assert tested.nunique() == 38
    assert not set(tested) & set(SEEN)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seen")
    latents = write_latents(root / "latents", *people())
    return Classify.model_validate(QUICK | {"latents": latents, "out": root / "head"}).run()


def newcomers(folder: Path) -> Path:
    """Twenty people, of whom the head learned from two."""
    values, table = people(20, "n", seed=1)
    subjects = [*SEEN, *table["subject"][2:]]
    return write_latents(folder, values, cohort_table(20, subject=subjects, diagnosis=table["diagnosis"].to_numpy()))


@pytest.mark.parametrize("policy", ["refuse", "train_only", "waive"])
def test_classify_tests_a_finished_head_on_nobody_it_learned_from(policy: str, head: Path, tmp_path: Path) -> None:
    keys = {"latents": head.parent / "latents", "fit": head, "external": newcomers(tmp_path / "new")}
    with pytest.raises(UserError, match=r"2 of 20 people \(p0003, p0010\) were seen by the head to be tested"):
        Classify.model_validate(QUICK | keys | {"out": tmp_path / "test", "seen": policy}).run()
    out = Classify.model_validate(QUICK | keys | {"out": tmp_path / "left", "seen": "leave_out"}).run()
    assert not set(pd.read_csv(out / "predictions.tsv", sep="\t")["subject"]) & set(SEEN)


def test_predict_predicts_nobody_whom_the_head_learned_from(head: Path, tmp_path: Path) -> None:
    keys = {"head": head, "latents": newcomers(tmp_path / "new"), "out": tmp_path / "out"}
    refused_or_left_out(
        lambda **more: Predict.model_validate(keys | more).plan(),
        r"2 of 20 people \(p0003, p0010\) were seen by the head of",
    )


def test_quality_compares_with_nobody_whom_the_generator_saw(cohort: Path, tmp_path: Path) -> None:
    known = people_of(cohort, "calibration")[:2]
    keys: dict[str, Any] = {"reference": (cohort,), "out": tmp_path / "out"}
    keys["synthetic"] = write_synthetic(tmp_path / "synthetic", known=known)
    refused_or_left_out(
        lambda **more: Quality.model_validate(keys | more).plan(),
        rf"2 of \d+ people \({', '.join(known)}\) were seen by",
    )


def test_sample_audits_against_people_whom_the_run_never_saw(cohort: Path, run: Path) -> None:
    opened = load_run(run)
    train, held_out = known_people(opened, open_prepared([cohort]), AuditSettings())
    assert opened.seen.by_any(train).all()
    assert not opened.seen.by_any(held_out).any()


def test_train_encode_and_reconstruct_record_whom_the_model_saw(cohort: Path, pca_run: Path, tmp_path: Path) -> None:
    seen = SeenBy.read(pca_run / "subjects.json", "")
    assert set(seen.subjects[0]) == {subject_hash(subject) for subject in people_of(cohort, "train")}
    latents = open_latents_folder(
        Encode.model_validate({"prepared": cohort, "run": pca_run, "out": tmp_path / "l"}).run()
    )
    assert set(latents.seen.members[0]) == set(seen.members[0])
    assert set(latents.seen.members[0].values()) == {"pca (train)"}
    np.testing.assert_array_equal(latents.table["seen"], seen.by_all(latents.table))
    reconstruct = verb_class("reconstruct").model_validate({"prepared": cohort, "run": pca_run, "out": tmp_path / "r"})
    metrics = pd.read_csv(reconstruct.run() / "metrics.tsv", sep="\t").drop_duplicates("key").set_index("key")
    np.testing.assert_array_equal(metrics.loc[latents.table["key"], "seen"], latents.table["seen"])


def test_harmonise_records_whom_the_sites_were_estimated_from(tmp_path: Path) -> None:
    values, table = people()
    latents = write_latents(tmp_path / "l", values, table.assign(site=np.where(np.arange(40) % 4 < 2, "A", "B")))
    out = Harmonise.model_validate({"latents": latents, "keep": (), "out": tmp_path / "h", "show": ()}).run()
    assert json.loads((out / "seen.json").read_text())["0"] == dict.fromkeys(
        map(subject_hash, table["subject"]), "harmonised by site"
    )

"""36 inputs that real datasets bring, by the real commands: the right value, a sentence, or wrong without a word?

Every case builds a small dataset (the MNI152 template with a dark sphere on the left; random latents; a simulated cohort),
runs the command that a user would type in a process of its own, and compares with the value that the case must give. `right`:
exit 0 and the right value; `told`: exit 2 or 3 with a sentence and no traceback; all else is a fault.

    python analysis/14_what_breaks_it_inputs.py --out FOLDER [--only NAME ...]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from gen3d.cohort.latents_folder import write_latents
from gen3d.cohort.seen import SeenBy
from gen3d.core.config import Verb
from gen3d.core.output_folder import begin
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import read_stored

QUICK = ("spacing_mm=4", "deformation_channel=false", "bias_correction=false", "degrees_of_freedom=6")
USER_MISTAKE = (2, 3)
Case = Callable[[Path], "Answer"]
CASES: dict[str, Case] = {}


@dataclass(frozen=True)
class Answer:
    """What a case ended with: `right`, `told`, `wrong` or `traceback`, and the value or the sentence."""

    verdict: str
    what: str


@dataclass(frozen=True)
class Ran:
    """A command that was run."""

    code: int
    text: str

    def ended(self, right: bool | None = None, value: object = "") -> Answer:
        """The verdict: `right` is whether the values are the right ones, asked where the command succeeded."""
        lines = [line for line in self.text.splitlines() if line.strip()]
        last = lines[-1] if lines else ""
        if "Traceback" in self.text or self.code not in (0, *USER_MISTAKE):
            return Answer("traceback", f"exit {self.code}: {last}")
        if self.code in USER_MISTAKE:
            return Answer("told", last) if last else Answer("wrong", f"exit {self.code} without a word")
        return Answer("right" if right else "wrong", str(value))


def gen3d(place: Path, *arguments: str, **environment: str) -> Ran:
    """Run a verb in `place`."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "gen3d", *arguments]
    done = subprocess.run(command, cwd=place, env=variables, capture_output=True, text=True, timeout=900)
    return Ran(done.returncode, done.stdout + done.stderr)


def case(function: Case) -> Case:
    CASES[function.__name__] = function
    return function


# --------------------------------------------------------------------------------------------------- building blocks


@cache
def phantom() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """The template's brain at 4 mm with a dark sphere on the left [X, Y, Z], and its affine."""
    template = template_on(plan_grid(4.0, 8))
    data = 500 * template.t1w
    places = np.stack(np.meshgrid(*map(np.arange, data.shape), indexing="ij"), -1) @ template.affine[:3, :3].T
    from_centre = np.linalg.norm(places + template.affine[:3, 3] - (-35, -20, 20), axis=-1)
    return np.where(from_centre < 14, 0.35 * data, data).astype(np.float32), template.affine


def scan(path: Path, person: int = 0, factor: float = 1.0) -> Path:
    """Write a person's scan: the phantom with that person's own noise."""
    data, affine = phantom()
    noise = 1 + 0.03 * np.random.default_rng(person).standard_normal(data.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image((factor * data * noise).astype(np.float32), affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    image.set_qform(affine, code=1)
    nib.save(image, path)
    return path


def bids(folder: Path, people: dict[str, int], table: str = "") -> Path:
    """A dataset with a scan for each label (folder label -> number of the person), and participants.tsv."""
    for label, person in people.items():
        scan(folder / f"sub-{label}" / "anat" / f"sub-{label}_T1w.nii.gz", person)
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.8.0"}')
    if table:
        (folder / "participants.tsv").write_text(table)
    return folder


def prepare(place: Path, *arguments: str, source: str = "source=data", **environment: str) -> tuple[Ran, pd.DataFrame]:
    """Prepare, and the cohort table (empty where there is none)."""
    ran = gen3d(place, "prepare", source, "out=prepared", "workers=1", *QUICK, *arguments, **environment)
    path = place / "prepared" / "manifest.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    return ran, table


def ages(table: pd.DataFrame) -> list[float]:
    """Ages in the order of the scans, [] without a table."""
    if table.empty:
        return []
    return [float(age) if age not in ("", "n/a") else float("nan") for age in table.sort_values("key")["age_years"]]


def close(found: Sequence[float], wanted: Sequence[float]) -> bool:
    return len(found) == len(wanted) and bool(np.allclose(found, wanted, atol=0.05, equal_nan=True))


def volume(place: Path, key: str) -> NDArray[np.float32]:
    return read_stored(place / "prepared" / "volumes" / f"{key}_t1w.nii")


def twin_correlation(place: Path, other: Path) -> tuple[float, float]:
    """Correlation of the first prepared scan with the undamaged twin's, and with the twin's mirror image."""
    own, twin = (volume(p, next((p / "prepared" / "volumes").glob("*_t1w.nii")).name[:-8]) for p in (place, other))
    straight, mirrored = (float(np.corrcoef(own.ravel(), side.ravel())[0, 1]) for side in (twin, twin[::-1]))
    return straight, mirrored


class Encoded(Verb):
    """Stands for `gen3d encode`: random latents need no network."""


def latents(folder: Path, values: NDArray[np.float64], columns: dict[str, Sequence[object]]) -> Path:
    """A folder of latents [n, d] with the cohort's columns."""
    number = len(values)
    table = pd.DataFrame({"subject": columns.get("subject", [f"p{i:03d}" for i in range(number)])})
    table["session"] = columns.get("session", ["1"] * number)
    usual: dict[str, object] = {
        "site": "A",
        "age_years": 50.0,
        "sex": "F",
        "diagnosis": "CN",
        "cdr": np.nan,
        "mmse": np.nan,
    }
    for name, value in {**usual, "role": "evaluation", **columns}.items():
        table[name] = value
    table["key"] = [f"sub-{s}_ses-{v}" for s, v in zip(table["subject"], table["session"], strict=True)]
    work = begin(Encoded(out=folder), "encode", {}, {"values": values.tolist(), "table": table.to_csv()})
    record = {"shape": [values.shape[1]], "kind": "vae", "run_key": "k", "channels": ["t1w"]}
    write_latents(folder, values.astype(np.float32), table, record, SeenBy(({},)))
    work.finish({"num_scans": number, "num_dimensions": values.shape[1]})
    return folder


def classify(place: Path, *arguments: str, voxels: str = "false") -> tuple[Ran, pd.DataFrame]:
    """Classify with one linear head, and the predictions (empty where there are none)."""
    quick = ("heads=[linear]", "repeats=1", "permutations=20", f"voxels={voxels}")
    ran = gen3d(place, "classify", "latents=latents", "out=heads", *quick, *arguments)
    path = place / "heads" / "predictions.tsv"
    table = pd.read_csv(path, sep="\t", dtype=str, keep_default_na=False) if path.is_file() else pd.DataFrame()
    return ran, table


def random(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


# ------------------------------------------------------------------------------------- which scan, and whose scan it is


@case
def nested_folder_of_same_name(place: Path) -> Answer:
    bids(place / "data", {"01": 1, "02": 2})
    scan(place / "data" / "derivatives" / "defaced" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", 9)
    ran, table = prepare(place)
    verdicts = pd.read_csv(place / "prepared" / "verdicts.tsv", sep="\t") if len(table) else table
    used = str(verdicts["source"].iloc[0]) if len(verdicts) else ""
    return ran.ended("derivatives" not in used, f"used {used}")


@case
def contrast_or_phase_before_run(place: Path) -> Answer:
    for label, other, person in (("01", "ce-GADAVIST", 1), ("02", "part-phase", 2)):
        for number, entity in enumerate(("run-1", other)):
            name = f"sub-{label}_{entity}_T1w.nii.gz"
            scan(place / "data" / f"sub-{label}" / "anat" / name, 10 * person + number)
    ran, table = prepare(place)
    used = (
        [Path(s).name for s in pd.read_csv(place / "prepared" / "verdicts.tsv", sep="\t")["source"]]
        if len(table)
        else []
    )
    return ran.ended(bool(used) and all("run-1" in name for name in used), f"used {used}")


@case
def symlinked_subject_folder(place: Path) -> Answer:
    bids(place / "data", {"01": 1})
    scan(place / "elsewhere" / "anat" / "sub-02_T1w.nii.gz", 2)
    (place / "data" / "sub-02").symlink_to(place / "elsewhere")
    ran, table = prepare(place)
    return ran.ended(len(table) == 2, f"{len(table)} people")


@case
def underscore_in_subject_label(place: Path) -> Answer:
    labels = {"002_S_0295": 1, "002_S_0413": 2, "002_S_0559": 3}
    rows = "".join(f"sub-{label}\t{60 + i}\n" for i, label in enumerate(labels))
    bids(place / "data", labels, f"participant_id\tage\n{rows}")
    ran, table = prepare(place)
    return ran.ended(len(table) == 3 and close(sorted(ages(table)), [60, 61, 62]), f"{len(table)} people")


@case
def ids_differing_in_punctuation(place: Path) -> Answer:
    for person in (1, 2):
        scan(place / f"{person}.nii.gz", person)
    (place / "data.csv").write_text("subject,session,age,path\n1-12,1,30,1.nii.gz\n11-2,2,70,2.nii.gz\n")
    ran, table = prepare(place, source="source=data.csv")
    people = table["subject"].nunique() if len(table) else 0
    return ran.ended(people == 2, f"{people} people")


@case
def sites_in_other_scripts(place: Path) -> Answer:
    bids(place / "data", {"01": 1, "02": 2}, "participant_id\tsite\nsub-01\t北京\nsub-02\t上海\n")
    ran, table = prepare(place)
    sites = table["site"].nunique() if len(table) else 0
    return ran.ended(sites == 2, f"{sites} sites")


def two_sites(place: Path, first: str, second: str) -> str:
    bids(place / first, {"01": 1}, "participant_id\tage\tdiagnosis\nsub-01\t30\tcontrol\n")
    scan(place / second / "sub-01" / "ses-01" / "anat" / "sub-01_ses-01_T1w.nii.gz", 2)
    (place / second / "participants.tsv").write_text("participant_id\tage\tdiagnosis\nsub-01\t71\tAD\n")
    return f"source=[{first},{second}]"


@case
def two_studies_in_folders_of_one_name(place: Path) -> Answer:
    ran, table = prepare(place, source=two_sites(place, "studyA/bids", "studyB/bids"))
    people = table["subject"].nunique() if len(table) else 0
    return ran.ended(people == 2, f"{people} people")


@case
def ids_change_when_a_site_is_added(place: Path) -> Answer:
    people = {f"{i:02d}": i for i in range(1, 11)}
    rows = "".join(f"sub-{label}\t{40 + i}\tcontrol\n" for label, i in people.items())
    bids(place / "siteA", people, f"participant_id\tage\tdiagnosis\n{rows}")
    bids(place / "siteB", {label: i + 50 for label, i in people.items()}, f"participant_id\tage\tdiagnosis\n{rows}")
    prepare(place, source="source=siteA")
    gen3d(place, "train", "prepared=prepared", "out=run", "model={kind: pca, num_components: 2}", "channels=[t1w]")
    trained = len(json.loads((place / "run" / "subjects.json").read_text())["0"])
    both = gen3d(place, "prepare", "source=[siteA,siteB]", "out=both", "workers=1", *QUICK)
    if both.code:
        return both.ended()
    ran = gen3d(place, "anomaly", "prepared=both", "run=run", "out=maps")
    path = place / "maps" / "subjects.tsv"
    judged = pd.read_csv(path, sep="\t") if path.is_file() else pd.DataFrame()
    of_a = int(judged["key"].astype(str).str.contains("siteA").sum()) if len(judged) else 0
    return ran.ended(
        of_a <= 10 - trained, f"{of_a} of 10 people of the first site are judged, {trained} were trained on"
    )


@case
def one_file_for_two_people(place: Path) -> Answer:
    scan(place / "one.nii.gz", 1)
    (place / "data.csv").write_text("subject,diagnosis,path\nA,control,one.nii.gz\nB,AD,one.nii.gz\n")
    ran, table = prepare(place, source="source=data.csv")
    return ran.ended(len(table) < 2, f"{len(table)} people from one file")


@case
def half_the_people_twice(place: Path) -> Answer:
    values = random(40, 32)
    label = np.where(values[:, 0] > 0, "AD", "CN")
    latents(place / "latents", np.concatenate([values, values[:20]]), {"diagnosis": [*label, *label[:20]]})
    ran, table = classify(place, "target=diagnosis", "classes=[CN,AD]")
    return ran.ended(False, f"{table['subject'].nunique() if len(table) else 0} ids are tested")


@case
def folder_named_010(place: Path) -> Answer:
    bids(place / "010", {"01": 1})
    bids(place / "8", {"wrong": 2})
    ran, table = prepare(place, source="source=010")
    return ran.ended(len(table) == 1 and table["subject"].iloc[0] == "01", list(table.get("subject", [])))


# --------------------------------------------------------------------------------------------------- tables that join


@case
def session_column_that_no_file_has(place: Path) -> Answer:
    rows = "participant_id\tsession_id\tage\nsub-01\tses-01\t30\nsub-02\tses-01\t40\n"
    bids(place / "data", {"01": 1, "02": 2}, rows)
    ran, table = prepare(place)
    return ran.ended(close(ages(table), [30, 40]) or "session" in ran.text, f"ages {ages(table)}")


def two_visits(place: Path, sessions: str) -> tuple[Ran, pd.DataFrame]:
    for visit, person in (("M000", 1), ("M012", 2)):
        scan(place / "data" / "sub-01" / f"ses-{visit}" / "anat" / f"sub-01_ses-{visit}_T1w.nii.gz", person)
    (place / "data" / "participants.tsv").write_text("participant_id\tage\nsub-01\t30\n")
    (place / "data" / "sub-01" / "sub-01_sessions.tsv").write_text(sessions)
    return prepare(place)


@case
def sessions_tsv_padded_otherwise(place: Path) -> Answer:
    ran, table = two_visits(place, "session_id\tage\nses-M00\t30.2\nses-M12\t31.2\n")
    told = "sessions.tsv" in ran.text or "match" in ran.text
    return ran.ended(close(ages(table), [30.2, 31.2]) or told, f"ages {ages(table)}")


@case
def sessions_tsv_with_a_row_twice(place: Path) -> Answer:
    ran, table = two_visits(place, "session_id\tage\nses-M000\t30.2\nses-M000\t30.2\nses-M012\t31.2\n")
    return ran.ended(close(ages(table), [30.2, 31.2]), f"ages {ages(table)}")


@case
def sessions_tsv_without_session_id(place: Path) -> Answer:
    ran, table = two_visits(place, "sessions\tage\nses-M000\t30.2\nses-M012\t31.2\n")
    return ran.ended(close(ages(table), [30.2, 31.2]), f"ages {ages(table)}")


@case
def sessions_tsv_of_header_only(place: Path) -> Answer:
    ran, table = two_visits(place, "session_id\tage\n")
    answer = ran.ended(close(ages(table), [30, 30]), f"ages {ages(table)}")
    return Answer("wrong", f"refused: {answer.what}") if answer.verdict == "told" else answer


@case
def named_column_absent_in_sessions_tsv(place: Path) -> Answer:
    (place / "data").mkdir()
    bids(place / "data", {}, "participant_id\tAgeAtScan\nsub-01\t30\n")
    scan(place / "data" / "sub-01" / "ses-1" / "anat" / "sub-01_ses-1_T1w.nii.gz", 1)
    (place / "data" / "sub-01" / "sub-01_sessions.tsv").write_text("session_id\tacq_time\nses-1\t2020-01-01T00:00:00\n")
    ran, table = prepare(place, "columns.age_years=AgeAtScan")
    answer = ran.ended(close(ages(table), [30]), f"ages {ages(table)}")
    return Answer("wrong", f"refused: {answer.what}") if answer.verdict == "told" else answer


@case
def ids_saved_as_floats(place: Path) -> Answer:
    rows = "participant_id\tage\n1.0\t31\n2.0\t32\n10.0\t40\n"
    bids(place / "data", {"1": 1, "2": 2, "10": 3}, rows)
    ran, table = prepare(place)
    age = dict(zip(table.get("subject", []), table.get("age_years", []), strict=True))
    right = all(age.get(who) in (known, "n/a") for who, known in (("1", "31.0"), ("2", "32.0"), ("10", "40.0")))
    return ran.ended(right, age)


@case
def trailing_tab_in_every_row(place: Path) -> Answer:
    rows = "participant_id\tno\tage\teducation\nsub-01\t1\t60\t12\t\nsub-02\t2\t70\t16\t\n"
    bids(place / "data", {"01": 1, "02": 2}, rows)
    ran, table = prepare(place)
    return ran.ended(close(ages(table), [60, 70]), f"ages {ages(table)}")


@case
def column_subject_beside_participant_id(place: Path) -> Answer:
    rows = "participant_id\tsubject\tage\nsub-2\t1\t40\nsub-1\t2\t30\n"
    bids(place / "data", {"1": 1, "2": 2}, rows)
    ran, table = prepare(place)
    return ran.ended(close(ages(table), [30, 40]), f"ages {ages(table)}")


@case
def months_in_participants_json(place: Path) -> Answer:
    bids(place / "data", {"01": 1}, "participant_id\tage\nsub-01\t62\n")
    (place / "data" / "participants.json").write_text('{"age": {"Units": "months"}}')
    ran, table = prepare(place)
    return ran.ended(close(ages(table), [62 / 12]), f"ages {ages(table)}")


@case
def participants_of_somebody_else_above(place: Path) -> Answer:
    bids(place / "data" / "projectX", {"01": 1})
    (place / "data" / "participants.tsv").write_text("participant_id\tage\tdiagnosis\nsub-01\t81\tAD\n")
    ran, table = prepare(place, source="source=data/projectX")
    named = "data/participants.tsv" in ran.text
    return ran.ended(len(table) == 1 and (named or np.isnan(ages(table)[0])), f"ages {ages(table)}")


# --------------------------------------------------------------------------------------------- words that are numbers


def coded(place: Path, rows: str, *arguments: str) -> tuple[Ran, pd.DataFrame]:
    bids(place / "data", {"01": 1, "02": 2}, rows)
    return prepare(place, *arguments)


@case
def codes_that_are_numbers(place: Path) -> Answer:
    rows = "participant_id\tsex\tage\nsub-01\t1\t30\nsub-02\t2\t40\n"
    ran, table = coded(place, rows, "columns={sex_codes: {1: M, 2: F}}")
    answer = ran.ended(list(table.get("sex", [])) == ["M", "F"], f"sex {list(table.get('sex', []))}")
    return Answer("wrong", f"refused: {answer.what}") if answer.verdict == "told" else answer


@case
def controls_that_are_numbers_or_no(place: Path) -> Answer:
    rows = "participant_id\tdiagnosis\nsub-01\t0\nsub-02\t1\n"
    first, table = coded(place / "number", rows, "controls=[0]")
    second, other = coded(place / "word", rows.replace("\t0", "\tno").replace("\t1", "\tyes"), "controls=[no]")
    both = Ran(max(first.code, second.code), first.text + second.text)
    roles = [list(frame.sort_values("key")["role"]) if len(frame) else [] for frame in (table, other)]
    right = all(len(r) == 2 and r[0] != "evaluation" and r[1] == "evaluation" for r in roles)
    answer = both.ended(right, f"roles {roles}")
    return Answer("wrong", f"refused: {answer.what}") if answer.verdict == "told" else answer


@case
def diagnosis_code_as_float(place: Path) -> Answer:
    rows = "participant_id\tgroup\nsub-01\t2.0\nsub-02\t1.0\n"
    ran, table = coded(place, rows, "columns={diagnosis_codes: {'1': AD, '2': control}}")
    return ran.ended(list(table.get("diagnosis", [])) == ["control", "AD"], list(table.get("diagnosis", [])))


@case
def sex_other(place: Path) -> Answer:
    ran, table = coded(place, "participant_id\tsex\nsub-01\tO\nsub-02\tF\n")
    sexes = list(table.get("sex", []))
    answer = ran.ended(len(sexes) == 2 and sexes[0] in ("", "n/a") and sexes[1] == "F", f"sex {sexes}")
    return Answer("wrong", f"refused: {answer.what}") if answer.verdict == "told" else answer


@case
def numeric_codes_of_seven_digits(place: Path) -> Answer:
    scanners = np.repeat([2180401, 2180402, 166030], 20)
    latents(place / "latents", random(60, 8) + scanners[:, None] % 7, {"scanner": scanners.tolist()})
    ran = gen3d(place, "harmonise", "latents=latents", "by=scanner", "keep=[]", "show=[]", "out=out")
    text = "".join(p.read_text() for p in (place / "out").glob("*.json")) if (place / "out").is_dir() else ""
    return ran.ended("2180401" in text and "2180402" in text, "three scanners" if "2180402" in text else "two scanners")


@case
def labels_table_with_a_column_known_already(place: Path) -> Answer:
    values = random(60, 8)
    label = np.where(values[:, 0] > 0, "AD", "CN")
    latents(place / "latents", values, {"diagnosis": label.tolist()})
    swapped = np.where(label == "AD", "CN", "AD")
    rows = "".join(f"p{i:03d},{name}\n" for i, name in enumerate(swapped))
    (place / "labels.csv").write_text(f"subject,diagnosis\n{rows}")
    ran, table = classify(place, "table=labels.csv", "target=diagnosis", "classes=[CN,AD]")
    if not len(table):
        return ran.ended()
    truth = dict(zip([f"p{i:03d}" for i in range(60)], swapped, strict=True))
    wrong = sum(str(truth[s]) != t for s, t in zip(table["subject"], table["y_true"], strict=True))
    return ran.ended(wrong == 0, f"{wrong} of {len(table)} rows have the old label")


@case
def first_session_pre_post(place: Path) -> Answer:
    subjects = [f"p{i:03d}" for i in range(40)] * 2
    sessions = ["pre"] * 40 + ["post"] * 40
    older = [50.0] * 40 + [51.0] * 40
    label = np.tile(np.where(random(40, 1, seed=3)[:, 0] > 0, "AD", "CN"), 2).tolist()
    columns = {"subject": subjects, "session": sessions, "age_years": older, "diagnosis": label}
    latents(place / "latents", random(80, 8), columns)
    ran, table = classify(place, "target=diagnosis", "classes=[CN,AD]", "sessions=first")
    keys = " ".join(table.get("key", [])) + " ".join(table.get("session", []))
    return ran.ended("pre" in keys and "post" not in keys, "pre" if "pre" in keys else "post")


@case
def kept_number_with_one_word_in_it(place: Path) -> Answer:
    old = np.random.default_rng(1).integers(60, 89, 90)
    text = ["89+" if i % 10 == 0 else str(age) for i, age in enumerate(old)]
    site = ["A", "B", "C"] * 30
    latents(place / "latents", random(90, 8), {"age_txt": text, "site": site, "age_years": old.tolist()})
    ran = gen3d(place, "harmonise", "latents=latents", "keep=[age_txt]", "show=[]", "out=out")
    return ran.ended("89+" in ran.text or "words" in ran.text, "taken for words without a word")


# --------------------------------------------------------------------------------------------------- sides, background


def damaged(place: Path, change: Callable[[nib.Nifti1Image], nib.Nifti1Image]) -> tuple[Ran, Path]:
    """Prepare a changed scan, and in `whole` its twin as it was."""
    twin = place / "whole"
    bids(twin / "data", {"01": 1})
    prepare(twin)
    path = scan(place / "data" / "sub-01" / "anat" / "sub-01_T1w.nii.gz", 1)
    nib.save(change(nib.load(path)), place / "changed.nii.gz")  # type: ignore[arg-type]
    (place / "changed.nii.gz").replace(path)
    return prepare(place)[0], twin


def beside_twin(place: Path, ran: Ran, twin: Path) -> Answer:
    if ran.code:
        return ran.ended()
    straight, mirrored = twin_correlation(place, twin)
    return ran.ended(
        straight > 0.99 and straight > mirrored, f"r {straight:.3f} with the twin, {mirrored:.3f} mirrored"
    )


@case
def no_orientation_codes(place: Path) -> Answer:
    def change(image: nib.Nifti1Image) -> nib.Nifti1Image:
        image.set_sform(image.affine, code=0)
        image.set_qform(image.affine, code=0)
        return image

    return beside_twin(place, *damaged(place, change))


@case
def sform_mirrored_against_qform(place: Path) -> Answer:
    def change(image: nib.Nifti1Image) -> nib.Nifti1Image:
        image.set_sform(np.diag([-1, 1, 1, 1]) @ image.affine, code=1)
        return image

    return beside_twin(place, *damaged(place, change))


@case
def zscored_brain_on_zero(place: Path) -> Answer:
    def change(image: nib.Nifti1Image) -> nib.Nifti1Image:
        data = np.asarray(image.dataobj, dtype=np.float32)
        inside = data > 0
        z = np.where(inside, (data - data[inside].mean()) / data[inside].std(), 0)
        return nib.Nifti1Image(z.astype(np.float32), image.affine, image.header)

    return beside_twin(place, *damaged(place, change))


# ------------------------------------------------------------------------------------------------ places, environment


@case
def classify_from_another_directory(place: Path) -> Answer:
    for name, strength in (("P", "1"), ("Q", "3")):  # one seed, so the ids are the same
        (place / name).mkdir()
        made = gen3d(
            place / name, "simulate", "out=prepared", "subjects=40", "spacing_mm=4", f"site_strength={strength}"
        )
        if made.code:
            return made.ended()
    gen3d(
        place / "P", "train", "prepared=prepared", "out=run", "model={kind: pca, num_components: 4}", "channels=[t1w]"
    )
    gen3d(place / "P", "encode", "prepared=prepared", "run=run", "out=latents")
    (place / "Q" / "latents").symlink_to(place / "P" / "latents")
    there, right = classify(place / "P", "target=sex", "seen=leave_out", voxels="true")
    ran, table = classify(place / "Q", "target=sex", "seen=leave_out", voxels="true")
    if ran.code or there.code:
        return (ran if ran.code else there).ended()
    scores = [frame.loc[frame["model"] == "voxels (T1w)", "y_score"].tolist() for frame in (right, table)]
    return ran.ended(
        scores[0] == scores[1], "the scores of the voxels are those of " + ("P" if scores[0] == scores[1] else "Q")
    )


@case
def leftover_world_size(place: Path) -> Answer:
    bids(place / "data", {"01": 1})
    ran, table = prepare(place, WORLD_SIZE="4")
    return ran.ended(len(table) == 1, f"{len(table)} people")


@case
def empty_world_size(place: Path) -> Answer:
    bids(place / "data", {"01": 1})
    ran, table = prepare(place, WORLD_SIZE="")
    return ran.ended(len(table) == 1, f"{len(table)} people")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the datasets, new or empty")
    parser.add_argument("--only", nargs="*", default=list(CASES), help="names of cases")
    options = parser.parse_args()
    rows = []
    for name in options.only:
        place = options.out.resolve() / name
        place.mkdir(parents=True)
        answer = CASES[name](place)
        rows.append(answer)
        print(f"| {name} | {answer.verdict} | {answer.what} |", flush=True)
    counts = {
        verdict: sum(row.verdict == verdict for row in rows) for verdict in ("right", "told", "wrong", "traceback")
    }
    print(f"{len(rows)} inputs: " + ", ".join(f"{verdict} {count}" for verdict, count in counts.items()))


if __name__ == "__main__":
    main()

"""Rates over all visits against known truth: a planted loss is found at its speed, and who did not change, did not."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from gen3d.anomaly.change import Change
from gen3d.anomaly.change_folder import ChangeFolder
from gen3d.anomaly.rates import group_model, pair_table, rate_people, rate_table
from gen3d.anomaly.region_channels import WHOLE_BRAIN
from gen3d.anomaly.sections.rates import rate_blocks
from gen3d.anomaly.visit_changes import VisitVolumes
from gen3d.cohort.folder import write_cohort
from gen3d.cohort.manifest import scan_key
from gen3d.cohort.regions import find, region_table, regions_on
from gen3d.core.artefact import read, write_json
from gen3d.core.errors import UserError
from gen3d.figures.blocks import Figure
from gen3d.imaging.deformation import exponential, log_jacobian, velocity_from_divergence
from gen3d.imaging.plan import plan_grid
from gen3d.imaging.template import template_on
from gen3d.imaging.volume import store
from gen3d.imaging.within_person import region_log_changes
from gen3d.simulate.appearance import sample_tissue
from tests.anomaly.test_change import write_maps

PLAN = plan_grid(4.0)
LOSS, SIZE_LOSS, NOISE = -0.04, -0.005, 0.01  # log volume per year of the hippocampi, and of the whole brain
YEARS = {"1": 0.0, "2": 1.2, "3": 3.0}
CONTROLS, PATIENTS = 7, 2
HIPPOCAMPI = ("left hippocampus", "right hippocampus")


def _velocity() -> tuple[NDArray[np.float32], float]:
    """A velocity per year under which the hippocampi lose LOSS on average, and the log change of both per year."""
    labels = regions_on(PLAN)
    inside = np.isin(labels, find("hippocampus"))
    velocity = velocity_from_divergence(inside.astype(np.float32) * np.float32(LOSS))
    found = region_log_changes(log_jacobian(exponential(velocity)), inside.astype(np.int16), 1)[0]
    return velocity * np.float32(LOSS / found), LOSS


def write_visits(folder: Path, ages: dict[str, float] = YEARS, diagnoses: tuple[str, ...] = ("AD",) * 3) -> Path:
    """A prepared folder of controls who do not change, and of patients with the planted loss; all shrink a little as a whole."""
    generator, template = np.random.default_rng(0), template_on(PLAN)
    velocity, _ = _velocity()
    t1w = {
        session: sample_tissue(exponential(-velocity * np.float32(years)), PLAN, template.mask).t1w
        for session, years in ages.items()
    }
    rows = []
    for number in range(CONTROLS + PATIENTS):
        patient, subject = number >= CONTROLS, f"p{number}"
        for place, (session, years) in enumerate(ages.items()):
            key = scan_key(subject, session)
            scan = t1w[session if patient else "1"]
            scan = scan + NOISE * generator.standard_normal(PLAN.shape, dtype=np.float32) * template.mask
            store(folder / "volumes" / f"{key}_t1w.nii", scan, PLAN.matrix)
            store(folder / "volumes" / f"{key}_log_jacobian.nii", np.zeros(PLAN.shape, np.float32), PLAN.matrix)
            (folder / "transforms").mkdir(exist_ok=True)
            affine = np.diag([*[np.exp(SIZE_LOSS * years / 3)] * 3, 1.0])
            write_json(folder / "transforms" / f"{key}.json", {"affine_template_to_scan": affine.tolist()})
            diagnosis, role = (diagnoses[place], "evaluation") if patient else ("control", "test")
            rows.append((subject, session, "a", 70 + years, "F", diagnosis, np.nan, np.nan, role, key))
    columns = ["subject", "session", "site", "age_years", "sex", "diagnosis", "cdr", "mmse", "role", "key"]
    table = pd.DataFrame(rows, columns=columns)
    write_cohort(folder, PLAN, template.mask, regions_on(PLAN), region_table(), table)
    record = {"gen3d": "0", "verb": "prepare", "key": f"visits {folder.name}", "status": "finished", "finished_at": ""}
    write_json(folder / "artefact.json", {**record, "config": {}, "inputs": {}, "summary": {}})
    return folder


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_maps(tmp_path_factory.mktemp("visits") / "maps", years=1.5)


@pytest.fixture(scope="module")
def prepared(maps: Path) -> Path:
    return write_visits(maps.parent / "prepared")


@pytest.fixture(scope="module")
def change(maps: Path, prepared: Path) -> ChangeFolder:
    verb = Change(
        maps=maps, prepared=(prepared,), out=maps.parent / "change", min_controls=5, maps_of_change=True, workers=2,
        figures=False,
    )  # fmt: skip
    return ChangeFolder(read(verb.run(), ("change",)), "change")


def of_hippocampi(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["region"].isin(HIPPOCAMPI)]


def test_a_planted_loss_is_found_at_its_speed(change: ChangeFolder) -> None:
    patients = of_hippocampi(change.rates[change.rates["diagnosis"] == "AD"])
    assert len(patients) == 2 * PATIENTS
    assert patients["own_percent_per_year"].mean() == pytest.approx(100 * np.expm1(LOSS), rel=0.2)
    assert (patients["q"] < 0.05).all()
    assert (patients["num_visits"] == 3).all()
    group = of_hippocampi(change.group_rates[change.group_rates["diagnosis"] == "AD"])
    assert (group["high"] < 0).all()
    assert (group["num_people"] == PATIENTS).all()


def test_who_did_not_change_did_not(change: ChangeFolder) -> None:
    controls = change.rates[(change.rates["diagnosis"] == "control") & (change.rates["region"] != WHOLE_BRAIN)]
    assert (controls["z"].abs() > 1.96).mean() < 0.1
    assert (controls["q"] < 0.05).mean() < 0.02
    assert ((controls["low"] <= 0) & (controls["high"] >= 0)).mean() > 0.9
    groups = change.group_rates[change.group_rates["diagnosis"] == "control"].set_index("region")["percent_per_year"]
    assert groups.drop(WHOLE_BRAIN).abs().median() < 0.3


def test_the_whole_brain_has_a_row_of_its_own(change: ChangeFolder) -> None:
    whole = change.rates[change.rates["region"] == WHOLE_BRAIN]
    assert whole["own_percent_per_year"].to_numpy() == pytest.approx(100 * np.expm1(SIZE_LOSS), abs=0.01)


def test_every_two_visits_are_compared(change: ChangeFolder) -> None:
    pairs = of_hippocampi(change.visit_pairs[change.visit_pairs["subject"] == f"p{CONTROLS}"])
    assert pairs.groupby("region").size().tolist() == [3, 3]
    last = pairs[(pairs["session_1"] == "1") & (pairs["session_2"] == "3")]
    assert last["change"].mean() == pytest.approx(3.0 * LOSS, rel=0.2)
    assert (last["z_change"] < -3).all()
    course = of_hippocampi(change.trajectories[change.trajectories["subject"] == f"p{CONTROLS}"])
    assert course.groupby("session")["change_percent"].mean().is_monotonic_decreasing


def test_maps_of_change_lie_on_the_grid(change: ChangeFolder) -> None:
    path = change.folder / "maps" / f"{scan_key(f'p{CONTROLS}', '1')}_{scan_key(f'p{CONTROLS}', '3')}_log_change.nii"
    image = nib.load(path)
    assert image.shape == PLAN.shape
    assert np.allclose(image.affine, PLAN.matrix)
    inside = np.isin(regions_on(PLAN), find("hippocampus"))
    assert np.asarray(image.dataobj)[inside].mean() == pytest.approx(3.0 * LOSS, rel=0.35)
    assert len(list((change.folder / "maps").iterdir())) == 2 * (CONTROLS + PATIENTS)


def test_the_report_shows_who_differs_most(change: ChangeFolder) -> None:
    blocks, numbers = rate_blocks(change, people_shown=2)
    assert {row["subject"] for row in numbers["rates"][:PATIENTS]} == {f"p{CONTROLS + k}" for k in range(PATIENTS)}
    figures = [block for block in blocks if isinstance(block, Figure)]
    assert len(figures) == 2
    assert all(len(figure.png) > 1000 for figure in figures)


def test_nothing_of_the_work_is_left_behind(change: ChangeFolder) -> None:
    assert not (change.folder / ".people").exists()
    assert change.artefact.summary["within_person"]["num_people"] == CONTROLS + PATIENTS


def test_maps_alone_work_as_before(maps: Path, tmp_path: Path) -> None:
    out = Change(maps=maps, out=tmp_path / "change", figures=False).run()
    assert not (out / "rates.tsv").exists()
    assert ChangeFolder(read(out, ("change",)), "change").rates.empty


def _edited(prepared: Path, folder: Path, **columns: object) -> Path:
    """A copy of the cohort table alone, with other values in the last patient's rows."""
    table = pd.read_csv(prepared / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    last = table["subject"] == f"p{CONTROLS + PATIENTS - 1}"
    for name, values in columns.items():
        table.loc[last, name] = values
    folder.mkdir()
    for path in prepared.iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    table.to_csv(folder / "manifest.tsv", sep="\t", index=False)
    return folder


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"age_years": ["70", "n/a", "73"]}, "has no age at session 2"),
        ({"age_years": ["72", "71", "73"]}, "was older at session 1"),
        ({"age_years": ["70", "70", "73"]}, "has the same age"),
        ({"diagnosis": ["AD", "MCI", "AD"]}, "goes backwards"),
    ],
)
def test_visits_that_contradict_themselves_are_refused(
    maps: Path, prepared: Path, tmp_path: Path, columns: dict[str, object], sentence: str
) -> None:
    wrong = _edited(prepared, tmp_path / "wrong", **columns)
    with pytest.raises(UserError, match=sentence):
        Change(maps=maps, prepared=(wrong,), out=tmp_path / "change").run()
    assert not (tmp_path / "change").exists()


def test_people_who_came_once_are_refused(maps: Path, prepared: Path, tmp_path: Path) -> None:
    table = pd.read_csv(prepared / "manifest.tsv", sep="\t", dtype=str, keep_default_na=False)
    once = _edited(prepared, tmp_path / "once")
    table[table["session"] == "1"].to_csv(once / "manifest.tsv", sep="\t", index=False)
    with pytest.raises(UserError, match="no person has two visits"):
        Change(maps=maps, prepared=(once,), out=tmp_path / "change").run()


def test_a_prepared_folder_that_is_not_there_is_refused(maps: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        Change(maps=maps, prepared=(tmp_path / "nowhere",), out=tmp_path / "change").run()


def _people(num: int, rate: float, seed: int, visits: int = 3, role: str = "test") -> list[VisitVolumes]:
    generator, regions = np.random.default_rng(seed), 30
    made = []
    for number in range(num):
        years = np.arange(visits) * 1.5
        own = generator.normal(rate, 0.005, regions)
        values = years[:, None] * own + generator.normal(0, 0.01, (visits, regions))
        rows = {"subject": f"{role}{number}", "session": [str(k) for k in range(visits)], "years": years, "role": role}
        made.append(
            VisitVolumes(pd.DataFrame(rows).assign(diagnosis="AD" if role == "evaluation" else "control"), values)
        )
    return made


def test_the_order_of_people_changes_nothing() -> None:
    people, names = _people(12, -0.01, 0), tuple(f"region {k}" for k in range(30))
    first, second = rate_people(people, names), rate_people(people[::-1], names)
    tables = [rate_table(of, group_model(of)[1], 5) for of in (first, second)]
    pd.testing.assert_frame_equal(*tables)


def test_z_of_controls_is_nominal_and_a_control_is_not_its_own_reference() -> None:
    of = rate_people(_people(40, -0.01, 1), tuple(f"region {k}" for k in range(30)))
    z = rate_table(of, group_model(of)[1], 10)["z"]
    assert (z.abs() > 1.96).mean() == pytest.approx(0.05, abs=0.02)
    pairs = pair_table(of, 10)
    assert (pairs.query("session_1 == '0' and session_2 == '2'")["z_change"].abs() > 1.96).mean() == pytest.approx(
        0.05, abs=0.02
    )


def test_too_few_controls_give_no_z() -> None:
    of = rate_people(_people(4, 0.0, 2), tuple(f"region {k}" for k in range(30)))
    names, model = group_model(of)
    assert names == ["control"]
    assert rate_table(of, model, 10)[["z", "p", "q"]].isna().all(axis=None)

"""Requested conditions: draws against their known distribution, and every way to ask for what cannot be given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from gen3d.cohort.coding import Categorical, Coding, Numeric
from gen3d.core.errors import UserError
from gen3d.synthesis.request import Request, read_people, read_trained, stream

CODING = Coding(
    (
        Numeric("age_years", 60.0, 10.0, 40.0, 85.0),
        Categorical("sex", ("F", "M")),
        Categorical("diagnosis", ("CN", "DS")),
        Numeric("hippocampus_ml", 7.0, 1.0, 4.0, 9.0),
    )
)


def trained_people(num: int = 400) -> pd.DataFrame:
    """Hippocampi fall with age and are smaller in DS; nobody with DS is older than 60."""
    rng = np.random.default_rng(0)
    diagnosis = np.where(np.arange(num) % 4 == 0, "DS", "CN")
    age = np.where(diagnosis == "DS", rng.uniform(40, 60, num), rng.uniform(40, 85, num))
    hippocampus = 9.0 - 0.05 * (age - 40) - 1.0 * (diagnosis == "DS") + rng.normal(0, 0.05, num)
    frame = {"age_years": age, "sex": np.where(np.arange(num) % 2, "M", "F"), "diagnosis": diagnosis}
    return pd.DataFrame(frame | {"hippocampus_ml": hippocampus}).astype(str)


def request(count: int = 1000, **changes: Any) -> Request:
    return Request(CODING, changes.pop("condition", {}), count, **changes)


def test_fixed_values_ranges_and_lists_are_drawn_as_asked() -> None:
    asked = {"sex": "F", "age_years": (70.0, 80.0), "diagnosis": ("CN", "DS", "unknown")}
    drawn = request(condition=asked, seed=7).draw(range(1500))
    assert list(drawn.columns) == ["age_years", "sex", "diagnosis", "hippocampus_ml"]
    assert set(drawn["sex"]) == {"F"}
    ages = drawn["age_years"].astype(float)
    assert stats.kstest((ages - 70) / 10, "uniform").pvalue > 0.01
    counts = drawn["diagnosis"].fillna("unknown").value_counts()
    assert stats.chisquare([counts["CN"], counts["DS"], counts["unknown"]]).pvalue > 0.01
    assert drawn["hippocampus_ml"].isna().all()
    np.testing.assert_array_equal(
        np.isnan(CODING.encode(drawn)).any(axis=0), [False, False, True, True], err_msg="unknown is NaN for the network"
    )


def test_a_sample_is_the_same_person_in_every_request_of_its_seed() -> None:
    asked = {"age_years": (50.0, 80.0), "sex": ("F", "M")}
    few, many = request(3, condition=asked, seed=5), request(300, condition=asked, seed=5)
    pd.testing.assert_frame_equal(few.draw([2]), many.draw([299, 2, 7]).loc[[2]])
    other = request(3, condition=asked, seed=6).draw([2])
    assert other["age_years"].iloc[0] != few.draw([2])["age_years"].iloc[0]


def test_streams_differ_between_seeds_samples_purposes_and_steps() -> None:
    places = [(0, 0, 0, 0), (1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1), (0, 0, 1, 1)]
    firsts = [stream(*place).standard_normal(4).tolist() for place in places]
    assert len({tuple(first) for first in firsts}) == len(places)
    assert stream(3, 2, 1, 4).standard_normal(2).tolist() == stream(3, 2, 1, 4).standard_normal(2).tolist()


def test_as_trained_takes_the_rest_from_a_person_who_fits() -> None:
    trained = trained_people()
    asked = {"diagnosis": "CN", "age_years": (45.0, 80.0)}
    drawn = request(condition=asked, unnamed="as_trained", trained=trained).draw(range(400))
    age, hippocampus = drawn["age_years"].astype(float), drawn["hippocampus_ml"].astype(float)
    line = stats.linregress(age, hippocampus)
    assert line.slope == pytest.approx(-0.05, abs=0.004)
    assert set(drawn["sex"]) == {"F", "M"}
    own = trained["hippocampus_ml"].astype(float).to_numpy()
    assert np.abs(hippocampus.to_numpy()[:, None] - own).min(axis=1).max() > 1e-4, "nobody's own values are handed out"
    assert hippocampus.between(4, 9).all()
    down = request(condition={**asked, "diagnosis": "DS"}, unnamed="as_trained", trained=trained).draw(range(50))
    assert down["hippocampus_ml"].astype(float).max() < 8.7
    everybody = request(unnamed="as_trained", trained=trained).draw(range(400))
    assert (everybody["diagnosis"] == "DS").mean() == pytest.approx(0.25, abs=0.07)
    assert everybody["age_years"].astype(float).std() > 10
    left_open = request(condition={"sex": "unknown"}, unnamed="as_trained", trained=trained).draw(range(9))
    assert left_open["sex"].isna().all()
    assert left_open["age_years"].notna().all()


def test_fitting_people_are_counted_over_all_conditions_at_once() -> None:
    trained = trained_people()
    asked = {"diagnosis": "DS", "age_years": (70.0, 80.0)}
    assert request(condition=asked, trained=trained).num_fitting() == 0
    ages = trained["age_years"].astype(float)
    wanted = int(((trained["diagnosis"] == "CN") & ages.between(70, 80)).sum())
    assert request(condition={**asked, "diagnosis": "CN"}, trained=trained).num_fitting() == wanted
    assert request(condition={"age_years": 62.0}, trained=trained).num_fitting() == int(ages.between(59.5, 64.5).sum())
    assert request(condition={"sex": ("F", "M")}, trained=trained).num_fitting() == len(trained)
    assert request(condition=asked).num_fitting() is None


def test_a_table_asks_for_each_person(tmp_path: Path) -> None:
    path = tmp_path / "people.tsv"
    path.write_text("participant_id\tsex\tage_years\nsub-1\tF\t71.5\nsub-2\tunknown\t\n")
    people = read_people(path, CODING)
    asked = request(2, people=people, unnamed="as_trained", trained=trained_people())
    drawn = asked.draw([0, 1])
    assert drawn.loc[0, "sex"] == "F"
    assert drawn.loc[0, "age_years"] == 71.5
    assert pd.isna(drawn.loc[1, "sex"])
    assert 40 <= float(str(drawn.loc[1, "age_years"])) <= 85, "an empty cell names nothing"
    assert asked.named == ("age_years", "sex")


def test_extrapolation_is_named() -> None:
    asked = request(condition={"age_years": (80.0, 95.0)}, extrapolate=True)
    assert asked.outside == {"age_years": {"asked": [80.0, 95.0], "trained": [40.0, 85.0]}}
    assert request(condition={"age_years": (50.0, 60.0)}).outside == {}
    assert asked.describe() == "age_years 80 to 95; sex, diagnosis, hippocampus_ml unknown"


@pytest.mark.parametrize(
    ("condition", "sentence"),
    [
        ({"age_years": 92}, r"age_years=92 is outside the range 40 to 85 .* extrapolate=true"),
        ({"age_years": (30, 50)}, r"age_years=30 is outside the range"),
        ({"age_years": (80, 70)}, r"age_years=\[80, 70\]: an empty range; write the smaller number first"),
        ({"age_years": (50, 60, 70)}, r"age_years=\[50, 60, 70\]: give a number, a range"),
        ({"age_years": ()}, r"age_years=\[\]: an empty list"),
        ({"age_years": "old"}, r"age_years=old: a number is needed"),
        ({"age_years": float("inf")}, r"not a finite number"),
        ({"sex": "female"}, r"sex=female: the model knows F, M"),
        ({"diagnosis": ("CN", "ds")}, r"diagnosis=ds: the model knows CN, DS .*did you mean DS"),
        ({"age_year": 70}, r"condition age_year: the model is conditioned on age_years .*Did you mean age_years"),
        ({"weight_kg": 70}, r"condition weight_kg: the model is conditioned on"),
    ],
)
def test_what_cannot_be_asked_for_is_one_sentence(condition: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        request(condition=condition)
    assert "\n" not in str(caught.value)


def test_as_trained_needs_people_that_fit() -> None:
    with pytest.raises(UserError, match=r"unnamed=as_trained needs the conditions of the training people"):
        request(unnamed="as_trained")
    healthy = trained_people()
    healthy = healthy[healthy["diagnosis"] == "CN"]
    asked = request(condition={"diagnosis": "DS"}, unnamed="as_trained", trained=healthy)
    with pytest.raises(UserError, match=r"no training person has diagnosis=DS"):
        asked.draw([0])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("sex\tage_year\nF\t70\n", r"column age_year: condition age_year: .*Did you mean age_years"),
        ("sex\tage_years\n", r"lists no people"),
        ("participant_id\n1\n", r"lists no people"),
        ("sex\tsex\nF\tF\n", r"column 'sex' is there twice"),
        ("sex\nF\nX\n", r"row 3 of table=: sex=X: the model knows"),
    ],
)
def test_a_wrong_table_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "people.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        request(2, people=read_people(path, CODING))


def test_a_table_that_is_not_there_or_damaged(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a readable table of requested people"):
        read_people(tmp_path / "none.tsv", CODING)
    assert read_trained(tmp_path / "conditions.tsv", CODING) is None
    (tmp_path / "conditions.tsv").write_text("sex\nF\n")
    with pytest.raises(UserError, match="lacks the column age_years, diagnosis, hippocampus_ml"):
        read_trained(tmp_path / "conditions.tsv", CODING)

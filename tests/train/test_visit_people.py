"""Who learns from whom where people came more than once, and what must not be learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.cohort.folder import Prepared
from gen3d.core.errors import UserError
from gen3d.models.forecast.population_rate import PopulationRateConfig
from gen3d.train.visit_people import VisitPeople, choose_visit_people
from tests.visit_cohort import coarse_plan


def table(num_people: int = 12, years: tuple[float, ...] = (0.0, 1.0, 2.5), **changed: Any) -> pd.DataFrame:
    """A cohort table; every third person has AD."""
    rows = [
        {
            "key": f"p{person:02d}_{visit + 1}",
            "subject": f"p{person:02d}",
            "session": str(visit + 1),
            "site": "a",
            "age_years": 60.0 + person + time,
            "sex": "FM"[person % 2],
            "diagnosis": "AD" if person % 3 == 0 else "control",
            "role": "train",
        }
        for person in range(num_people)
        for visit, time in enumerate(years)
    ]
    return pd.DataFrame(rows).assign(**changed)


def chosen(frame: pd.DataFrame, cross_fit: int = 1, **settings: Any) -> VisitPeople:
    prepared = Prepared((), coarse_plan(8.0), frame, "key")
    return choose_visit_people(prepared, PopulationRateConfig(**settings), cross_fit, seed=0)


def test_every_member_is_blind_to_whole_people_and_everybody_to_one_member() -> None:
    found = chosen(table(), cross_fit=3)
    for share in found.shares:
        learned, blind = (set(found.subjects[rows]) for rows in (share.training, share.blind))
        assert not learned & blind
        assert len(learned | blind) == 12
        assert {name[:3] for name in blind} & {"p00", "p03", "p06", "p09"}, "each fold has somebody with AD"
    assert sorted(name for share in found.shares for name in set(found.subjects[share.blind])) == sorted(
        set(found.subjects)
    )


def test_one_member_keeps_a_share_of_every_diagnosis_out() -> None:
    found = chosen(table(16), calibration=0.25)
    blind = set(found.subjects[found.shares[0].blind])
    assert len(blind) in (3, 4, 5)
    assert blind & {f"p{person:02d}" for person in range(0, 16, 3)}


def test_twins_synthetic_excluded_and_single_visits_are_not_learned_from() -> None:
    frame = table(14)
    frame["base"] = np.where(frame["subject"] == "p01", "x", "")
    frame.loc[frame["subject"] == "p02", "role"] = "excluded"
    frame = frame[~((frame["subject"] == "p03") & (frame["session"] != "1"))]
    assert set(chosen(frame).subjects) == {f"p{person:02d}" for person in range(14)} - {"p01", "p02", "p03"}


def test_pairs_across_sites_and_close_ones_are_left_out_with_a_sentence() -> None:
    frame = table()
    frame.loc[(frame["subject"] == "p00") & (frame["session"] == "3"), "site"] = "b"
    found = chosen(frame, min_years=1.2)
    assert len(found.pairs) == 12 * 2 - 2
    assert "12 of 36 pairs are less than 1.2 years apart and left out" in found.notes
    assert any("2 of 24 pairs of visits are from different sites" in note for note in found.notes)
    assert len(chosen(frame, min_years=1.2, across_scanners=True).pairs) == 24
    found = chosen(frame)
    assert [len(rows) for rows in found.stretches("p01", across_scanners=False)] == [3]
    assert found.earlier(2, across_scanners=False) == [0, 1] or found.subjects[2] != "p00"


def test_permuted_times_keep_the_times_and_lose_the_order() -> None:
    found = chosen(table(30), permuted=2)
    main, first, second = found.shares
    assert (first.variant, second.variant) == ("permuted", "permuted")
    assert np.array_equal(first.training, main.training)
    assert sorted(first.years[main.training]) == sorted(main.years[main.training])
    assert not np.array_equal(first.years, second.years)
    change = main.years[main.training] - main.years[main.training].mean()
    assert abs(np.corrcoef(change, first.years[main.training])[0, 1]) < 0.4


@pytest.mark.parametrize(
    ("frame", "settings", "sentence"),
    [
        (table(years=(0.0,)), {}, "no person has two visits"),
        (table(age_years=np.nan), {}, "has no age at session 1"),
        (table(6), {}, "6 people with two usable visits are too few to learn change from; at least 10 are needed"),
        (
            table(),
            {"min_years": 5.0},
            "no two visits of a person are 5 years apart or more .the longest time is 2.50 years",
        ),
        (table(site=list("abc") * 12), {}, "all 36 pairs of visits are from different sites"),
        (
            table(diagnosis=["AD", "MCI", "MCI"] * 12),
            {},
            "the diagnosis of p00 .AD, then MCI. and of 11 others goes backwards",
        ),
        (table(diagnosis="control"), {"conditions": ("APOE",)}, "model.conditions names APOE, which is no column"),
    ],
)
def test_bad_visits_are_told(frame: pd.DataFrame, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        chosen(frame, **settings).known_conditions(settings.get("conditions", ()))


def test_a_condition_with_one_value_is_left_out_with_a_sentence() -> None:
    coding, notes = chosen(table(diagnosis="control")).known_conditions(("age_years", "diagnosis"))
    assert coding.names == ("age_years",)
    assert notes == ["model.conditions: diagnosis has no two values in the people with visits and is left out"]

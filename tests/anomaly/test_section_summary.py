"""Sentences of the summary on groups and on calibration."""

from __future__ import annotations

import pytest

from gen3d.anomaly.sections.summary import calibration_sentences, group_sentences
from gen3d.core.tables import Row
from gen3d.maths.stats import Interval


def score(group: str, low: float, num_people: int = 12, num_controls: int = 30) -> Row:
    """One score of one group against held-out controls."""
    auc = Interval(low + 0.1, low, low + 0.2, num_people)
    return {
        "group": group,
        "channel": "deformation",
        "num_people": num_people,
        "num_controls": num_controls,
        "auc": auc,
    }


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            score("AD", 0.7),
            "AD (Alzheimer's disease), n = 12 against 30 held-out controls: separated from controls by "
            "local volume (AUC 0.80 [0.70, 0.90]).",
        ),
        (
            score("AD", 0.45),
            "AD (Alzheimer's disease), n = 12 against 30 held-out controls: no score separates this group from controls. "
            "The largest AUC is 0.55 [0.45, 0.65], local volume.",
        ),
        (
            score("AD", 0.7, num_controls=2),
            "AD (Alzheimer's disease), n = 12 against 2 held-out controls: too few for a comparison.",
        ),
    ],
)
def test_groups(row: Row, sentence: str) -> None:
    assert group_sentences([row]) == [sentence]


def test_the_null_group_is_a_false_alarm_where_it_is_separated() -> None:
    assert group_sentences([score("null", 0.7)])[0].endswith(
        "Nothing was planted in these people, so this is a false alarm. Treat the other findings with the same doubt."
    )
    assert group_sentences([score("null", 0.4)])[0].endswith("This is correct: nothing was planted.")


@pytest.mark.parametrize(("low", "has_caution"), [(0.01, False), (0.08, True)])
def test_calibration_warns_of_too_many_positive_people(low: float, has_caution: bool) -> None:
    row: Row = {"channel": "residual", "mean": -0.01, "sd": 1.03, "share_beyond": Interval(0.052, 0.04, 0.06, 8)}
    row |= {"num_positive": 1, "num_people": 8, "share_positive": Interval(0.12, low, 0.5, 8)}
    (sentence,) = calibration_sentences([row])
    assert sentence.startswith(
        "T1w intensity: mean \N{MINUS SIGN}0.01 and SD 1.03 (expected 0 and 1), 5.2 % of voxels beyond 1.96"
    )
    assert ("treat single significant voxels" in sentence) == has_caution

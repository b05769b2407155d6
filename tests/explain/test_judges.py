"""Judges: closed forms, and who passes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from gen3d.explain.judges import FULLY, JUDGES, LABELS, agreement, spearman, verdicts
from gen3d.explain.sentences import first_sentence, not_asked, standing


def test_agreement_is_that_of_shrout_and_fleiss() -> None:
    """ICC(A,1) by hand: rows 1, 2, 3 and the second rater one higher."""
    first = np.array([1.0, 2.0, 3.0])
    assert agreement(first, first) == pytest.approx(1.0)
    assert agreement(first, first + 1) == pytest.approx(2 / 3)  # MSR 2, MSC 1.5, MSE 0: 2 / (2 + 2 (1.5) / 3)
    assert agreement(first - 2, 2 - first) < 0
    assert math.isnan(agreement(np.ones(3), np.ones(3)))
    assert math.isnan(agreement(first[:1], first[:1]))
    assert agreement(np.append(first, np.nan), np.append(first, 5.0)) == pytest.approx(1.0)


def test_rank_correlation_of_maps() -> None:
    values = np.array([0.1, 5.0, 2.0, 3.0])
    assert spearman(values, np.exp(values)) == pytest.approx(1.0)
    assert spearman(values, -values) == pytest.approx(-1.0)
    assert math.isnan(spearman(values, np.ones(4)))


def rows(method: str, num: int = 5, **columns: Any) -> list[dict[str, Any]]:
    jitter = np.linspace(-0.01, 0.01, num)
    return [
        {"key": f"p{k}", "method": method}
        | {name: value + jitter[k] if isinstance(value, float) else value for name, value in columns.items()}
        for k in range(num)
    ]


def tables(**given: list[dict[str, Any]]) -> dict[str, pd.DataFrame]:
    return {name: pd.DataFrame(given.get(name, [])) for name in ("truth", "randomised", "faithfulness", "retest")}


def passed(judged: list[dict[str, Any]], method: str) -> dict[str, bool | None]:
    return {row["judge"]: row["passed"] for row in judged if row["method"] == method}


def test_a_good_method_passes_and_a_picture_of_the_scan_fails() -> None:
    good, bad = "smoothgrad", "grad_cam"
    truth = rows(good, auprc=0.5, prevalence=0.1, auprc_turned=0.2) + rows(
        bad, auprc=0.2, prevalence=0.1, auprc_turned=0.25
    )
    randomised = rows(good, step=FULLY, spearman=0.1) + rows(bad, step=FULLY, spearman=0.9)
    randomised += rows(good, step="head", spearman=0.9) + rows(good, step=LABELS, spearman=0.2)
    randomised += rows(bad, step=LABELS, spearman=0.8)
    moved = {"deletion_random": 0.5, "insertion_random": 0.5}
    faithfulness = rows(good, deletion=0.8, insertion=0.7, **moved) + rows(bad, deletion=0.5, insertion=0.5, **moved)
    retest = rows(good, icc=0.9) + rows(bad, icc=0.3)
    judged = verdicts(
        tables(truth=truth, randomised=randomised, faithfulness=faithfulness, retest=retest), (good, bad), 0
    )
    assert passed(judged, good) == dict.fromkeys(JUDGES, True)
    fair = [row for row in faithfulness if row["method"] == bad]
    assert np.mean([row["deletion"] - row["deletion_random"] for row in fair]) == pytest.approx(0.0, abs=1e-9)
    assert passed(judged, bad) == dict.fromkeys(JUDGES, False)
    sentence = first_sentence(judged, (good, bad))
    assert sentence.startswith("SmoothGrad passed the 5 judges that could be asked (planted truth, randomised weights")
    assert "Grad-CAM fails planted truth, randomised weights" in sentence
    assert standing(judged, good).startswith("passes planted truth")


def test_judges_that_cannot_be_asked_are_named_and_settle_nothing() -> None:
    judged = verdicts(
        tables(truth=rows("occlusion", num=2, auprc=0.9, prevalence=0.1, auprc_turned=0.1)), ("occlusion",), 0
    )
    assert set(passed(judged, "occlusion").values()) == {None}
    assert first_sentence(judged, ("occlusion",)).startswith("No judge could be asked")
    sentences = not_asked(judged)
    assert len(sentences) == 5
    assert "2 people, and 3 are needed" in sentences[0]
    assert "nobody has two scans" in sentences[-1]
    assert standing(judged, "occlusion") == "not judged"


def test_no_method_passes_where_one_judge_fails_each() -> None:
    judged = verdicts(tables(retest=rows("occlusion", icc=0.1)), ("occlusion",), 0)
    sentence = first_sentence(judged, ("occlusion",))
    assert (
        sentence
        == "No method passed the 1 judge that could be asked (second scans); region occlusion fails second scans."
    )

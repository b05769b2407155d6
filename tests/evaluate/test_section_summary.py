"""Sentences of the summary on planted truth: only scores above chance are called a detection."""

from __future__ import annotations

from gen3d.core.tables import Row
from gen3d.evaluate.section_summary import best_sentence, in_short
from gen3d.maths.stats import Interval


def best(condition: str, direction: str, low: float, others: list[Row] | None = None) -> Row:
    """The best row of a condition: regional with a direction, else focal with a prevalence of 0.2."""
    return {
        "condition": condition, "direction": direction, "measure": "auc" if direction else "auprc", "what": "left hippocampus",
        "model": "VAE", "channel": "deformation" if direction else "residual", "value": Interval(low + 0.1, low, low + 0.2, 24),
        "auroc": None, "prevalence": None if direction else 0.2, "num_candidates": 2, "others": others or [],
    }  # fmt: skip


def test_conditions_at_chance_are_named_as_missed() -> None:
    rows = [best("AD", "loss", 0.45), best("AD", "gain", 0.5), best("lesion", "", 0.2)]
    assert in_short(rows) == ["No model detects volume loss in AD, volume gain in AD or lesion better than chance."]


def test_a_detected_and_a_missed_condition() -> None:
    (text,) = in_short([best("AD", "loss", 0.8), best("lesion", "", 0.1)])
    assert text == (
        "Atrophy is detected best by VAE in local volume (AD: AUC of left hippocampus 0.90 [0.80, 1.00]). "
        "No model detects lesion better than chance."
    )


def test_networks_are_compared_with_the_best_baseline() -> None:
    """Apart by the paired difference where it is known, else by intervals that do not overlap."""
    overlapping: Row = {"model": "PCA", "value": Interval(0.8, 0.6, 0.95, 24), "behind": None}
    (text,) = in_short([best("AD", "loss", 0.8, [overlapping])])
    assert "on volume loss in AD, VAE does not differ detectably from PCA (AUC 0.90 [0.80, 1.00] against 0.80" in text
    (text,) = in_short([best("AD", "loss", 0.8, [overlapping | {"behind": Interval(0.1, 0.02, 0.2, 24)}])])
    assert "VAE is better than PCA (paired difference in AUC 0.100 [0.020, 0.200])" in text
    (text,) = in_short([best("AD", "loss", 0.8, [overlapping | {"value": Interval(0.5, 0.4, 0.6, 24)}])])
    assert "VAE is better than PCA (AUC 0.90 [0.80, 1.00] against 0.50 [0.40, 0.60])" in text


def test_the_sentence_of_a_focal_condition_names_chance() -> None:
    other: Row = {"model": "PCA", "value": Interval(0.3, 0.2, 0.4, 24), "behind": None}
    assert best_sentence(best("lesion", "", 0.3, [other])) == (
        "Lesion, n = 24: best located by T1w intensity of VAE, AUPRC 0.40 [0.30, 0.50] (chance: 0.20). "
        "Other models in this channel: PCA 0.30 [0.20, 0.40]."
    )

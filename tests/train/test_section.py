"""What the page says of whom the models learned from."""

from __future__ import annotations

from typing import Any

from gen3d.train.section import _sentence


def row(model: str, kind: str, members: int = 1, patients: int = 0) -> dict[str, Any]:
    return {
        "model": model,
        "kind": kind,
        "num_people": 12,
        "num_patients": patients,
        "num_members": members,
        "age_min": 50.0,
        "age_max": 80.0,
    }


def test_a_classifier_is_not_said_to_know_healthy_people_only() -> None:
    text = _sentence([row("PCA", "pca", 3), row("cnn", "classifier", 5, patients=6)])
    assert text == (
        "The models were trained on healthy controls only. PCA was trained on 12 people aged 50 to 80. Cross-fitted: PCA (by 3). "
        "A person has an expectation only from members that were not trained on that person. "
        "Classifiers learn from people with a label, whatever it is: cnn was trained on 12 people aged 50 to 80. Cross-fitted: cnn "
        "(by 5). A person is scored only by members that neither learned from nor watched that person."
    )


def test_a_classifier_alone_says_nothing_of_controls() -> None:
    assert "healthy" not in _sentence([row("cnn", "classifier")])

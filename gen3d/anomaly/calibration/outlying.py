"""Controls whose scores lie so far out that a rank among all controls would be decided by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gen3d.core import words as spell
from gen3d.maths.reference import ReferenceScores

HEAVIEST_CLUSTER, LARGEST_REGION = "heaviest_cluster", "largest_region"
WORDS = {
    HEAVIEST_CLUSTER: "the mass of the heaviest cluster",
    LARGEST_REGION: "the largest |z| of any region",
}
CONTROLS_FOR_5_PERCENT = 19


def describe_reference(scores: NDArray[np.floating], subjects: Sequence[str] | None = None) -> dict[str, Any]:
    """One reference of controls, JSON-ready: number of controls, smallest p of a rank, and the outlying controls.

    Args:
        scores: of calibration controls, held out [n]; NaN among them is left out.
        subjects: their ids, None to name nobody.
    """
    of_controls = np.asarray(scores, dtype=np.float64)
    reference = ReferenceScores.of(of_controls)
    order = np.argsort(-np.nan_to_num(of_controls, nan=-np.inf), kind="stable")[: reference.num_outlying]
    return {
        "num_controls": len(reference.scores),
        "smallest_rank_p": reference.smallest_p,
        "next_score": None if not len(reference.scores) else reference.next_score,
        "outlying": [
            ({"subject": str(subjects[place])} if subjects is not None else {}) | {"score": float(of_controls[place])}
            for place in order
        ],
    }


def outlying_sentences(channel: str, references: dict[str, dict[str, Any]]) -> list[str]:
    """A sentence per reference with outlying controls: who they are, how far out, and what p then means."""
    lines = []
    for name, record in references.items():
        people = record["outlying"]
        if not people:
            continue
        listed = spell.listed([_named(person) for person in people])
        kept = int(record["num_controls"]) - len(people)
        lines.append(
            f"{channel}: {spell.count(len(people), 'calibration control')} far beyond the others in {WORDS[name]}: {listed}, "
            f"the next {spell.figure(record['next_score'])}; their ranks would decide who is detected, so p is read from a tail "
            f"fitted to the other {kept} (look at their scans)"
        )
    return lines


def _named(person: dict[str, Any]) -> str:
    score = spell.figure(person["score"])
    return f"{person['subject']} ({score})" if "subject" in person else score


def allowed_sentence(num_controls: int) -> str:
    """What a rank among so many controls can say, without a full stop."""
    smallest = f"smallest possible p of a rank 1/{num_controls + 1}"
    if num_controls >= CONTROLS_FOR_5_PERCENT:
        return smallest
    return f"{smallest}, so that none can be 0.05 or less ({CONTROLS_FOR_5_PERCENT} controls are needed)"

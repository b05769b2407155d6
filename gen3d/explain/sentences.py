"""What the explanations amount to, in sentences; the first says which methods passed their judges."""

from __future__ import annotations

from collections.abc import Sequence

from gen3d.core import words as spell
from gen3d.core.tables import Row

METHODS = {
    "smoothgrad": "SmoothGrad",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "integrated gradients",
    "occlusion": "region occlusion",
}
JUDGES = {
    "truth": "planted truth",
    "weights": "randomised weights",
    "labels": "permuted labels",
    "faithfulness": "insertion/deletion",
    "retest": "second scans",
}


def judged(rows: Sequence[Row], method: str) -> tuple[list[str], list[str], list[str]]:
    """The judges that a method passed, those it failed, and those that could not be asked."""
    own = [row for row in rows if row["method"] == method]
    return (
        [str(row["judge"]) for row in own if row["passed"] is True],
        [str(row["judge"]) for row in own if row["passed"] is False],
        [str(row["judge"]) for row in own if row["passed"] is None],
    )


def standing(rows: Sequence[Row], method: str) -> str:
    """What is written beside a method's picture: that it passed, or which judges it failed."""
    passed, failed, _ = judged(rows, method)
    if failed:
        return f"fails {spell.listed([JUDGES[name] for name in failed])}"
    return f"passes {spell.listed([JUDGES[name] for name in passed])}" if passed else "not judged"


def first_sentence(rows: Sequence[Row], methods: Sequence[str]) -> str:
    """Which methods passed every judge that could be asked, and which failed what."""
    asked = [name for name in JUDGES if any(row["judge"] == name and row["passed"] is not None for row in rows)]
    if not asked:
        return "No judge could be asked, so none of the pictures may be believed yet."
    good = [METHODS[name] for name in methods if judged(rows, name)[0] and not judged(rows, name)[1]]
    bad = [f"{METHODS[name]} {standing(rows, name)}" for name in methods if judged(rows, name)[1]]
    judges = (
        f"{spell.count(len(asked), 'judge')} that could be asked ({spell.listed([JUDGES[name] for name in asked])})"
    )
    begin = f"{spell.capital(spell.listed(good))} passed" if good else "No method passed"
    return f"{begin} the {judges}{'; ' if bad else ''}{spell.listed(bad) if bad else ''}."


def not_asked(rows: Sequence[Row]) -> list[str]:
    """One sentence per judge that could not be asked of any method."""
    sentences = []
    for name, title in JUDGES.items():
        own = [row for row in rows if row["judge"] == name]
        if own and all(row["passed"] is None for row in own):
            sentences.append(f"{spell.capital(title)}: not asked, because {own[0]['why']}.")
    return sentences


def enriched(rows: Sequence[Row]) -> list[str]:
    """One sentence per method and class: enrichment in the regions asked for, against turned maps and all other regions."""
    sentences = []
    for row in rows:
        verdict = "more than by chance" if row["p"] < 0.05 else "no more than by chance"
        name = spell.capital(METHODS.get(str(row["method"]), str(row["method"])))
        null = f"turned maps {spell.number(row['null_mean'])}, p {spell.probability(row['p'])}"
        sentences.append(
            f"{name}, {row['group']}: {row['region']} holds {spell.number(row['enrichment'])} times the brain's mean, {verdict} "
            f"({null}; rank {row['rank']} of {row['num_regions']} regions)."
        )
    return sentences

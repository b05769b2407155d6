"""What a chain of transitions came to, in sentences; the first says whether it beats a shift by the difference of means."""

from __future__ import annotations

from collections.abc import Sequence

from gen3d.core import words
from gen3d.core.tables import Row
from gen3d.maths.stats import Interval
from gen3d.stages.folder import CHAIN, COPY, PAIRED, PUBLISHED

ERROR_DIGITS = 4
MADE_ALONE = (
    "What the chain makes of this scan stands alone: it was compared with nobody, so nothing here says that it is nearer to a "
    "later stage than the scan itself. What the chain is worth was measured on people with later scans, if at all."
)
IDENTITY = 0.9
"""Share of people recognised below which what a chain makes is no longer the person it was made from."""


def verdict_sentence(protocol: str, apart: Interval, shift: Interval) -> str:
    """Whether the chain is nearer to the later scans than the scan plus the difference of the stages' means."""
    figures = (
        f"difference of MSE in the brain {_shown(apart, signed=True)}, shift {words.number(shift.value, ERROR_DIGITS)}, "
        f"{words.people(apart.num)}"
    )
    against = "each person's own later scan" if protocol == PAIRED else "scans of other people at the next stage"
    if apart.high < 0:
        result = "the chain beats the shift by the difference of the stages' means"
    elif apart.low > 0:
        result = "the chain does not beat the shift by the difference of the stages' means: it is further from the next stage"
    else:
        result = "it is open whether the chain beats the shift by the difference of the stages' means"
    return f"Against {against}, {result} ({figures})."


def _shown(interval: Interval, signed: bool = False) -> str:
    return words.interval(interval.value, interval.low, interval.high, ERROR_DIGITS, signed)


def stage_sentences(
    tables: dict[str, list[Row]],
    verdict: tuple[str, Interval, Interval],
    rising: Interval,
    stages: Sequence[str],
    permuted: bool,
    notes: Sequence[str],
) -> list[str]:
    """All sentences, the verdict first."""
    found = [verdict_sentence(*verdict)]
    if permuted:
        found.append("The stages were exchanged between people before training: there was nothing to learn.")
    found.append(
        "People of neighbouring stages are different people: by the published protocol a made scan is compared with the brain of "
        "somebody else, and two random people have the SSIM of the row other person."
    )
    found += _ssim(tables["metrics"]) + _rank(tables["identity"]) + _set(tables["sets"])
    if rising.num:
        share = words.interval(rising.value, rising.low, rising.high)
        found.append(
            f"Fluid rises at every step from {stages[0]} to {stages[-1]} in a share of {share} of {words.people(rising.num)}."
        )
    return [*found, *(words.capital(note) + "." for note in notes)]


def _ssim(metrics: list[Row]) -> list[str]:
    """SSIM on the frame at the first single step, of the chain and of the floors."""
    for protocol in (PAIRED, PUBLISHED):
        rows = [row for row in metrics if row["measure"] == "ssim_frame" and row["protocol"] == protocol]
        if rows:
            first = [row for row in rows if (row["start"], row["stage"]) == (rows[0]["start"], rows[0]["stage"])]
            shown = [f"{row['candidate']} {words.number(row['value'])}" for row in first]
            who = "the same person's scan" if protocol == PAIRED else "another person's scan"
            return [f"SSIM with {who} from {first[0]['start']} to {first[0]['stage']}: {', '.join(shown)}."]
    return []


def _rank(identity: list[Row]) -> list[str]:
    sentences = []
    for row in identity:
        if row["candidate"] == CHAIN:
            text = words.interval(row["value"], row["low"], row["high"])
            lost = (
                ""
                if row["value"] >= IDENTITY
                else "; below .9 it is no longer the same person, and the chain should stop"
            )
            sentences.append(
                f"From {row['start']} to {row['stage']} the source is recognised among {row['n']} in a share of {text} "
                f"(by chance {words.number(row['chance'])}){lost}."
            )
    return sentences


def _set(sets: list[Row]) -> list[str]:
    """FD of the chain and of copying, at the first step that has any."""
    rows = [row for row in sets if row["metric"].startswith("FD")]
    chosen = (
        [row for row in rows if (row["start"], row["stage"]) == (rows[0]["start"], rows[0]["stage"])] if rows else []
    )
    named = {row["candidate"]: words.number(row["value"], 1) for row in chosen}
    if CHAIN not in named or COPY not in named:
        return []
    floor = words.number(chosen[0]["floor"], 1)
    return [
        f"{chosen[0]['metric']}, from {chosen[0]['start']} to {chosen[0]['stage']}: chain {named[CHAIN]}, copy {named[COPY]}; two "
        f"halves of the real people {floor}."
    ]

"""The one way in which gen3d writes a number, a share, an interval, a p value, a count and a list.

Screen, tables for people, sentences in metrics.json and the report all use it, so that a figure looks the same wherever it is read:
`0.85 [0.79, 0.90]`, `5.2 %`, `< 0.001`, `3 people`, `a, b and c`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MINUS = "\N{MINUS SIGN}"
NONE = "\N{EN DASH}"
"""Where there is no number."""
SMALLEST_P = 0.001
"""Smaller p values are written as smaller than this: resampling gives no more digits than that."""


def number(value: float | None, digits: int = 2, signed: bool = False) -> str:
    """A number with a fixed count of decimals; a dash where there is none."""
    if value is None or not math.isfinite(value):
        return NONE
    text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def figure(value: float | None) -> str:
    """A number with the decimals it needs: 0.85, 4.13, 22.7.

    A third decimal near 0, where a sign may decide, and just below 1, which would otherwise read as perfect.
    """
    if value is None or not math.isfinite(value):
        return NONE
    close_to_a_limit = 0.0005 <= abs(value) < 0.01 or 0.995 <= abs(value) < 0.9995
    return number(value, 3 if close_to_a_limit else 2 if abs(value) < 10 else 1)


def percent(share: float | None, digits: int = 1) -> str:
    """A share between 0 and 1 as a percentage: 5.2 %."""
    return NONE if share is None or not math.isfinite(share) else f"{number(100 * share, digits)} %"


def interval(
    value: float | None, low: float | None, high: float | None, digits: int | None = 2, signed: bool = False
) -> str:
    """A value and its 95 % interval, 0.87 [0.78, 0.94]; the value alone where the interval is unknown.

    Args:
        value, low, high: None or NaN for unknown.
        digits: decimals; None for as many as each number needs (`figure`).
        signed: whether positive numbers have a plus sign, as differences do; only with decimals.
    """

    def shown(part: float | None) -> str:
        return figure(part) if digits is None else number(part, digits, signed)

    known = all(limit is not None and math.isfinite(limit) for limit in (low, high))
    return f"{shown(value)} [{shown(low)}, {shown(high)}]" if known and shown(value) != NONE else shown(value)


def probability(p: float | None) -> str:
    """A p or q value to two significant digits, never as zero."""
    if p is None or not math.isfinite(p):
        return NONE
    if p < SMALLEST_P:
        return f"<\N{THIN SPACE}{SMALLEST_P}"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def count(n: int, noun: str, plural: str | None = None) -> str:
    """A count with its noun: 1 scan, 3 scans."""
    return f"{n} {noun if n == 1 else plural or noun + 's'}"


def people(n: int) -> str:
    """A count of people."""
    return count(n, "person", "people")


def listed(items: Sequence[str], word: str = "and") -> str:
    """Items as a sentence lists them: a, b and c; none."""
    items = list(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {word} {items[-1]}" if items else "none"


def capital(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]

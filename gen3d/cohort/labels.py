"""Ids, sessions and names of sources as labels of file names, without loss: two texts never become one label.

A text of plain letters and digits is its own label. Of any other, the label is its letters and digits with a hash of the whole
text behind them, so it is the same tomorrow and whoever else is read: `002_S_0295` is `002S0295xdc27c8b1`, whatever the table.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

PLAIN = re.compile(r"[A-Za-z0-9]+")
HASHED = re.compile(r"x[0-9a-f]{8}$")
LONGEST, KEPT = 64, 40
"""Letters of a label, and those that are kept of a longer text: file systems allow 255 for a whole name."""


def plain_text(text: str) -> str:
    """One spelling of a text: composed characters, single blanks, none at the ends."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def label(text: str) -> str:
    """A text as a BIDS label, letters and digits only; "" for an empty one."""
    text = plain_text(text)
    if not text or (PLAIN.fullmatch(text) and len(text) <= LONGEST):
        return text
    letters = re.sub(r"[^A-Za-z0-9]", "", text)[:KEPT]
    return f"{letters}x{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def qualified(name: str, subject: str) -> str:
    """A label with the name of its source or site in front; an x keeps a number at the end of the name apart from it."""
    front = label(name)
    return f"{front}{'x' if front[-1:].isdigit() else ''}{subject}"

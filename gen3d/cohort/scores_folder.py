"""What a trained classifier leaves for the people it never learned from: who is in which part, and the network's scores.

Written by `train` into the run's folder, read by `classify`, `explain` and the report without loading a network.
"""

from __future__ import annotations

FILE = "classifier.json"
"""Target, network, and of every member its variant and fold."""

SCORES = "scores.tsv"
"""Per scan and member: key, subject, session, member, part, label and the network's raw scores."""

VARIANTS = ("main", "twin", "permuted")
"""The training itself; the same with random weights where it starts from learned ones; the same with labels permuted
between people."""

PARTS = ("validation", "test")
"""People of a member's training share that it is only watched by, and people that it never saw."""

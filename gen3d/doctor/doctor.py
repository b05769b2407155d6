"""`gen3d doctor`: what this machine has, what will not work on it, and the command that mends it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from gen3d.core.words import count
from gen3d.doctor.finding import Finding, State
from gen3d.doctor.machine import machine_findings, programs
from gen3d.doctor.packages import package_findings, torch_findings

COLOURS = {State.GOOD: "green", State.MISSING: "yellow", State.HARMFUL: "bold red"}
MARKS = {State.GOOD: "good", State.MISSING: "missing", State.HARMFUL: "HARMFUL"}
WIDTH = 20
HARM = 3
"""Exit code where something is harmful."""


def examine() -> list[Finding]:
    """Everything that can be looked at without work."""
    return [*package_findings(), *torch_findings(), *machine_findings(os.environ), *programs()]


def print_findings(findings: Sequence[Finding]) -> int:
    """Print a line per finding and what follows from all; returns the exit code."""
    console = Console(
        soft_wrap=True, highlight=False
    )  # that of gen3d is silent where a launcher's variables are left over
    for finding in findings:
        line = Text(f"{MARKS[finding.state]:8s} ", style=COLOURS[finding.state])
        line.append(f"{finding.what:{WIDTH}s} ", style="bold")
        line.append(finding.text, style="default")
        console.print(line, soft_wrap=True)
        if finding.remedy:
            console.print(Text(f"{'':8s} {'':{WIDTH}s} -> {finding.remedy}", style="cyan"), soft_wrap=True)
    counts = Counter(finding.state for finding in findings)
    harm = counts[State.HARMFUL]
    last = f"{counts[State.GOOD]} good, {counts[State.MISSING]} missing, {harm} harmful: "
    last += (
        f"mend {count(harm, 'line')} marked HARMFUL first." if harm else "gen3d works here; try `gen3d demo out=demo`."
    )
    console.print(last, soft_wrap=True, highlight=False)
    return HARM if harm else 0


def main() -> int:
    """Look and print."""
    return print_findings(examine())

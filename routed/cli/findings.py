"""The doctor's findings, as people read them. Decides nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table

from routed.doctor.findings import Finding, Level

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.UNKNOWN: "magenta", Level.ERROR: "bold red"}


def table(findings: Sequence[Finding]) -> Table:
    """Return findings as a table, advice below what was found."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("level", "check", "found"):
        grid.add_column(column, overflow="fold")
    for finding in findings:
        colour = _COLOURS[finding.level]
        grid.add_row(f"[{colour}]{finding.level}[/]", escape(finding.check), escape(finding.found))
        if finding.advice:
            grid.add_row("", "", f"[bold]->[/] {escape(finding.advice)}")
    return grid


def summary(findings: Sequence[Finding]) -> str:
    """Return ``2 errors, 1 warning, 20 ok``."""
    counts = Counter(finding.level for finding in findings)
    words = {Level.ERROR: "error", Level.UNKNOWN: "unknown", Level.WARNING: "warning"}
    bad = [f"{counts[level]} {word}{_plural(level, counts[level])}" for level, word in words.items() if counts[level]]
    return ", ".join((*bad, f"{counts[Level.OK]} ok"))


def _plural(level: Level, count: int) -> str:
    return "s" if count > 1 and level is not Level.UNKNOWN else ""

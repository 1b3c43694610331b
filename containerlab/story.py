"""How a run is told: chapters, notes, claims that hold or do not, and a summary. Decides nothing about the claims.

On a terminal with colours and a spinner for what takes long; elsewhere as plain lines.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.padding import Padding
from rich.status import Status
from rich.table import Table
from rich.text import Text

INDENT = 12
"""Columns before the text: the seconds since the start, and a mark."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What was said, whether it held, and what was seen."""

    text: str
    held: bool
    seen: str


class Story:
    """One run as it is told."""

    def __init__(self, title: str) -> None:
        self.claims: list[Claim] = []
        self.remarks: list[str] = []
        self._console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
        self._begin = time.monotonic()
        self._console.print(Text(title, style="bold"))

    @property
    def held(self) -> bool:
        """Whether every claim held so far."""
        return all(claim.held for claim in self.claims)

    def chapter(self, title: str) -> None:
        """Begin a chapter."""
        self._console.print()
        self._line(Text(title, style="bold"))

    def note(self, text: str) -> None:
        """Tell what happens."""
        self._line(Text(text))

    def remark(self, text: str) -> None:
        """Tell what also belongs into the summary."""
        self.remarks.append(text)
        self._line(Text(text, style="yellow"), "!")

    @contextmanager
    def working(self, text: str) -> Iterator[Status]:
        """Show that something takes its time: a spinner on a terminal, whose text may be updated; else a line."""
        if not self._console.is_terminal:
            self.note(f"{text} ...")
        with self._console.status(text) as status:
            yield status

    def claim(self, text: str, held: bool, seen: str) -> None:
        """Tell whether something held, and what was seen; when it did not hold, `seen` is the evidence."""
        self.claims.append(Claim(text, held, seen))
        mark, style = ("✓", "green") if held else ("✗", "bold red")
        self._line(Text(f"{text}: {seen}", style="" if held else "red"), mark, style)

    def table(self, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Show a table."""
        self._console.print(Padding(_grid(header, rows), (0, 0, 0, INDENT)))

    def listing(self, rows: Sequence[tuple[str, str]]) -> None:
        """Show commands and what each is for."""
        for command, purpose in rows:
            self._console.print(Text.assemble(" " * INDENT, (command, "cyan"), f"  # {purpose}"), soft_wrap=True)

    def summary(self) -> None:
        """Show every claim with its result, and the verdict; of what was seen, the first line."""
        self._console.print()
        grid = _grid(("", "claim", "seen"), ())
        for claim in self.claims:
            mark = Text("✓", style="green") if claim.held else Text("✗", style="bold red")
            grid.add_row(mark, Text(claim.text), Text(claim.seen.partition("\n")[0]))
        self._console.print(grid)
        for remark in self.remarks:
            self._console.print(Text(f"! {remark}", style="yellow"))
        failed = sum(not claim.held for claim in self.claims)
        verdict = f"{failed} of {len(self.claims)} claims failed" if failed else f"all {len(self.claims)} claims held"
        seconds = time.monotonic() - self._begin
        self._console.print(Text(f"{verdict}, {seconds:.0f} s", style="bold red" if failed else "bold green"))

    def _line(self, text: Text, mark: str = " ", style: str = "yellow") -> None:
        elapsed = f"{time.monotonic() - self._begin:{INDENT - 6}.1f} s"
        hanging = Text(f"\n{' ' * INDENT}").join(text.split("\n"))
        self._console.print(Text.assemble((elapsed, "dim"), "  ", (mark, style), " ", hanging), soft_wrap=True)


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in header:
        grid.add_column(column, overflow="fold")
    for row in rows:
        grid.add_row(*map(Text, row))
    return grid

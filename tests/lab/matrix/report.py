"""The matrix as tables for people and as JSON for machines. Pure, but for the two files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.lab.matrix.model import FACTOR, Detection, Event, Row
from tests.lab.matrix.traffic import DIRECTIONS, FLOWS, RATE_HZ

SCHEMA = 1
"""Of the JSON document; docs/failure-matrix.md describes it."""
BEGIN = "<!-- figures: written by make matrix, do not edit -->"
END = "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    machine: Mapping[str, str]
    detection: Detection
    rows: Sequence[Row]
    spread: Mapping[str, Mapping[str, float]]
    """Share of each member of the tested server's bond, by way."""

    @property
    def missed(self) -> list[Row]:
        """Rows that are not as they should be."""
        return [row for row in self.rows if not row.met(self.detection.times)]

    def verdict(self, row: Row) -> str:
        """Say what became of a row's goal."""
        if row.error:
            return f"failed: {row.error}"
        if row.control:
            return "bites" if row.bites else "does not bite"
        if not row.healed:
            return "stays black"
        return "met" if row.met(self.detection.times) else "missed"

    def document(self) -> dict[str, Any]:
        """Return everything, for machines; times in milliseconds."""
        times = self.detection.times
        return {
            "schema": SCHEMA,
            "machine": dict(self.machine),
            "traffic": {"rate_hz": RATE_HZ, "flows": {str(key): number for key, number in FLOWS.items()}},
            "spread": {member: dict(ways) for member, ways in self.spread.items()},
            "detection_ms": dict(times),
            "link_cut_ms": dict(self.detection.anatomy),
            "factor": FACTOR,
            "rows": [
                {
                    "event": row.event,
                    "step": row.title,
                    "control": row.control,
                    "runs": row.runs,
                    "took_s": row.took_s,
                    "load": row.load,
                    "losses": {name: asdict(loss) for name, loss in row.losses.items()},
                    "healed": row.healed,
                    "budget": None if row.control else row.budget.text(times),
                    "limit_ms": None if row.control else row.budget.limit_ms(times),
                    "by_hand": row.facts or None,
                    "verdict": self.verdict(row),
                    "met": row.met(times),
                }
                for row in self.rows
            ],
        }

    def cells(self, row: Row) -> list[str]:
        """Return a row of the table."""
        lost = [str(row.losses[name]) if name in row.losses else "-" for name in DIRECTIONS]
        budget = "must lose" if row.control else row.budget.text(self.detection.times)
        return [f"*control:* {row.title}" if row.control else row.title, *lost, budget, row.facts, self.verdict(row)]

    def table(self) -> Table:
        """Return the matrix for a terminal."""
        table = Table(title="Failure matrix", title_justify="left", show_lines=True)
        for name in _HEAD:
            table.add_column(name)
        for row in self.rows:
            colour = "green" if row.met(self.detection.times) else "red"
            *cells, verdict = self.cells(row)
            table.add_row(*(cell.replace("*", "") for cell in cells), f"[{colour}]{verdict}[/{colour}]")
        return table

    def markdown(self, events: Sequence[Event]) -> str:
        """Return the figures for the document, event by event."""
        named = {event.name: event.about for event in events}
        parts = [
            _list(self.machine),
            self._detection_text(),
            self._spread_text(),
            _grid(_HEAD, map(self.cells, self.rows)),
        ]
        missed = [f"- **{row.title}** ({named[row.event]}): {self.verdict(row)}" for row in self.missed]
        parts += ["### Missed", "", "\n".join(missed) or "Nothing."]
        return "\n\n".join(part for part in parts if part)

    def _detection_text(self) -> str:
        times = [(name, f"{value:.0f}") for name, value in self.detection.times.items()]
        anatomy = [(what, f"{value:.0f}") for what, value in self.detection.anatomy.items()]
        return "\n\n".join(
            (
                "### Detection times",
                _grid(("detector", "ms"), times),
                "### One link cut, step by step",
                _grid(("what happens", "ms after the cut"), anatomy),
            )
        )

    def _spread_text(self) -> str:
        rows = [(member, *(f"{share:.0%}" for share in ways.values())) for member, ways in self.spread.items()]
        return "\n\n".join(("### Shares of the bond's members in steady traffic", _grid(("member", "rx", "tx"), rows)))


_HEAD = ("what happens", *DIRECTIONS.values(), "budget", "by hand, ms", "goal")


def write(page: Path, report: Report, events: Sequence[Event]) -> None:
    """Put the figures between the page's markers, and the JSON document beside it."""
    text = page.read_text()
    before, marker, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (marker and end):
        raise ValueError(f"{page} has no place for figures: {BEGIN} ... {END}")
    page.write_text(f"{before}{BEGIN}\n\n## Figures\n\n{report.markdown(events)}\n\n{END}{after}")
    page.with_suffix(".json").write_text(json.dumps(report.document(), indent=1) + "\n")


def _list(pairs: Mapping[str, str]) -> str:
    return "\n".join(f"- {key}: {value}" for key, value in pairs.items())


def _grid(head: Sequence[str], rows: Any) -> str:
    lines = [" | ".join(cells) for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(f"| {line} |" for line in lines)

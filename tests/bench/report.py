"""The figures: tables for a terminal, Markdown for a document, JSON for machines. Pure, but for that document."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from rich.table import Table

from tests.bench.figures import (
    BASELINE,
    ONE_OBJECT,
    Allocation,
    Attach,
    Audit,
    Claims,
    Goal,
    Route,
    Summary,
    goals,
    ratio,
)

if TYPE_CHECKING:
    from pathlib import Path

BEGIN = "<!-- figures: written by make bench, do not edit -->"
END = "<!-- end of figures -->"
_CLAIMS_HEAD = ("who has which address is in", "claims/s", "÷ one object", "in vain")


@dataclass(frozen=True, slots=True)
class Grid:
    """A table before it has a form."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Report:
    """One run."""

    machine: Mapping[str, str]
    attach: Mapping[str, Attach]
    routes: Mapping[str, Route]
    claims: Mapping[str, Claims] = field(default_factory=dict)
    allocation: Allocation | None = None
    audits: Mapping[int, Audit] = field(default_factory=dict)
    """By number of racks."""

    def goals(self) -> tuple[Goal, ...]:
        """Return the goals that this run can tell about."""
        return goals(self.attach, self.routes, self.audits)

    def grids(self) -> tuple[Grid, ...]:
        """Return the tables that have content."""
        grids = (
            _attach_grid(self.attach),
            _parallel_grid(self.attach),
            _route_grid(self.routes),
            _claims_grid(self.claims),
            _allocation_grid(self.allocation),
            _audit_grid(self.audits),
            _goal_grid(self.goals()),
        )
        return tuple(grid for grid in grids if grid.rows)

    def tables(self) -> Sequence[Table]:
        """Return the tables for a terminal."""
        return [table(grid) for grid in self.grids()]

    def markdown(self) -> str:
        """Return the tables as Markdown, the machine named."""
        machine = "\n".join(f"- {key}: {value}" for key, value in self.machine.items())
        return "\n\n".join([machine, *(markdown(grid) for grid in self.grids())])

    def json(self) -> str:
        """Return everything as JSON; durations in milliseconds."""
        found = [{**asdict(goal), "met": goal.met} for goal in self.goals()]
        return json.dumps({**asdict(self), "goals": found}, indent=2)


def write(path: Path, report: Report) -> None:
    """Put the figures between the document's markers; ValueError when it has none."""
    put(path, report.markdown(), BEGIN, END)


def put(path: Path, text: str, opening: str, closing: str) -> None:
    """Put a text between two lines of a document; ValueError when it does not hold them."""
    before, begin, rest = path.read_text().partition(opening)
    _, end, after = rest.partition(closing)
    if not begin or not end:
        raise ValueError(f"{path} does not hold the lines {opening!r} and {closing!r}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}")


def _attach_grid(attach: Mapping[str, Attach]) -> Grid:
    base = attach[BASELINE]
    rows = tuple(
        (
            name,
            _pair(figures.add),
            _times(figures.add.p50, base.add.p50),
            _times(figures.add.p99, base.add.p99),
            _pair(figures.delete),
            _times(figures.delete.p50, base.delete.p50),
        )
        for name, figures in attach.items()
    )
    calls = next((figures.add.count for figures in attach.values()), 0)
    head = (
        "plugin",
        "ADD p50 / p99, ms",
        f"p50 ÷ {BASELINE}",
        f"p99 ÷ {BASELINE}",
        "DEL p50 / p99, ms",
        f"p50 ÷ {BASELINE}",
    )
    return Grid(f"Attachments, {calls} in series", head, rows)


def _parallel_grid(attach: Mapping[str, Attach]) -> Grid:
    base = attach[BASELINE]
    rows = tuple(
        (
            name,
            _pair(figures.parallel_add),
            f"{figures.adds_per_s:.0f}",
            _times(figures.adds_per_s, base.adds_per_s),
            _pair(figures.parallel_delete),
            f"{figures.deletes_per_s:.0f}",
            _times(figures.deletes_per_s, base.deletes_per_s),
        )
        for name, figures in attach.items()
    )
    head = ("plugin", "ADD p50 / p99, ms", "ADDs/s", f"÷ {BASELINE}", "DEL p50 / p99, ms", "DELs/s", f"÷ {BASELINE}")
    return Grid("Attachments, 16 in parallel", head, rows)


def _route_grid(routes: Mapping[str, Route]) -> Grid:
    rows = tuple(
        (name, _pair(figures.call), _pair(figures.wire_from_call), _pair(figures.wire), _pair(figures.fib))
        for name, figures in routes.items()
    )
    count = next((figures.call.count for figures in routes.values()), 0)
    head = (
        "announced by",
        "the request, ms",
        "its begin → sent to both ToRs",
        "its return → sent to both ToRs",
        "its return → in both ToRs' kernels",
    )
    return Grid(f"Routes, {count} one after the other, p50 / p99 in ms", head, rows)


def _claims_grid(claims: Mapping[str, Claims]) -> Grid:
    rows = tuple(
        (way, f"{figures.per_s:.0f}", _times(figures.per_s, claims[ONE_OBJECT].per_s), str(figures.vain))
        for way, figures in claims.items()
    )
    return Grid("Leases: addresses of one rack, claimed by 40 servers at once", _CLAIMS_HEAD, rows)


def _allocation_grid(allocation: Allocation | None) -> Grid:
    found = (
        {}
        if allocation is None
        else {
            "from stock": allocation.with_api,
            "from stock, API server away": allocation.without_api,
            "no stock, so the API server is asked": allocation.asking,
        }
    )
    rows = tuple(
        (name, f"{figures.p50:.2f} / {figures.p99:.2f}", _times(figures.p50, found["from stock"].p50))
        for name, figures in found.items()
    )
    return Grid(
        "Leases: a pod's address, ledger and lease alone", ("address", "p50 / p99, ms", "p50 ÷ from stock"), rows
    )


def _audit_grid(audits: Mapping[int, Audit]) -> Grid:
    rows = tuple(
        (
            f"{racks}",
            f"{figures.host_routes}",
            f"{figures.routes}",
            f"{figures.compared_s:.2f}",
            f"{figures.compared_cpu_s:.2f}",
            f"{1e3 * figures.compared_cpu_s / racks:.1f}",
            f"{figures.made_cpu_s:.2f}",
            f"{figures.peak_mib:.0f}",
        )
        for racks, figures in audits.items()
    )
    head = (
        "racks",
        "host routes",
        "all routes",
        "compared, s",
        "of CPU, s",
        "ms of CPU per rack",
        "making them up, s of CPU",
        "peak, MiB",
    )
    return Grid("Audit, compared on one core", head, rows)


def _goal_grid(found: Sequence[Goal]) -> Grid:
    rows = tuple(
        (
            goal.text,
            f"{'≥' if goal.at_least else '≤'} {goal.limit:g}",
            f"{goal.figure:.2f}",
            "met" if goal.met else "missed",
        )
        for goal in found
    )
    return Grid("Goals", ("figure", "goal", "measured", "verdict"), rows)


def _pair(summary: Summary) -> str:
    return f"{summary.p50:.1f} / {summary.p99:.1f}"


def _times(ours: float, theirs: float) -> str:
    return f"{ratio(ours, theirs):.2f}"


def table(grid: Grid) -> Table:
    """Return a grid for a terminal."""
    found = Table(title=grid.title, title_justify="left")
    for number, name in enumerate(grid.head):
        found.add_column(name, justify="right" if number else "left")
    for row in grid.rows:
        found.add_row(*row)
    return found


def markdown(grid: Grid) -> str:
    """Return a grid as Markdown, with its title."""
    align = ("---", *("---:" for _ in grid.head[1:]))
    lines = [" | ".join(cells) for cells in (grid.head, align, *grid.rows)]
    return "\n".join([f"### {grid.title}", "", *(f"| {line} |" for line in lines)])

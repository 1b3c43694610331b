"""An audit for people: as rich's renderables, worst first, readable at 80 columns, in a pipe and without colour.

Every name in them comes from somebody else: it is printed as `Text`, never as markup, and without control characters.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from itertools import groupby

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from routed.audit.model import Audit, Finding, Kind, PoolSummary, RackSummary, Severity
from routed.audit.report.alike import together
from routed.audit.report.changes import Changes
from routed.audit.report.maps import Cell, PoolMap, pool_map, trouble
from routed.audit.report.summary import (
    Verdict,
    counted,
    headline,
    places,
    printable,
    recordings,
    sentence,
    severity_name,
    summarize,
)

COLOURS = {Severity.CRITICAL: "bold red", Severity.WARNING: "yellow", Severity.NOTE: "cyan"}
UNSEEN = "magenta"
VERDICTS = {Verdict.CLEAN: "bold green", Verdict.FINDINGS: "bold red", Verdict.BLIND: "bold magenta"}
_CELLS = {
    Cell.FREE: ("·", "bright_black", "free"),
    Cell.USED: ("■", "green", "used"),
    Cell.QUIET: ("□", "green", "used, no route yet"),
    Cell.CRITICAL: ("!", "bold red", "critical"),
    Cell.WARNING: ("?", "yellow", "warning"),
    Cell.UNUSABLE: ("x", "bright_black", "reserved"),
    Cell.OUTSIDE: (" ", "", ""),
}
_ROW = 64
"""Cells of a map's row."""
_BAR = 10


def findings(audit: Audit) -> RenderableType:
    """Return a line per finding, worst first, and the summary line."""
    if not audit.findings:
        return summary_line(audit)
    grid = _grid("severity", "finding", "rack", "what")
    for finding in together(audit.findings):
        grid.add_row(
            severity_text(finding), Text(finding.kind), Text(printable(finding.rack or "-")), headline_text(finding)
        )
    return Group(grid, "", summary_line(audit), Text("details: routed audit --verbose", style="dim"))


def details(audit: Audit) -> RenderableType:
    """Return each finding with its evidence, likely cause and what to do, and the summary line."""
    blocks = (block for finding in together(audit.findings) for block in (_block(finding), ""))
    accepted = [Text.assemble(("accepted ", "dim"), headline_text(finding)) for finding in audit.accepted]
    return Group(*blocks, *accepted, *([""] if accepted else []), summary_line(audit))


def _block(finding: Finding) -> RenderableType:
    title = Text.assemble(severity_text(finding), "  ", (finding.kind, "bold"), "  ", _place(finding))
    grid = _grid("", "", "", header=False)
    for each in finding.evidence:
        grid.add_row(*(Text(printable(text)) for text in (each.plane, each.where, each.says)))
    parts: tuple[Text | Table, ...] = (headline_text(finding), *([grid] if finding.evidence else []))
    return Group(title, *(Padding(part, (0, 0, 0, 2)) for part in parts), *advice(finding))


def advice(finding: Finding) -> Iterator[RenderableType]:
    """Yield the likely cause, and what to do in one line, however long, so that it can be copied."""
    if finding.cause:
        grid = _grid("", "", header=False)
        grid.add_row(Text("likely", style="dim"), Text(printable(finding.cause)))
        yield Padding(grid, (0, 0, 0, 2))
    if finding.next:
        command = Text.assemble(("  next    ", "dim"), (printable(finding.next), "bold"))
        command.no_wrap, command.overflow = True, "ignore"
        yield command


def _place(finding: Finding) -> Text:
    rack = f"rack {finding.rack}" if finding.rack else "fabric"
    return Text(printable(rack) + (f", at {places(finding.where)}" if finding.where else ""), style="dim")


def severity_text(finding: Finding) -> Text:
    """Return how bad a finding is, in its colour."""
    if finding.kind is Kind.UNOBSERVED:
        return Text("unknown", style=UNSEEN)
    return Text(severity_name(finding.severity), style=COLOURS[finding.severity])


def headline_text(finding: Finding) -> Text:
    """Return a finding's sentence."""
    return Text(headline(finding))


def summary_line(audit: Audit) -> Text:
    """Return the audit's numbers in one line, and in another one what is not live."""
    summary = summarize(audit)
    line = Text(sentence(summary), style=VERDICTS[summary.verdict])
    return line.append(f"\n{old}", style="yellow") if (old := recordings(audit)) else line


def changed(audit: Audit, difference: Changes) -> RenderableType:
    """Return what came and what is gone since the last look, and the summary line."""
    grid = _grid("", "", "", "", header=False)
    for sign, found in (("+", difference.came), ("-", difference.gone)):
        for finding in together(found):
            grid.add_row(sign, severity_text(finding), Text(finding.kind), headline_text(finding))
    return Group(Text(audit.at.strftime("%H:%M:%S UTC"), style="bold"), grid, summary_line(audit))


def racks(audit: Audit) -> RenderableType:
    """Return the usage of every pool as a table, then as maps, and what their cells mean."""
    worst = trouble(audit.findings)
    maps = [
        part for rack in audit.racks for pool in rack.pools for part in _map(pool, rack, pool_map(pool, rack, worst))
    ]
    return Group(_usage(audit.racks), "", *maps, _legend(), "", summary_line(audit))


def _usage(racks: Iterable[RackSummary]) -> Table:
    grid = _grid("rack", "prefix")
    for column in ("used", "free", "of"):
        grid.add_column(column, justify="right")
    grid.add_column("")
    grid.add_column("host routes", overflow="fold")
    for rack in racks:
        routes = Text(printable(", ".join(f"{tor} {_known(count)}" for tor, count in rack.host_routes.items())))
        for at, pool in enumerate(rack.pools):
            name = Text(printable(rack.rack) if at == 0 else "")
            grid.add_row(name, str(pool.prefix), *_numbers(pool), _bar(pool), routes if at == 0 else "")
    return grid


def _numbers(pool: PoolSummary) -> tuple[str, str, str]:
    """Return used, free and capacity; the capacity of a /64 says nothing to anybody."""
    many = pool.capacity > 10**6
    free = None if pool.used is None else max(pool.capacity - pool.used, 0)
    return _known(pool.used), "many" if many and free else _known(free), "many" if many else f"{pool.capacity:,}"


def _known(count: int | None) -> str:
    return "?" if count is None else f"{count:,}"


def _bar(pool: PoolSummary) -> Text:
    if pool.used is None or not pool.capacity:
        return Text("?" if pool.capacity else "")
    share = min(pool.used / pool.capacity, 1.0)
    full = round(share * _BAR)
    colour = "red" if share >= 1 else "yellow" if share >= 0.9 else "green"
    return Text.assemble(("■" * full, colour), ("·" * (_BAR - full), "bright_black"), f" {share:4.0%}")


def _map(pool: PoolSummary, rack: RackSummary, drawn: PoolMap) -> Iterator[Text | str]:
    """Yield a pool's maps, a line per 64 addresses."""
    yield Text(f"{printable(rack.rack)}  {pool.prefix}", style="bold")
    for block in drawn.blocks:
        for at in range(0, len(block.cells), _ROW):
            cells = block.cells[at : at + _ROW]
            if set(cells) != {Cell.OUTSIDE}:
                label = str(block.address(at))
                runs = ((*_CELLS[cell][:2], len(tuple(run))) for cell, run in groupby(cells))
                yield Text.assemble(f"{label:<15} ", *((sign * length, style) for sign, style, length in runs))
    if drawn.left_out:
        yield Text(f"and {counted(drawn.left_out, 'more block')} of 256 in use", style="dim")
    yield ""


def _legend() -> Text:
    words = [(f"{sign} ", style, f"{word}   ") for sign, style, word in _CELLS.values() if word]
    return Text.assemble(*(part for sign, style, word in words for part in ((sign, style), word)))


def _grid(*columns: str, header: bool = True) -> Table:
    grid = Table(box=None, pad_edge=False, header_style="bold", show_header=header)
    for column in columns:
        grid.add_column(column, overflow="fold")
    return grid


def show(console: Console, what: RenderableType) -> None:
    """Print on this console; commands may be wider than it is."""
    console.print(what, highlight=False, crop=False)


def text(what: RenderableType, width: int) -> str:
    """Return plain text of this width at most, without blanks at the ends of lines."""
    buffer = io.StringIO()
    show(Console(file=buffer, width=width, color_system=None, force_terminal=False), what)
    return "".join(line.rstrip() + "\n" for line in buffer.getvalue().splitlines())

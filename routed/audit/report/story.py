"""The story of one address on one screen: what it is, who has it, and who knows the way to it, from pod to spine."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from routed.audit.compare.evidence import describe
from routed.audit.explain import Seen, Story
from routed.audit.model import PortView, SideView
from routed.audit.report.alike import together
from routed.audit.report.summary import judge, printable
from routed.audit.report.tables import VERDICTS, advice, headline_text, severity_text

_Row = tuple[str, str, str]
"""Plane, where, what it says."""


def story(told: Story) -> RenderableType:
    """Return the verdict, a line per plane and place, what explains it, and what to do."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(3):
        grid.add_column(overflow="fold")
    last = ""
    for plane, where, says in _rows(told):
        title = "" if plane == last else plane
        grid.add_row(Text(title, style="dim"), Text(printable(where), style="bold"), Text(printable(says)))
        last = plane
    notes = [Text(f"explained: {printable(note)}", style="cyan") for note in told.notes]
    return Group(
        Text(printable(told.verdict), style=VERDICTS[judge(told.findings)]), "", grid, *_block(notes), *_findings(told)
    )


def _block(lines: list[Text]) -> list[Text | str]:
    return ["", *lines] if lines else []


def _findings(told: Story) -> Iterator[RenderableType]:
    """Yield what is wrong; the evidence stands above."""
    for finding in together(told.findings):
        yield ""
        said = told.verdict.startswith(finding.text)
        text = Text() if said else Text.assemble("  ", headline_text(finding))
        yield Text.assemble(severity_text(finding), "  ", (finding.kind, "bold"), text)
        yield from advice(finding)


def _rows(told: Story) -> Iterator[_Row]:
    place = told.place
    yield (
        "plan",
        place.rack or "-",
        f"{place.role}{f' {place.name}' if place.name else ''}, {place.prefix or 'no prefix'}",
    )
    yield from _who(told)
    for server, route in told.announced:
        communities = f", communities {' '.join(sorted(route.communities))}" if route.communities else ""
        yield "announced", server, f"to {route.tor}, next hop {route.next_hop}{communities}"
    for server, sides in told.sides.items():
        for tor, side in sides.items():
            yield "session", server, f"to {tor}: {_side(side)}"
    for what, reason in told.silent.items():
        yield "not seen", what, reason
    for what, at in told.recorded.items():
        yield "as of", what, f"{at:%Y-%m-%d %H:%M} UTC: a recording"
    for plane, switches in (("ToR", told.tors), ("beyond", told.beyond)):
        for seen in switches:
            yield from ((plane, seen.switch, says) for says in _switch(seen))


def _who(told: Story) -> Iterator[_Row]:
    for holding in told.holdings:
        state = "" if holding.announce else ", no route for now"
        yield "pod", holding.server, f"{holding.pod or 'pod unknown'}{state}"
    for other, state in told.siblings.items():
        yield "also", other.server, f"its other address {state}"
    for server, port in told.ports.items():
        yield "port", server, _port(port)


def _port(port: PortView) -> str:
    flows = "flows not seen" if port.flows is None else f"{port.flows} flows"
    state = f"{port.state}: {port.error}" if port.error else port.state
    return f"{port.port}, OpenFlow port {port.ofport}, {port.mac}, {flows}, {state}"


def _side(side: SideView) -> str:
    words = [
        "up" if side.session_up else "down",
        *([] if side.healthy else ["not relied on"]),
        *(["steers"] if side.steers else []),
        *([side.reason] if side.reason else []),
    ]
    return ", ".join(words)


def _switch(seen: Seen) -> Iterator[str]:
    """Yield a line per path, or what is there instead."""
    if seen.silent:
        yield f"could not be observed: {seen.silent}"
    elif not seen.paths:
        yield f"no host route{': received and refused' if seen.refused else ''}"
    for path in (*seen.paths, *seen.shorter):
        yield f"{'*' if path.best else ' '} {path.prefix} {describe(path)}"

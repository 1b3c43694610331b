"""An audit as one HTML page that needs nothing else: no request leaves it; it works without JavaScript and on paper.

Every text in it comes from somebody else: Jinja escapes all of it, the page's own policy (CSP) lets only the script and
the style run that this file put there, and the script itself writes text, never markup.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ipam.model import IPAddress
from routed import __version__
from routed.audit.compare import commands
from routed.audit.model import Audit, Evidence, Finding, Holding, Kind, PoolSummary, RackSummary
from routed.audit.report.maps import Block, Cell, pool_map, trouble
from routed.audit.report.summary import (
    counted,
    headline,
    places,
    printable,
    recordings,
    sentence,
    severity_name,
    summarize,
)

_PITCH = 11
"""Pixels from cell to cell."""
_SIDE = 10
_ROW = 16
_PLAIN = (Cell.FREE, Cell.USED, Cell.QUIET, Cell.UNUSABLE)
"""Cells that are drawn together, as one shape; the others are links to their findings."""


@dataclass(frozen=True, slots=True)
class Spot:
    """A cell with a finding."""

    x: int
    y: int
    level: Cell
    anchor: str
    title: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """256 addresses as 16 rows of shapes."""

    first: IPAddress
    number: int
    """`first` as a number: the script counts from it."""
    shapes: Mapping[Cell, str]
    """By what the cells show, the path that draws all of them."""
    spots: tuple[Spot, ...]


@dataclass(frozen=True, slots=True)
class PoolCard:
    """A pool's caption and maps."""

    prefix: str
    usage: str
    percent: int | None
    level: str
    drawings: tuple[Drawing, ...]
    left_out: str


@dataclass(frozen=True, slots=True)
class RackCard:
    """A rack's maps and who has what."""

    name: str
    findings: int
    level: str
    """Of its worst finding; empty without one."""
    tors: tuple[tuple[str, str], ...]
    pools: tuple[PoolCard, ...]
    addresses: str
    """A line per address, for people, for the browser's search and for the script."""
    count: str


@dataclass(frozen=True, slots=True)
class FindingCard:
    """A finding and its evidence, plane by plane."""

    anchor: str
    level: str
    kind: str
    rack: str
    where: str
    text: str
    cause: str
    at: str
    """Where to run what is next, in words; empty where it says so itself."""
    next: str
    """What the button copies."""
    planes: tuple[tuple[str, tuple[Evidence, ...]], ...]


def render(audit: Audit) -> str:
    """Return the page."""
    anchors = {id(finding): f"f{at}" for at, finding in enumerate(audit.findings, 1)}
    worst = trouble(audit.findings)
    racks = sorted((_rack(rack, audit, worst, anchors) for rack in audit.racks), key=_rank)
    style, script = _source("page.css"), _source("page.js")
    return (
        _environment()
        .get_template("page.html")
        .render(
            audit=audit,
            summary=(summary := summarize(audit)),
            sentence=sentence(summary),
            recordings=recordings(audit),
            findings=[_finding(finding, anchors[id(finding)]) for finding in audit.findings],
            accepted=[_finding(finding, "") for finding in audit.accepted],
            racks=racks,
            style=Markup(style),  # noqa: S704 - a file of this package
            script=Markup(script),  # noqa: S704 - a file of this package
            style_hash=_hash(style),
            script_hash=_hash(script),
            version=__version__,
            pitch=_PITCH,
            size=_PITCH * _ROW,
        )
    )


def _level(finding: Finding) -> str:
    return "unseen" if finding.kind is Kind.UNOBSERVED else severity_name(finding.severity)


def _finding(finding: Finding, anchor: str) -> FindingCard:
    at, then = commands.split(printable(finding.next))
    return FindingCard(
        anchor=anchor,
        level=_level(finding),
        kind=finding.kind,
        rack=printable(finding.rack),
        where=places(finding.where),
        text=headline(finding),
        cause=printable(finding.cause),
        at=at.rstrip(),
        next=then,
        planes=tuple((plane, tuple(each)) for plane, each in groupby(finding.evidence, key=lambda said: said.plane)),
    )


def _rank(card: RackCard) -> tuple[int, str]:
    """Order racks: the worst first, then by name."""
    order = ("critical", "warning", "unseen", "note", "")
    return order.index(card.level), card.name


def _rack(rack: RackSummary, audit: Audit, worst: Mapping[IPAddress, Finding], anchors: Mapping[int, str]) -> RackCard:
    found = [finding for finding in audit.findings if finding.rack == rack.rack]
    return RackCard(
        name=printable(rack.rack),
        findings=len(found),
        level=_level(max(found, key=lambda finding: finding.severity)) if found else "",
        tors=tuple((printable(tor), _routes(count)) for tor, count in rack.host_routes.items()),
        pools=tuple(_pool(pool, rack, worst, anchors) for pool in rack.pools),
        addresses="".join(_lines(rack.holdings)),
        count=counted(len(rack.holdings), "address", "addresses"),
    )


def _routes(count: int | None) -> str:
    return "could not be observed" if count is None else counted(count, "host route")


def _lines(holdings: Iterable[Holding]) -> Iterator[str]:
    for holding in sorted(holdings, key=lambda each: (each.address.version, int(each.address))):
        note = "" if holding.announce else "  (no route for now)"
        yield f"{holding.address!s:<24} {printable(holding.server):<12} {printable(holding.pod)}{note}\n"


def _pool(
    pool: PoolSummary, rack: RackSummary, worst: Mapping[IPAddress, Finding], anchors: Mapping[int, str]
) -> PoolCard:
    drawn = pool_map(pool, rack, worst)
    many = pool.capacity > 10**6
    used = "?" if pool.used is None else f"{pool.used:,}"
    share = None if pool.used is None or not pool.capacity else min(pool.used / pool.capacity, 1.0)
    return PoolCard(
        prefix=str(pool.prefix),
        usage=f"{used} used" if many else f"{used} of {pool.capacity:,} used",
        percent=None if many or share is None else round(share * 100),
        level="" if share is None or share < 0.9 else "warning" if share < 1 else "critical",
        drawings=tuple(_drawing(block, worst, anchors) for block in drawn.blocks),
        left_out=f"and {counted(drawn.left_out, 'more block')} of 256 in use" if drawn.left_out else "",
    )


def _drawing(block: Block, worst: Mapping[IPAddress, Finding], anchors: Mapping[int, str]) -> Drawing:
    shapes: dict[Cell, list[str]] = {}
    spots = []
    for at, cell in enumerate(block.cells):
        x, y = at % _ROW * _PITCH, at // _ROW * _PITCH
        if cell in _PLAIN:
            shapes.setdefault(cell, []).append(f"M{x} {y}h{_SIDE}v{_SIDE}h-{_SIDE}z")
        elif cell is not Cell.OUTSIDE:
            finding = worst[block.address(at)]
            spots.append(Spot(x, y, cell, anchors[id(finding)], f"{finding.kind}: {headline(finding)}"))
    paths = {cell: "".join(path) for cell, path in shapes.items()}
    return Drawing(block.first, int(block.first), paths, tuple(spots))


def _hash(text: str) -> str:
    """Return a CSP source expression (CSP 3, 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _source(name: str) -> str:
    loader = _environment().loader
    return loader.get_source(_environment(), name)[0] if loader else ""


@functools.cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("routed.audit.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    environment.filters["printable"] = printable
    return environment

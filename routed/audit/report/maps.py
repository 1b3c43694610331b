"""Pools as maps of 256 cells, a cell per address. Pure; drawn by `tables` and `page`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_network

from ipam.model import IPAddress
from routed.audit.model import Finding, Holding, PoolSummary, RackSummary, Severity
from routed.audit.places import is_inside

CELLS = 256
MOST_BLOCKS = 8
"""Maps of one pool; a large prefix is drawn where it is used, and no more than this."""


class Cell(StrEnum):
    """What is known of one address."""

    FREE = "free"
    USED = "used"
    QUIET = "quiet"
    """Held, with no route for now: it starts, leaves, or its server drains."""
    UNUSABLE = "unusable"
    """Network, broadcast, gateway or reserved."""
    WARNING = "warning"
    """A finding is about it; notes look like this, too."""
    CRITICAL = "critical"
    OUTSIDE = "outside"
    """Not in the prefix: pools of fewer than 256 addresses."""


@dataclass(frozen=True, slots=True)
class Block:
    """256 consecutive addresses of a pool."""

    first: IPAddress
    cells: tuple[Cell, ...]

    def address(self, at: int) -> IPAddress:
        """Return the address of a cell."""
        return self.first + at


@dataclass(frozen=True, slots=True)
class PoolMap:
    """The maps of one pool."""

    blocks: tuple[Block, ...]
    left_out: int
    """Blocks with something in them that are not drawn."""


def trouble(findings: Iterable[Finding]) -> dict[IPAddress, Finding]:
    """Return the worst finding of each address that findings are about; the first one among equals."""
    worst: dict[IPAddress, Finding] = {}
    for finding in findings:
        address = subject(finding)
        if address is not None and (address not in worst or worst[address].severity < finding.severity):
            worst[address] = finding
    return worst


def subject(finding: Finding) -> IPAddress | None:
    """Return the one address that a finding is about; None when it is about something else."""
    try:
        network = ip_network(finding.subject)
    except ValueError:
        return None
    return network.network_address if network.num_addresses == 1 else None


def pool_map(pool: PoolSummary, rack: RackSummary, worst: Mapping[IPAddress, Finding]) -> PoolMap:
    """Return the first 256 addresses of a small pool; of a large one, each 256 that have something in them."""
    known = dict.fromkeys(pool.unusable, Cell.UNUSABLE)
    known |= {holding.address: _held(holding) for holding in rack.holdings if is_inside(holding.address, pool.prefix)}
    known |= {address: _bad(finding) for address, finding in worst.items() if is_inside(address, pool.prefix)}
    start = pool.prefix.network_address
    interesting = {(int(address) - int(start)) // CELLS for address in known if known[address] is not Cell.UNUSABLE}
    drawn = sorted(interesting or {0})
    size = min(CELLS, pool.prefix.num_addresses)
    blocks = (_block(start + at * CELLS, size, known) for at in drawn[:MOST_BLOCKS])
    return PoolMap(tuple(blocks), len(drawn[MOST_BLOCKS:]))


def _block(first: IPAddress, size: int, known: Mapping[IPAddress, Cell]) -> Block:
    cells = [known.get(first + at, Cell.FREE) for at in range(size)]
    return Block(first, (*cells, *[Cell.OUTSIDE] * (CELLS - size)))


def _held(holding: Holding) -> Cell:
    return Cell.USED if holding.announce else Cell.QUIET


def _bad(finding: Finding) -> Cell:
    return Cell.CRITICAL if finding.severity is Severity.CRITICAL else Cell.WARNING

"""What a rack's comparison hands on to the fabric's: what only all racks and the spines together can judge. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ipam.model import IPAddress, IPNetwork
from routed.audit.compare.planes import Planes
from routed.audit.compare.poolmap import PoolMap
from routed.audit.compare.standing import steered_to
from routed.audit.model import Route
from routed.audit.places import is_inside


@dataclass(frozen=True, slots=True)
class Beyond:
    """A path by way of the fabric to a single address of a pool, on a switch that is not its rack's only way to it."""

    address: IPAddress
    switch: str
    path: Route


def steered(planes: Planes) -> dict[IPAddress, frozenset[str]]:
    """Return the addresses that a failure lets out of the rack: those that a steering ToR has and is asked to draw."""
    agents = planes.claims.agents
    by_server = {
        server: tors
        for server, standing in planes.standings.items()
        if (tors := steered_to(standing)) and not (server in agents and agents[server].draining)
    }
    candidates = {
        (holding.address, holding.server)
        for holdings in planes.claims.holdings.values()
        for holding in holdings
        if holding.server in by_server
    }
    for table in planes.learned.values() if by_server else ():
        for address, paths in table.pods.items():
            servers = {planes.sorter.servers.get(hop, "") for path in paths for hop in path.next_hops}
            candidates.update((address, server) for server in servers & by_server.keys())
    found: dict[IPAddress, frozenset[str]] = {}
    for address, server in candidates:
        tors = frozenset(tor for tor in by_server[server] if _is_drawn(planes, address, tor))
        if tors:
            found[address] = tors
    return found


def _is_drawn(planes: Planes, address: IPAddress, tor: str) -> bool:
    """Whether a ToR lets an address out, as far as is known."""
    table = planes.learned.get(tor)
    return table is None or any(
        planes.sorter.is_local(path) and (path.communities is None or planes.plan.rack.steering in path.communities)
        for path in table.pods.get(address, ())
    )


def dark(planes: Planes) -> frozenset[str]:
    """Return the ToRs that may be asked to steer unseen: neither they nor every agent answered."""
    if not planes.plan.rack.steering or planes.claims.agents.keys() >= planes.plan.servers.keys():
        return frozenset()
    return frozenset(tor.name for tor in planes.plan.rack.tors) - planes.learned.keys()


def beyond(planes: Planes) -> Iterator[Beyond]:
    """Yield the host routes of any rack's pools that the ToRs have from the fabric."""
    for tor, table in planes.learned.items():
        for path in table.distant:
            yield Beyond(path.prefix.network_address, tor, path)
        for address, paths in table.pods.items():
            for path in paths:
                if not planes.sorter.is_local(path):
                    yield Beyond(address, tor, path)


def lacking(planes: Planes, everywhere: PoolMap) -> dict[str, frozenset[IPNetwork]]:
    """Return by ToR the pools of any rack that it has no route to; a ToR that no server relies on is left out."""
    found = {}
    for tor, table in planes.learned.items():
        relied_on = not planes.standings or any(not side[tor].excused for side in planes.standings.values())
        missing = everywhere.unreached(table.networks)
        if missing and relied_on:
            found[tor] = missing
    return found


def inhabited(planes: Planes) -> frozenset[IPNetwork]:
    """Return the pools with a pod that should be reached, or with host routes where nobody could say."""
    claimed = planes.claims
    addresses = {address for address, holdings in claimed.holdings.items() if any(one.announce for one in holdings)}
    if not claimed.known >= planes.plan.servers.keys():
        for table in planes.learned.values():
            addresses.update(table.pods)
    return frozenset(
        pool.prefix for pool in planes.plan.pools if any(is_inside(address, pool.prefix) for address in addresses)
    )

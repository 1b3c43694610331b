"""Which host routes the routers of a lab should have for its pods, and which they have.

A pod's /32 and /128 belong on both ToRs of its rack, with its server as next hop, and nowhere else: everybody has the
prefixes of the pools with pods in them. Compares the kernels' forwarding tables, which is what packets follow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any

from containerlab.pods import Pod
from routed.settings import Settings

Table = Mapping[str, Mapping[str, Any]]
"""A forwarding table as `Lab.kernel_routes` gives it."""
GATEWAY_INTERFACE = "gw"


@dataclass(frozen=True, slots=True)
class Count:
    """What a router has of the pools."""

    router: str
    hosts_ipv4: int
    hosts_ipv6: int
    pools: int


def deviations(tables: Mapping[str, Table], racks: Sequence[Settings], pods: Sequence[Pod]) -> list[str]:
    """Return a sentence per router and prefix that is missing, wrong or too much; nothing when all is as it should."""
    found = []
    for router, table in tables.items():
        wanted = _wanted(router, racks, pods)
        actual = _host_routes(table, racks)
        found += [
            f"{router}: {prefix} {_hop(actual.get(prefix))}, should be {_hop(wanted.get(prefix))}"
            for prefix in sorted(wanted.keys() | actual.keys())
            if wanted.get(prefix) != actual.get(prefix)
        ]
        for pool, used in _pools(racks, pods).items():
            if (pool in table) != used:
                found.append(f"{router}: {pool} is {'absent' if used else 'there without a pod in it'}")
    return found


def counts(tables: Mapping[str, Table], racks: Sequence[Settings]) -> list[Count]:
    """Return how many host routes and prefixes of the pools every router has."""
    found = []
    for router, table in sorted(tables.items()):
        hosts = _host_routes(table, racks)
        ipv6 = sum(":" in prefix for prefix in hosts)
        found.append(Count(router, len(hosts) - ipv6, ipv6, sum(pool in table for pool in _pools(racks))))
    return found


def _wanted(router: str, racks: Sequence[Settings], pods: Sequence[Pod]) -> dict[str, str]:
    """Return host route -> next hop."""
    rack = next((rack for rack in racks if router in {tor.name for tor in rack.tors}), None)
    if rack is None:
        return {}
    hops = {(name, hop.version): hop for name, server in rack.servers.items() for hop in server.addresses}
    return {
        str(ip_network(address)): str(hops[pod.server, address.version])
        for pod in pods
        if pod.server in rack.servers
        for address in pod.addresses
    }


def _host_routes(table: Table, racks: Sequence[Settings]) -> dict[str, str]:
    """Return host route -> next hop, for everything inside the pools but their gateways."""
    pools = [pool for rack in racks for pool in rack.pools]
    found = {}
    for prefix, route in table.items():
        network = ip_network(prefix)
        inside = any(network.network_address in pool.prefix for pool in pools)
        gateway = any(network.network_address == pool.gateway for pool in pools)
        if network.prefixlen == network.max_prefixlen and inside and not gateway:
            single = route.get("dev") == GATEWAY_INTERFACE
            found[prefix] = str(route.get("gateway")) if single else f"{route.get('nexthops', route)}"
    return found


def _pools(racks: Sequence[Settings], pods: Sequence[Pod] = ()) -> dict[str, bool]:
    """Return the pools' prefixes, and whether a pod has an address of them: a ToR aggregates what there is."""
    addresses = [address for pod in pods for address in pod.addresses]
    return {
        str(pool.prefix): any(address in pool.prefix for address in addresses) for rack in racks for pool in rack.pools
    }


def _hop(hop: str | None) -> str:
    return "absent" if hop is None else f"via {hop}"

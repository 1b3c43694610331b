"""What a running lab looks like, on one page: bonds, BGP sessions, routes. Looks and shows, changes nothing."""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from containerlab.lab import Lab
from containerlab.node import Node

SWITCH_LINKS = ("10.254.", "fd00:254:")
"""Subnets of the links between switches: everybody has them, nobody asks for them."""


@dataclass(frozen=True)
class Member:
    """A member of a server's bond, as LACP sees it."""

    server: str
    member: str
    state: str
    partner: str
    """The partner's LACP system and port."""


@dataclass(frozen=True)
class Session:
    """A BGP session of a router."""

    router: str
    neighbour: str
    asn: int
    ipv4: str
    """State, or the number of prefixes received; the same below."""
    ipv6: str


@dataclass(frozen=True)
class Status:
    """Everything on the page."""

    members: list[Member]
    sessions: list[Session]
    routes: dict[str, dict[str, list[str]]]
    """Prefix -> router -> interfaces that the packets leave by."""

    def as_json(self) -> str:
        """Return it for machines."""
        return json.dumps(asdict(self), indent=1)


def collect(lab: Lab) -> Status:
    """Ask every node. LabError when one does not answer."""
    groups: dict[str, list[Node]] = {}
    for node in lab.nodes.values():
        groups.setdefault(str(node.spec["group"]), []).append(node)
    routers = [*groups.get("spine", []), *groups.get("tor", [])]
    with ThreadPoolExecutor(4) as pool:
        members = pool.map(lambda node: list(_members(node)), groups.get("server", []))
        sessions = pool.map(lambda node: list(_sessions(lab, node.name)), routers)
        tables = list(pool.map(lambda node: lab.kernel_routes(node.name), routers))
        return Status(
            [member for found in members for member in found],
            [session for found in sessions for session in found],
            _matrix({node.name: table for node, table in zip(routers, tables, strict=True)}),
        )


def _members(node: Node) -> Iterator[Member]:
    text = node.run(["ovs-appctl", "lacp/show", "bond0"]).stdout
    for part in re.split(r"^(?=member: )", text, flags=re.MULTILINE)[1:]:
        found = re.match(r"member: (\S+): (.+)", part)
        system, port = (re.search(rf"partner {key}: (\S+)", part) for key in ("sys_id", "port_id"))
        if found and system and port:
            yield Member(node.name, found[1], found[2], f"{system[1]} port {port[1]}")


def _sessions(lab: Lab, router: str) -> Iterator[Session]:
    families = {family: lab.vtysh_json(router, f"show bgp {family} unicast summary") for family in ("ipv4", "ipv6")}
    for address, peer in families["ipv4"].get("peers", {}).items():
        states = [_state(families[family].get("peers", {}).get(address)) for family in ("ipv4", "ipv6")]
        yield Session(router, peer.get("desc", address), peer["remoteAs"], *states)


def _state(peer: dict[str, Any] | None) -> str:
    if peer is None:
        return "not configured"
    return f"{peer['pfxRcd']} prefixes" if peer["state"] == "Established" else str(peer["state"])


def _matrix(tables: dict[str, dict[str, dict[str, Any]]]) -> dict[str, dict[str, list[str]]]:
    matrix: dict[str, dict[str, list[str]]] = {}
    for router, table in tables.items():
        for prefix, route in table.items():
            if not prefix.startswith((*SWITCH_LINKS, "fe80:")):
                hops = route.get("nexthops", [route])
                matrix.setdefault(prefix, {})[router] = sorted(hop.get("dev", route.get("type", "?")) for hop in hops)
    return dict(sorted(matrix.items(), key=lambda item: _order(item[0])))


def _order(prefix: str) -> tuple[int, int, int]:
    network = ipaddress.ip_network(prefix)
    return network.version, int(network.network_address), network.prefixlen


def page(status: Status) -> RenderableType:
    """Return it for people."""
    bonds = Table("server", "member", "LACP", "partner", title="Bonds", title_justify="left")
    for member in status.members:
        bonds.add_row(member.server, member.member, _colour(member.state, "current attached"), member.partner)
    bgp = Table("router", "neighbour", "AS", "IPv4", "IPv6", title="BGP sessions", title_justify="left")
    before = ""
    for session in status.sessions:
        if before not in {"", session.router}:
            bgp.add_section()
        before = session.router
        bgp.add_row(session.router, session.neighbour, str(session.asn), *map(_session, (session.ipv4, session.ipv6)))
    routers = sorted(
        {router for row in status.routes.values() for router in row}, key=lambda name: (name[0] != "s", name)
    )
    routes = Table("prefix", *routers, title="Routes: where packets leave", title_justify="left")
    for prefix, row in status.routes.items():
        routes.add_row(prefix, *(" ".join(row.get(router, ["-"])) for router in routers))
    return Group(bonds, bgp, routes)


def _session(state: str) -> str:
    return state if state.endswith("prefixes") else f"[yellow]{state}[/]"


def _colour(state: str, good: str) -> str:
    return f"[{'green' if state == good else 'red'}]{state}[/]"

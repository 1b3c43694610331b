"""The commands that an engineer runs next. Pure text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Shell
from routed.domain.rack import Server
from routed.domain.workload import host_network

_ON = re.compile(r"on [^:]+: ")


def on(host: str, command: str) -> str:
    """Return a command for a server or switch, or for several."""
    return f"on {host}: {command}"


def split(then: str) -> tuple[str, str]:
    """Return where a command is to be run, in words, and the command; nothing and all where it names no place."""
    match = _ON.match(then)
    return (match[0], then[match.end() :]) if match else ("", then)


@dataclass(frozen=True, slots=True)
class Switches:
    """What to ask switches, in the words of each."""

    shells: Mapping[str, Shell]
    """By switch; FRR's where nothing is said."""

    def paths(self, switch: str, to: IPAddress | IPNetwork) -> str:
        """Return how a switch shows all paths to an address or prefix."""
        prefix = _prefix(to)
        return self._ask(
            switch,
            f"show bgp ipv{to.version} unicast {prefix}",
            f"birdc 'show route {prefix} all'",
            f"look at all its BGP paths to {prefix}",
        )

    def received(self, switches: Sequence[str], server: Server, address: IPAddress) -> str:
        """Return how they show what they received of a server, before their policy."""
        neighbor, prefix = server.addresses[0], _prefix(address)
        return self._ask_all(
            switches,
            (f"show bgp ipv{address.version} unicast neighbors {neighbor} received-routes",),
            f"birdc 'show route {prefix} filtered all'",
            f"look at what the neighbor {neighbor} sent for {prefix}, before the policy",
        )

    def refused(self, switches: Sequence[str], server: Server, address: IPAddress) -> str:
        """Return how they show what they refused of a server, and by which policy."""
        neighbor, prefix = server.addresses[0], _prefix(address)
        return self._ask_all(
            switches,
            (
                f"show bgp ipv{address.version} unicast neighbors {neighbor} filtered-routes",
                f"show route-map FROM-{server.name}",
            ),
            f"birdc 'show route {prefix} filtered all'",
            f"look at what the neighbor {neighbor} sent for {prefix}, before the policy, and at that policy",
        )

    def policy(self, switches: Sequence[str], server: Server, address: IPAddress) -> str:
        """Return how they show the policy that refused a server's route."""
        return self._ask_all(
            switches,
            (f"show route-map FROM-{server.name}",),
            f"birdc 'show route {_prefix(address)} filtered all'",
            f"look at the inbound policy of the neighbor {server.addresses[0]}",
        )

    def next_hop(self, switch: str, hop: IPAddress | None) -> str:
        """Return how it shows the way to a next hop."""
        if hop is None:
            return f"on {switch}: look at how it reaches its next hops"
        ip = _family(hop)
        return self._ask(
            switch,
            f"show {ip} nht | include {hop}",
            f"birdc 'show route for {hop} all'",
            f"look at how it reaches {hop}",
        )

    def forwarding(self, switch: str, address: IPAddress) -> str:
        """Return how it shows what it does with packets to an address."""
        return self._ask(
            switch,
            f"show {_family(address)} route {address}",
            f"ip route get {address}",
            f"look for {address} in its forwarding table",
        )

    def sessions(self, switch: str) -> str:
        """Return how it shows all its sessions."""
        return self._ask(switch, "show bgp summary", "birdc 'show protocols'", "look at its BGP sessions")

    def _ask(self, switch: str, frr: str, bird: str, other: str) -> str:
        return self._ask_all([switch], (frr,), bird, other)

    def _ask_all(self, switches: Sequence[str], frr: Sequence[str], bird: str, other: str) -> str:
        """Return the command of the first switch, and which others it is for: those of the same words."""
        shells = [self.shells.get(switch, Shell.VTYSH) for switch in switches]
        alike = [switch for switch, shell in zip(switches, shells, strict=True) if shell is shells[0]]
        vtysh = " ".join(("vtysh", *(f"-c '{question}'" for question in frr)))
        words = {Shell.VTYSH: vtysh, Shell.BIRDC: bird, Shell.OTHER: other}
        return on(" and ".join(alike), words[shells[0]])


def _prefix(what: IPAddress | IPNetwork) -> IPNetwork:
    return what if isinstance(what, IPNetwork) else host_network(what)


def _family(address: IPAddress) -> str:
    """Return how FRR names the address family of routes."""
    return "ip" if address.version == 4 else "ipv6"

"""The commands that an engineer runs next. Pure text."""

from __future__ import annotations

from ipam.model import IPAddress, IPNetwork
from routed.domain.rack import Server


def on(server: str, command: str) -> str:
    """Return a command for a server."""
    return f"on {server}: {command}"


def on_switch(switch: str, command: str) -> str:
    """Return a command for a switch's shell."""
    return f"on {switch}: vtysh -c '{command}'"


def ip(what: IPAddress | IPNetwork) -> str:
    """Return how switches name the address family of routes."""
    return "ip" if what.version == 4 else "ipv6"


def show(what: IPAddress | IPNetwork) -> str:
    """Return the switch's command that shows all paths to an address or prefix."""
    prefix = what if isinstance(what, IPNetwork) else f"{what}/{what.max_prefixlen}"
    return f"show bgp ipv{what.version} unicast {prefix}"


def received(switch: str, server: Server, address: IPAddress) -> str:
    """Return the command that shows what a switch received of a server, before its policy."""
    neighbor = server.addresses[0]
    return on_switch(switch, f"show bgp ipv{address.version} unicast neighbors {neighbor} received-routes")

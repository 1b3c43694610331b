"""What the agents announce, by address. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ipam.model import IPAddress
from routed.audit.model import Announced, ServerView


@dataclass(frozen=True, slots=True)
class Announcements:
    """The host routes that agents announce."""

    to: Mapping[str, Mapping[str, Mapping[IPAddress, Announced]]]
    """By server, by ToR, by address."""
    by: Mapping[IPAddress, list[str]]
    """The servers that announce an address to any ToR."""
    wide: tuple[tuple[str, Announced], ...]
    """Announced prefixes that are no host routes, with their server."""


def announcements(agents: Mapping[str, ServerView]) -> Announcements:
    """Return what these agents announce, by address."""
    to: dict[str, dict[str, dict[IPAddress, Announced]]] = {}
    by: dict[IPAddress, list[str]] = {}
    wide: list[tuple[str, Announced]] = []
    for name, agent in agents.items():
        mine: dict[str, dict[IPAddress, Announced]] = {}
        to[name] = mine
        for route in agent.announced:
            if route.prefix.prefixlen != route.prefix.max_prefixlen:
                wide.append((name, route))
                continue
            address = route.prefix.network_address
            mine.setdefault(route.tor, {})[address] = route
            announcers = by.setdefault(address, [])
            if not announcers or announcers[-1] != name:
                announcers.append(name)
    return Announcements(to, by, tuple(wide))

"""ExaBGP's text API: values to command lines, answer lines to values. Pure.

An announce and the withdraw that undoes it differ in one word only. That is not style: ExaBGP 5 keeps what it has not
sent yet in one bucket per attribute set and empties them bucket by bucket, so that a withdraw with other attributes (or
none) lands in another bucket and may overtake its announce.
"""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING

from bgp.errors import InvalidRouteError, ProtocolError
from bgp.model import Attributes, IPAddress, IPNetwork

if TYPE_CHECKING:
    from collections.abc import Sequence

HEARTBEAT = "version"
"""Answered at once, without the queue that routes go through."""
SHOW_ROUTES = "show adj-rib out extensive"
SHOW_RECEIVED = "show adj-rib in"
SHOW_SESSIONS = "show neighbor json"
SHOW_CONFIGURATION = "show neighbor configuration"

_ROW = re.compile(
    r"neighbor (?P<neighbor>\S+) local-ip .* family-allowed \S+ ipv[46] unicast (?P<prefix>\S+) next-hop (?P<hop>\S+)"
    r"(?P<attributes>.*)"
)
_DESCRIBED = re.compile(r'^neighbor (\S+) \{\n\s+description "(.*)";$', re.MULTILINE)
_MED = re.compile(r" med (\d+)")
_COMMUNITIES = re.compile(r" (?:large-)?community (\[[^]]*\]|\S+)")


def announce(neighbors: Sequence[IPAddress], prefixes: Sequence[IPNetwork], attributes: Attributes) -> str:
    """Return the command that announces routes to these neighbours; ExaBGP answers it once."""
    return _routes(neighbors, "announce", prefixes, attributes)


def withdraw(neighbors: Sequence[IPAddress], prefixes: Sequence[IPNetwork], attributes: Attributes) -> str:
    """Return the command that withdraws routes which were announced with these very attributes."""
    return _routes(neighbors, "withdraw", prefixes, attributes)


def _routes(neighbors: Sequence[IPAddress], verb: str, prefixes: Sequence[IPNetwork], attributes: Attributes) -> str:
    chosen = " , ".join(f"neighbor {neighbor}" for neighbor in neighbors)
    words = [f"{chosen} {verb} attributes next-hop {attributes.next_hop}"]
    if attributes.med is not None:
        words.append(f"med {attributes.med}")
    for keyword, colons in (("community", 1), ("large-community", 2)):
        values = [text for text in attributes.communities if text.count(":") == colons]
        if values:
            words.append(f"{keyword} [{' '.join(values)}]")
    return " ".join((*words, "nlri", *map(str, prefixes)))


def end_of_rib(neighbor: IPAddress, version: int) -> str:
    """Return the command that tells one neighbour the end of the first update of a family (RFC 4724 section 2)."""
    return f"neighbor {neighbor} announce eor ipv{version} unicast"


def parse_route(line: str) -> tuple[IPAddress, IPNetwork, Attributes]:
    """Return neighbour, prefix and attributes of one row of `SHOW_ROUTES`; ProtocolError when it is something else."""
    row = _ROW.fullmatch(line.strip())
    if row is None:
        raise ProtocolError(f"not a row of adj-rib-out: {line!r}")
    rest = row["attributes"]
    med = _MED.search(rest)
    communities = [word for found in _COMMUNITIES.findall(rest) for word in found.strip("[]").split()]
    try:
        attributes = Attributes(ip_address(row["hop"]), int(med[1]) if med else None, tuple(communities))
        return ip_address(row["neighbor"]), ip_network(row["prefix"]), attributes
    except (ValueError, InvalidRouteError) as error:
        raise ProtocolError(f"not a row of adj-rib-out: {line!r}") from error


def parse_received(line: str) -> tuple[IPAddress, IPNetwork]:
    """Return neighbour and prefix of one row of `SHOW_RECEIVED`; ProtocolError when it is something else."""
    try:
        neighbor, _afi, _safi, prefix, *_rest = line.split()
        return ip_address(neighbor), ip_network(prefix)
    except ValueError as error:
        raise ProtocolError(f"not a row of adj-rib-in: {line!r}") from error


def parse_generations(lines: list[str]) -> dict[IPAddress, str]:
    """Return each neighbour's description in an answer to `SHOW_CONFIGURATION`: the generation that it runs."""
    found = _DESCRIBED.findall("\n".join(lines))
    try:
        return {ip_address(neighbor): description for neighbor, description in found}
    except ValueError as error:
        raise ProtocolError(f"not a configuration: {found}") from error

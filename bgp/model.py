"""Values of the advertisements plane. Pure: no input or output.

Everything that reaches ExaBGP's command line is built from these values, and they hold nothing but numbers: ExaBGP
looks for its commands anywhere in a line, so that a community by the name ``graceful-shutdown`` shuts it down.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from bgp.errors import ConfigError, InvalidRouteError

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

_COMMUNITY = re.compile(r"[0-9]{1,10}(:[0-9]{1,10}){1,2}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PASSWORD = re.compile(r"[!#-&(-:<-\[\]-~]{1,80}")  # what ExaBGP reads as it stands; RFC 2385 allows 80


@dataclass(frozen=True, slots=True)
class RouteKey:
    """One prefix towards one neighbour."""

    neighbor: IPAddress
    prefix: IPNetwork

    def __str__(self) -> str:
        return f"{self.prefix} to {self.neighbor}"

    def __hash__(self) -> int:
        """Hash two numbers: `ipaddress` takes four times as long, and keys are looked up all the time."""
        return hash((int(self.neighbor), int(self.prefix.network_address)))


@dataclass(frozen=True, slots=True)
class Attributes:
    """Path attributes of a route. Equal sets are equal values: communities are kept sorted, without repetition."""

    next_hop: IPAddress
    """Always explicit, of the prefix's family."""
    med: int | None = None
    communities: tuple[str, ...] = ()
    """``a:b`` (RFC 1997) and ``a:b:c`` (RFC 8092), numbers only."""

    def __post_init__(self) -> None:
        if self.med is not None and not 0 <= self.med < 1 << 32:
            raise InvalidRouteError(f"MED {self.med} does not fit 32 bits")
        if not self.communities:
            return
        numbers = sorted({_community(text) for text in self.communities}, key=lambda parts: (len(parts), parts))
        object.__setattr__(self, "communities", tuple(":".join(map(str, parts)) for parts in numbers))


def _community(text: str) -> tuple[int, ...]:
    if not _COMMUNITY.fullmatch(text):
        raise InvalidRouteError(f"community {text!r} is not of the form a:b or a:b:c in numbers")
    parts = tuple(int(part) for part in text.split(":"))
    if max(parts) >> (16 if len(parts) == 2 else 32):
        raise InvalidRouteError(f"community {text!r} has a number that is too large")
    return parts


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A switch to peer with over eBGP."""

    address: IPAddress
    asn: int
    name: str
    """For people: letters, digits, dot, dash, underscore."""
    password: str | None = field(default=None, repr=False)
    """TCP MD5 (RFC 2385)."""
    direct: bool = False
    """On the same link: require that no router is between (GTSM, RFC 5082). False allows multihop."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ConfigError(f"name: {self.name!r} of neighbour {self.address} has characters outside A-Za-z0-9._-")
        if not 0 < self.asn < 1 << 32:
            raise ConfigError(f"asn: {self.asn} of neighbour {self.name} is not an AS number")
        if self.password is not None and not _PASSWORD.fullmatch(self.password):
            raise ConfigError(
                f"password: that of {self.name} must be 1 to 80 printable ASCII characters, none of space, quotes, ; \\"
            )


@dataclass(frozen=True, slots=True)
class SpeakerConfig:
    """This server's side of its sessions. Both unicast families run over every session."""

    local_as: int
    router_id: IPv4Address
    local_address: IPAddress
    """Source of the sessions: the server's own loopback or bridge address."""
    neighbors: tuple[Neighbor, ...]
    hold_time_s: int = 9
    graceful_restart_s: int | None = 30
    """How long the neighbours keep our routes without us (RFC 4724); None leaves the capability out."""
    listen_port: int | None = 179
    """A switch that comes back connects at once; None leaves it to our own attempts, up to a minute apart."""

    def __post_init__(self) -> None:
        addresses = [neighbor.address for neighbor in self.neighbors]
        if len(set(addresses)) != len(addresses):
            raise ConfigError("neighbors: an address is listed twice")
        if any(address.version != self.local_address.version for address in addresses):
            raise ConfigError(f"local_address: {self.local_address} is not of the family of all neighbours")
        if not 0 < self.local_as < 1 << 32:
            raise ConfigError(f"local_as: {self.local_as} is not an AS number")
        if not 3 <= self.hold_time_s <= 65535:
            raise ConfigError(f"hold_time_s: {self.hold_time_s} is not in 3..65535")
        if self.graceful_restart_s is not None and not 0 < self.graceful_restart_s <= 4095:
            raise ConfigError(f"graceful_restart_s: {self.graceful_restart_s} is not in 1..4095; null switches it off")
        if self.listen_port is not None and not 0 < self.listen_port <= 65535:
            raise ConfigError(f"listen_port: {self.listen_port} is not in 1..65535; null switches it off")


class SessionState(StrEnum):
    """What is known of a session."""

    DOWN = "down"
    UP = "up"


@dataclass(frozen=True, slots=True)
class NeighborStatus:
    """A session at one moment."""

    name: str
    asn: int
    state: SessionState
    age_s: float
    """For how long it has been in this state, by a clock that nobody sets."""
    ups: int
    """How often it came up since this speaker started, adoption of a running session included."""
    reason: str
    """Why it went down last; empty when it never did."""
    updates_sent: int
    """UPDATE messages since this speaker started."""
    routes: dict[int, int]
    """Routes that the neighbour was told in this session, by IP version."""
    defaults: frozenset[int]
    """IP versions of which the neighbour gives us a default route: it has a way out."""
    end_of_rib: bool
    """The neighbour knows that it was told everything (RFC 4724 section 2)."""

"""What one ToR of a rack needs, as values without a vendor's words: peers, addresses, what it accepts and exports.

Pure data; `plan` makes it from a rack file. What nobody said is a `Placeholder`, never an invented value.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_interface, ip_network
from typing import NamedTuple, Self

from routed.torconfig.settings import IPAddress, IPInterface

IPNetwork = IPv4Network | IPv6Network


class Placeholder(str):
    """A value that the rack file does not have: ``<gateway-mac>``."""

    __slots__ = ()

    def __new__(cls, name: str) -> Self:
        """Make the text that stands for the value called `name`."""
        return super().__new__(cls, f"<{name}>")


@dataclass(frozen=True, slots=True)
class Subnet:
    """A prefix behind the rack's gateway."""

    prefix: IPNetwork
    gateway: IPAddress

    @property
    def version(self) -> int:
        """The IP version."""
        return self.prefix.version

    @property
    def bits(self) -> int:
        """The prefix length of one address."""
        return self.prefix.max_prefixlen

    @property
    def interface(self) -> IPInterface:
        """The gateway's address with the subnet's prefix length."""
        return ip_interface(f"{self.gateway}/{self.prefix.prefixlen}")

    @property
    def host_route(self) -> IPNetwork:
        """The gateway's address as a prefix."""
        return ip_network(self.gateway)


@dataclass(frozen=True, slots=True)
class Pool(Subnet):
    """A prefix that pods get addresses of."""

    barred: tuple[IPNetwork, ...]
    """No pod's: the gateway's, network and broadcast addresses, and what the rack file reserves. Sorted, disjoint."""


class PrefixRule(NamedTuple):
    """A line of a prefix list."""

    action: str
    """permit or deny."""
    prefix: IPNetwork
    inside: bool
    """Whether it is about the addresses in the prefix, one by one, not about the prefix itself."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server: a BGP neighbour, and the next hop of its pods' routes."""

    name: str
    peer: IPAddress
    """Where its end of the session is: its address of the loopbacks' family."""
    addresses: Mapping[int, IPAddress]
    """By IP version."""
    port: str
    key: int | Placeholder
    """Port channel number and LACP key."""


@dataclass(frozen=True, slots=True)
class Session:
    """A BGP session with a spine, over one link."""

    spine: str
    asn: int | Placeholder
    peer: IPAddress | Placeholder
    transport: int
    """IP version that the session runs over."""
    families: tuple[int, ...]
    """IP versions of the routes that it carries."""


@dataclass(frozen=True, slots=True)
class Uplink:
    """A link to a spine."""

    spine: str
    interface: str
    addresses: Mapping[int, IPInterface | Placeholder]
    """This ToR's end, by IP version."""
    sessions: tuple[Session, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a ToR's configuration says."""

    rack: str
    name: str
    letter: str
    """A for the first ToR of the rack file, B for the second."""
    twin: str | None
    """The other ToR."""
    asn: int
    loopback: IPAddress
    router_id: IPv4Address
    gateway_interface: str
    gateway_mac: str
    hosts: tuple[Subnet, ...]
    pools: tuple[Pool, ...]
    servers: tuple[Server, ...]
    server_asn: int
    hold_s: int
    keepalive_s: int
    restart_s: int
    """How long a server's routes are kept while its speaker is away; 0 for not at all."""
    passive: bool
    """The servers' speakers do not listen on BGP's port, so this ToR waits for them."""
    md5: str | None
    """The TCP MD5 key (RFC 2385); None when the agents use none."""
    maximum_routes: int
    maximum_routes_restart_min: int
    community: str | None
    """The steering community: ``asn:value``, or a large one of three parts; None when the agents do not steer."""
    uplinks: tuple[Uplink, ...]
    uplink_delay_s: int
    bfd_ms: int
    system_id: str
    port_ids: tuple[int, int]
    """First and last LACP port number of this ToR."""
    vlan: int | None
    """Tag on the servers' links."""

    @property
    def large(self) -> bool:
        """Whether the steering community is a large one (RFC 8092)."""
        return (self.community or "").count(":") == 2

    @property
    def versions(self) -> tuple[int, ...]:
        """The IP versions of the rack: 4, 6 or both."""
        return tuple(sorted({subnet.version for subnet in (*self.hosts, *self.pools)}))

    def host(self, version: int) -> Subnet | None:
        """Return the servers' subnet of this IP version."""
        return next((host for host in self.hosts if host.version == version), None)

    def pools_of(self, version: int) -> tuple[Pool, ...]:
        """Return the pools of this IP version."""
        return tuple(pool for pool in self.pools if pool.version == version)

    def aggregates(self, version: int) -> tuple[PrefixRule, ...]:
        """Return the prefix list of the pools as the fabric beyond the rack knows them."""
        return tuple(PrefixRule("permit", pool.prefix, inside=False) for pool in self.pools_of(version))

    def pods(self, version: int) -> tuple[PrefixRule, ...]:
        """Return the prefix list of host routes that a server may announce; the first rule that matches decides."""
        pools = self.pools_of(version)
        barred = [
            PrefixRule("deny", prefix, inside=prefix.prefixlen < prefix.max_prefixlen)
            for pool in pools
            for prefix in pool.barred
        ]
        return (*barred, *(PrefixRule("permit", pool.prefix, inside=True) for pool in pools))

    @property
    def exports(self) -> tuple[tuple[int, str], ...]:
        """What the spines get, as IP version and prefix list; PODS only with the steering community."""
        found = []
        for version in self.versions:
            names = ["LOOPBACK"] if version == self.loopback.version else []
            names += ["HOST-NET", "HOSTS"] if self.host(version) else []
            names += ["POOLS"] if self.pools_of(version) else []
            names += ["PODS"] if self.pools_of(version) and self.community else []
            found += [(version, name) for name in names]
        return tuple(found)

    @property
    def spine_groups(self) -> Mapping[str, tuple[Session, ...]]:
        """The sessions with spines by the routes that they carry: one group, or one per IP version."""
        found: dict[str, list[Session]] = {}
        for uplink in self.uplinks:
            for session in uplink.sessions:
                name = "SPINE" if session.families == self.versions else f"SPINE{session.transport}"
                found.setdefault(name, []).append(session)
        return {name: tuple(sessions) for name, sessions in sorted(found.items())}

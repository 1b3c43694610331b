"""What the rack file says: two ToRs, the subnets behind their common gateways, this server's place among them."""

from __future__ import annotations

from dataclasses import dataclass

from ovs_flows.rows import Stranger
from routed.domain.workload import IPAddress, IPNetwork


@dataclass(frozen=True, slots=True)
class Subnet:
    """A prefix and its gateway, which both ToRs of the rack hold with the same MAC address."""

    prefix: IPNetwork
    gateway: IPAddress


@dataclass(frozen=True, slots=True)
class Tor:
    """One switch of the stackless pair, as a BGP neighbour."""

    name: str
    asn: int
    address: IPAddress
    """Its own loopback: the gateway's address is on both switches and cannot be a neighbour's."""


@dataclass(frozen=True, slots=True)
class FlatNetwork:
    """A flat network whose pods are on the servers' bridges until they have moved."""

    vlans: tuple[int, ...]
    prefixes: tuple[IPNetwork, ...]


@dataclass(frozen=True, slots=True)
class Rack:
    """A ToR pair and what hangs below it."""

    name: str
    tors: tuple[Tor, ...]
    hosts: tuple[Subnet, ...]
    """Where the servers' own addresses live; at most one per family."""
    pools: tuple[Subnet, ...]
    """Where pods' addresses come from; any number per family."""
    services: tuple[IPNetwork, ...] = ()
    """Destinations that the host itself serves for its pods (ClusterIP ranges, node-local DNS)."""
    vlan: int | None = None
    """Tag of the uplink, None for untagged."""
    steering: str | None = None
    """Community that makes a ToR export a host route through the spines; None when the ToRs know of none."""
    flat: FlatNetwork | None = None

    def gateway(self, address: IPAddress) -> IPAddress:
        """Return the gateway of the pool that holds this pod address; LookupError when no pool does."""
        for pool in self.pools:
            if address.version == pool.prefix.version and address in pool.prefix:
                return pool.gateway
        raise LookupError(f"{address} is in no pool of rack {self.name}")


@dataclass(frozen=True, slots=True)
class Server:
    """This server, as the rack file lists it."""

    name: str
    asn: int
    addresses: tuple[IPAddress, ...]
    """The host's own addresses on the bridge, at most one per family: next hops of its pods' routes."""

    def address(self, version: int) -> IPAddress | None:
        """Return the host's address of IP ``version``, None when it has none."""
        return next((address for address in self.addresses if address.version == version), None)


@dataclass(frozen=True, slots=True)
class Uplink:
    """What was observed of the way out of this server; it changes while the agent runs."""

    ofports: tuple[int, ...]
    """OpenFlow port numbers: one for a NIC or a kernel bond, one per member for an OVS bond."""
    devices: tuple[str, ...]
    """The network device behind each."""
    mac: str
    """The bridge's own MAC address: what the fabric sees as the source of everything from here."""
    gateway_mac: str | None
    """None until the gateway has answered."""
    mtu: int
    """Bytes."""
    strangers: tuple[Stranger, ...] = ()
    """Ports on the bridge that are not ours."""
    shared: bool = False
    """What pods send leaves by it, with its MAC address; there is no bridge."""
    polices: bool = False
    """Whether pods' limits are policed by flows: a NIC that forwards by itself passes no queue of the kernel."""

"""The only place where policy lives: what should exist on this server, as a pure function of the snapshot.

`plan` answers for one owner at a time: the host itself, the stock of plugged slots, a VF's port, or one attachment. For
every plane it names the objects that must exist (a value) and those that must not (None). It never says what to do
about it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from bgp.model import Attributes, RouteKey
from ovs_flows.cookies import BASE_OBJECT, cookie
from ovs_flows.meters import from_pod, to_pod
from ovs_flows.model import Entry, Mirror, Port
from ovs_flows.pipeline import BridgeView, Endpoint, Flat, base, endpoint
from routed.domain.sides import Health
from routed.domain.snapshot import Place, Snapshot
from routed.domain.wiring import FENCED, VF_SLOTS, Door, Limit, Link, Passage, Wire, ofport, wire_name
from routed.domain.workload import (
    Attachment,
    AttachmentId,
    IPAddress,
    IPNetwork,
    Wishes,
    host_interface,
    host_network,
)

PLANES = ("wires", "representors", "ports", "limits", "links", "vf_links", "flows", "mirrors", "advertisements")
"""Of a server with a bridge, in the order in which an attachment grows; it shrinks the other way round."""

_MOST = 2**32 - 1
"""Bytes a second: what a limit of the kernel can be; 34 Gbit/s."""


class Standing(Enum):
    """Owners that are there without any pod."""

    HOST = "host"
    """The host's own share of the pipeline."""
    STOCK = "stock"
    """Veth pairs plugged ahead of need."""


@dataclass(frozen=True, slots=True)
class MirrorOf:
    """Owner of the copies of a pod's packets: one that cannot be made is no fault of its pod, nor of another mirror."""

    attachment: AttachmentId

    def __str__(self) -> str:
        """Return it as logs have it."""
        return f"mirror of {self.attachment}"


@dataclass(frozen=True, slots=True)
class VfPort:
    """Owner of one VF's representor, which is plugged ahead of need; one that cannot be is no fault of the others."""

    slot: int

    def __str__(self) -> str:
        return f"vf slot {self.slot}"


Owner = AttachmentId | Standing | VfPort | MirrorOf


def _nothing() -> Mapping[Any, Any]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Intent:
    """What one owner wants of every plane: key -> value, or None for what must not exist."""

    wires: Mapping[str, Wire | None] = field(default_factory=_nothing)
    representors: Mapping[str, Wire | None] = field(default_factory=_nothing)
    ports: Mapping[str, Port | None] = field(default_factory=_nothing)
    limits: Mapping[str, Limit | None] = field(default_factory=_nothing)
    links: Mapping[AttachmentId, Link | None] = field(default_factory=_nothing)
    vf_links: Mapping[AttachmentId, Link | None] = field(default_factory=_nothing)
    flows: Mapping[int, frozenset[Entry] | None] = field(default_factory=_nothing)
    mirrors: Mapping[str, Mirror | None] = field(default_factory=_nothing)
    doors: Mapping[str, Door | None] = field(default_factory=_nothing)
    passages: Mapping[IPNetwork, Passage | None] = field(default_factory=_nothing)
    advertisements: Mapping[RouteKey, Attributes | None] = field(default_factory=_nothing)

    def __iter__(self) -> Iterator[Mapping[Any, Any]]:
        """Iterate over the planes of a server with a bridge, in growth order."""
        return iter(self.of(PLANES))

    def of(self, planes: Sequence[str]) -> tuple[Mapping[Any, Any], ...]:
        """Return what is wanted of these planes."""
        return tuple(getattr(self, plane) for plane in planes)


def owners(snapshot: Snapshot) -> tuple[Owner, ...]:
    """Return all owners of this snapshot, those first that others build on."""
    ports = map(VfPort, snapshot.place.vfs)
    return (Standing.HOST, Standing.STOCK, *ports, *snapshot.attachments, *map(MirrorOf, snapshot.mirrors))


def plan(snapshot: Snapshot, owner: Owner) -> Intent:
    """Return what `owner` wants of every plane; nothing at all when the snapshot does not know it."""
    if isinstance(owner, VfPort):
        return _representor(owner.slot, snapshot.place)
    if isinstance(owner, MirrorOf):
        return _mirror(snapshot, owner.attachment)
    if owner is Standing.HOST:
        return _host(snapshot.place)
    if owner is Standing.STOCK:
        return _stock(snapshot.slots, snapshot.uplink.mtu, bridge=not snapshot.uplink.shared)
    attachment = snapshot.attachments.get(owner)
    return Intent() if attachment is None else _pod(snapshot, attachment)


def _pod(snapshot: Snapshot, attachment: Attachment) -> Intent:
    if attachment.leaving:
        return _leaving(attachment, snapshot.place)
    grown = _attachment(attachment, snapshot.place)
    if attachment.id in snapshot.mirrors:
        grown = replace(grown, mirrors={})
    if snapshot.owner_elsewhere(attachment) is not None:
        cut_off = {plane: dict.fromkeys(getattr(grown, plane)) for plane in ("flows", "passages", "advertisements")}
        return replace(grown, **cut_off)
    return replace(grown, advertisements=dict.fromkeys(grown.advertisements)) if snapshot.draining else grown


@lru_cache(maxsize=8)
def _host(place: Place) -> Intent:
    rack, server, uplink = place.rack, place.server, place.uplink
    if uplink.shared:
        return Intent(passages={pool.prefix: FENCED for pool in rack.pools})
    view = BridgeView(
        uplinks=uplink.ofports,
        host_mac=uplink.mac,
        gateway_mac=uplink.gateway_mac,
        host_addresses=server.addresses,
        pools=tuple(pool.prefix for pool in rack.pools),
        services=rack.services,
        vlan=rack.vlan,
        idle=_idle(place),
        flat=_flat(place),
    )
    return Intent(flows={cookie(BASE_OBJECT): base(view)})


def _flat(place: Place) -> Flat | None:
    """Return the flat network and who takes part in it: strangers in its VLANs, and those that tag for themselves."""
    flat, strangers = place.rack.flat, place.uplink.strangers
    if flat is None:
        return None
    return Flat(
        vlans=flat.vlans,
        prefixes=flat.prefixes,
        access=tuple(one.ofport for one in strangers if one.tag in flat.vlans),
        trunks=tuple(one.ofport for one in strangers if one.tag is None),
    )


@lru_cache(maxsize=8)
def _stock(slots: int, mtu: int, *, bridge: bool) -> Intent:
    names = {wire_name(slot): slot for slot in range(slots)}
    return Intent(
        wires={name: Wire(mtu) for name in names},
        ports={name: Port(name, ofport(slot)) for name, slot in names.items()} if bridge else {},
    )


@lru_cache(maxsize=4096)
def _representor(slot: int, place: Place) -> Intent:
    """Plug it before a pod comes: a port without flows lets nothing pass, and flows are all that the pod needs then."""
    vf = place.vfs.get(slot)
    if vf is None:
        return Intent()
    return Intent(
        representors={vf.representor: Wire(place.uplink.mtu)},
        ports={vf.representor: Port(vf.representor, ofport(slot))},
    )


def _mirror(snapshot: Snapshot, key: AttachmentId) -> Intent:
    """Return the mirror of a pod, or that there is none; a pod that leaves sees to that itself, before it is gone."""
    pod = snapshot.attachments.get(key)
    if pod is None or pod.leaving:
        return Intent()
    return Intent(mirrors={snapshot.place.wire(pod): snapshot.mirrors.get(key)})


@lru_cache(maxsize=4096)
def _attachment(attachment: Attachment, place: Place) -> Intent:
    """Return the intent of a live attachment; cached, since every look at a plane asks again for all of them."""
    name, mac, slot, uplink = place.wire(attachment), attachment.mac, attachment.slot, place.uplink
    gateways = tuple(place.rack.gateway(address) for address in attachment.addresses)
    link = Link(
        wire=name,
        netns=attachment.netns,
        ifname=attachment.id.ifname,
        mac=place.mac(attachment),
        mtu=attachment.mtu(uplink.mtu),
        addresses=tuple(host_interface(address) for address in attachment.addresses),
        gateways=gateways,
        gateway_mac=uplink.mac,
        routes=frozenset(to for gateway in gateways for to in attachment.destinations(gateway.version)),
        rdma=attachment.wishes.rdma,
    )
    told = _attributes(place)
    common = Intent(
        advertisements={key: told.get((key.neighbor, key.prefix.version)) for key in _routes(attachment, place)}
    )
    if uplink.shared:
        return _sharing(common, link, attachment, place)
    polices = uplink.polices or slot >= VF_SLOTS  # a NIC that forwards by itself passes no queue of the server's
    pod = Endpoint(ofport=ofport(slot), mac=mac, addresses=attachment.addresses, gateways=gateways)
    plugged = replace(
        common,
        ports={name: Port(name, ofport(slot))},
        flows={cookie(slot + 1): endpoint(_policed(pod, slot, attachment.wishes) if polices else pod)},
        mirrors={name: None},
    )
    if slot >= VF_SLOTS:
        return replace(plugged, representors={name: Wire(uplink.mtu)}, vf_links={attachment.id: link})
    limits = {name: None if polices else _limit(attachment.wishes)}
    return replace(plugged, wires={name: Wire(uplink.mtu)}, limits=limits, links={attachment.id: link})


def _sharing(common: Intent, link: Link, attachment: Attachment, place: Place) -> Intent:
    """Add what a pod needs that shares the uplink: a door to it and to its server, and that the uplink lets it pass.

    While the gateway's MAC address is not known, the uplink's own stands for it: pods of one server hear each other.
    """
    versions = {address.version for address in attachment.addresses}
    own = frozenset(address for address in place.server.addresses if address.version in versions)
    served = {to for to in place.rack.services if to.version in versions}
    gateway_mac = place.uplink.gateway_mac or place.uplink.mac
    return replace(
        common,
        wires={link.wire: Wire(place.uplink.mtu)},
        links={attachment.id: replace(link, gateway_mac=gateway_mac)},
        doors={
            link.wire: Door(
                mac=gateway_mac,
                pod_mac=link.mac,
                addresses=frozenset(attachment.addresses),
                sources=own,
                served=frozenset(served.union(map(host_network, own))),
            )
        },
        passages={host_network(address): Passage(link.wire) for address in attachment.addresses},
    )


def _leaving(attachment: Attachment, place: Place) -> Intent:
    """Return what must go with an attachment. The slot stays plugged: it belongs to the stock."""
    name = place.wire(attachment)
    gone = Intent(
        flows={cookie(attachment.slot + 1): None},
        mirrors={name: None},
        doors={name: None},
        passages={host_network(address): None for address in attachment.addresses},
        advertisements=dict.fromkeys(_routes(attachment, place)),
    )
    if attachment.slot >= VF_SLOTS:
        return replace(gone, vf_links={attachment.id: None})
    return replace(gone, limits={name: None}, links={attachment.id: None})


def _limit(wishes: Wishes) -> Limit | None:
    """Return what a slot may carry, in what the kernel counts in; None when the pod asks for no limit."""
    if wishes.ingress_bps is None and wishes.egress_bps is None:
        return None
    to_pod, from_pod = (
        None if bits is None else min(bits // 8, _MOST) for bits in (wishes.ingress_bps, wishes.egress_bps)
    )
    return Limit(to_pod, from_pod)


def _policed(pod: Endpoint, slot: int, wishes: Wishes) -> Endpoint:
    """Return the endpoint with the meters that the pod asks for."""
    ingress, egress = wishes.ingress_bps, wishes.egress_bps
    return replace(
        pod,
        to_pod=None if ingress is None else to_pod(slot + 1, ingress),
        from_pod=None if egress is None else from_pod(slot + 1, egress),
    )


def steers(snapshot: Snapshot, neighbor: IPAddress) -> bool:
    """Whether this ToR is asked to draw the pods' traffic to itself, since the other one cannot be relied on."""
    return any(told.communities for (to, _), told in _attributes(snapshot.place).items() if to == neighbor)


@lru_cache(maxsize=8)
def _attributes(place: Place) -> Mapping[tuple[IPAddress, int], Attributes]:
    """Return what each ToR is told with a host route of each IP version; a ToR that is left out is told of none.

    A ToR attracts the pools' aggregates even while it cannot reach this server. So while one side is worse than the
    other, the better ToR is asked to let the host routes out through the spines, where longest-prefix match prefers
    them, and a ToR behind a cut link is told of none. Sides that are equally bad stay as they are: no announcement of
    ours would make it better.
    """
    rack, sides = place.rack, place.sides
    communities: dict[IPAddress, tuple[str, ...]] = {tor.address: () for tor in rack.tors}
    if sides and rack.steering is not None:
        best, worst = max(side.health for side in sides), min(side.health for side in sides)
        communities = {
            tor.address: (rack.steering,) if side.health is best and best > worst else ()
            for tor, side in zip(rack.tors, sides, strict=True)
            if side.health > Health.CUT or best is Health.CUT
        }
    return {
        (neighbor, address.version): Attributes(address, None, chosen)
        for neighbor, chosen in communities.items()
        for address in place.server.addresses
    }


def _idle(place: Place) -> frozenset[int]:
    """Return the uplinks that nothing is sent out of: those to a ToR that is cut off or silent, unless both are."""
    bad = {side.member for side in place.sides if side.health < Health.HOLDING}
    if len(bad) == len(place.sides):
        return frozenset()  # also where nobody watches the sides
    uplink = place.uplink
    return frozenset(number for number, device in zip(uplink.ofports, uplink.devices, strict=True) if device in bad)


def _routes(attachment: Attachment, place: Place) -> list[RouteKey]:
    """Return the host routes towards each ToR, for the families that this server can be the next hop of."""
    families = {address.version for address in place.server.addresses}
    prefixes = [host_network(address) for address in attachment.addresses if address.version in families]
    return [RouteKey(tor.address, prefix) for tor in place.rack.tors for prefix in prefixes]

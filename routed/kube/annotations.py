"""What a pod's annotations ask of the network. Pure.

An annotation that makes no sense fails the pod, with a message that names it: a pod that asked for an address must not
quietly run with another one. Bandwidth is what the bandwidth plugin of CNI understands, so that pods need no change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from decimal import Decimal
from ipaddress import ip_address, ip_network

from routed.domain.rack import Rack
from routed.domain.workload import IPAddress, StaticRoute, Wishes
from routed.kube.api import Document
from routed.kube.errors import Malformed

IP = "routed.dev/ip"
STICKY = "routed.dev/sticky"
MTU = "routed.dev/mtu"
ROUTES = "routed.dev/routes"
RDMA = "routed.dev/rdma"
INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
ANNOTATIONS = frozenset({IP, STICKY, MTU, ROUTES, RDMA, INGRESS, EGRESS})
_MTU = range(1280, 65536)
"""From the least that IPv6 works with (RFC 8200 5)."""
_MOST_ROUTES = 32
"""All of a pod's requests to the kernel go out in one message."""
_BANDWIDTH = (10**3, 10**15)
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([kMGTP])|([KMGTP])i|[eE]([0-9]{1,2}))?")
_POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


def wishes(pod: Document) -> Wishes:
    """Return what a Pod's annotations say; Malformed names the annotation and what is wrong with it."""
    metadata = pod["metadata"]
    said: Mapping[str, str] = metadata.get("annotations") or {}
    addresses = _addresses(said[IP]) if IP in said else ()
    return Wishes(
        addresses=addresses,
        sticky=_sticky(said[STICKY], metadata, addresses) if STICKY in said else False,
        mtu=_mtu(said[MTU]) if MTU in said else None,
        rdma=_flag(RDMA, said[RDMA]) if RDMA in said else False,
        ingress_bps=_bandwidth(INGRESS, said[INGRESS]) if INGRESS in said else None,
        egress_bps=_bandwidth(EGRESS, said[EGRESS]) if EGRESS in said else None,
        routes=_routes(said[ROUTES]) if ROUTES in said else (),
    )


def check(asked: Wishes, rack: Rack, mtu: int) -> None:
    """Raise Malformed, naming the annotation, when this server cannot do it; ``mtu`` is what its uplink takes, bytes.

    Whether an address of the rack can be had now is not looked at: the ledger knows.
    """
    prefixes = [pool.prefix for pool in rack.pools]
    for address in asked.addresses:
        if not any(address in prefix for prefix in prefixes):
            where = ", ".join(map(str, prefixes))
            raise _wrong(IP, ", ".join(map(str, asked.addresses)), f"{address} is in no pool of this rack ({where})")
    if asked.mtu is not None and asked.mtu > mtu:
        why = f"the uplink of this server takes {mtu} bytes; write at most that, or raise the MTU of the uplink first"
        raise _wrong(MTU, str(asked.mtu), why)
    gateways = {pool.gateway for pool in rack.pools}
    for route in asked.routes:
        if route.destination.version not in {gateway.version for gateway in gateways}:
            raise _wrong(ROUTES, str(route.destination), f"this rack has no IPv{route.destination.version} pool")
        if route.gateway not in {None, *gateways}:
            one_hop = ", ".join(sorted(str(one) for one in gateways if one.version == route.destination.version))
            why = f"nothing but the rack's gateway ({one_hop}) is one hop away from a pod; leave gw out, or write that"
            raise _wrong(ROUTES, str(route.gateway), why)
        if route.destination.num_addresses == 1 and route.destination.network_address in gateways:
            raise _wrong(ROUTES, str(route.destination), "a gateway is reached without a route")


def _addresses(text: str) -> tuple[IPAddress, ...]:
    _refuse_zones(IP, text)
    try:
        addresses = tuple(ip_address(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise _wrong(IP, text, f"{error}; write one address, or one of each family separated by a comma") from error
    if len({address.version for address in addresses}) < len(addresses):
        raise _wrong(IP, text, "a pod gets one address of each family")
    return tuple(sorted(addresses, key=lambda address: address.version))


def _refuse_zones(key: str, text: str) -> None:
    """Raise Malformed when addresses have zones (RFC 4007 11): `ipaddress` takes those for addresses of their own."""
    if "%" in text:
        raise _wrong(key, text, "an address of the network is the same everywhere; write it without %ZONE")


def _sticky(text: str, metadata: Document, addresses: tuple[IPAddress, ...]) -> bool:
    sticky = _flag(STICKY, text)
    if sticky and addresses:
        raise _wrong(STICKY, text, f"{IP} already says which address the pod gets; keep one of the two")
    owners = metadata.get("ownerReferences") or ()
    if sticky and not any(owner["kind"] == "StatefulSet" and owner.get("controller") for owner in owners):
        raise _wrong(STICKY, text, "only a StatefulSet's pods come back under the same name")
    return sticky


def _flag(key: str, text: str) -> bool:
    if text not in {"true", "false"}:
        raise _wrong(key, text, 'write "true" or "false"')
    return text == "true"


def _mtu(text: str) -> int:
    if not text.isdecimal() or len(text) > len(str(_MTU[-1])) or int(text) not in _MTU:
        raise _wrong(MTU, text, f"write a number of bytes from {_MTU[0]} to {_MTU[-1]}")
    return int(text)


def _bandwidth(key: str, text: str) -> int:
    """Return bits a second; a quantity of Kubernetes, of which the bandwidth plugin takes whole bits only."""
    found = _QUANTITY.fullmatch(text)
    if found is None:
        raise _wrong(key, text, "write bits a second, such as 10M, 1.5G or 512Ki")
    number, decimal, binary, exponent = found.groups()
    factor = (
        10 ** (3 * _POWERS[decimal]) if decimal else 1024 ** _POWERS[binary] if binary else 10 ** int(exponent or 0)
    )
    bits = Decimal(number) * factor
    least, most = _BANDWIDTH
    if not least <= bits <= most:
        raise _wrong(key, text, "write from 1k to 1P bits a second")
    return int(bits)


def _routes(text: str) -> tuple[StaticRoute, ...]:
    form = 'write a list such as [{"dst": "10.50.0.0/16"}, {"dst": "fd00:50::/48", "gw": "fd00:101::1"}]'
    _refuse_zones(ROUTES, text)
    try:
        entries = json.loads(text)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise _wrong(ROUTES, text, form)
        if unknown := {key for entry in entries for key in entry} - {"dst", "gw"}:
            raise _wrong(ROUTES, text, f"unknown key {', '.join(sorted(unknown))}; {form}")
        routes = tuple(
            StaticRoute(ip_network(entry["dst"]), ip_address(entry["gw"]) if "gw" in entry else None)
            for entry in entries
        )
    except (ValueError, KeyError) as error:
        raise _wrong(ROUTES, text, f"{error}; {form}") from error
    if len(routes) > _MOST_ROUTES:
        raise _wrong(ROUTES, text, f"write at most {_MOST_ROUTES} routes")
    if len({route.destination for route in routes}) < len(routes):
        raise _wrong(ROUTES, text, "name each destination once")
    for route in routes:
        if route.destination.prefixlen == 0:
            raise _wrong(ROUTES, text, f"every pod has a default route already; leave {route.destination} out")
        if route.gateway is not None and route.gateway.version != route.destination.version:
            raise _wrong(ROUTES, text, f"{route.destination} cannot have the gateway {route.gateway}")
    return routes


def _wrong(key: str, text: str, why: str) -> Malformed:
    return Malformed(f"annotation {key}: {text!r}: {why}")

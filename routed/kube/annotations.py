"""What a pod's annotations ask of the network. Pure.

An annotation that makes no sense fails the pod, with a message that names it: a pod that asked for an address must not
quietly run with another one. Bandwidth is what the bandwidth plugin of CNI understands, so that pods need no change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from ipaddress import ip_address, ip_network

from ipam.model import IPAddress, IPNetwork
from routed.kube.api import Document
from routed.kube.errors import Malformed

IP = "routed.dev/ip"
STICKY = "routed.dev/sticky"
MTU = "routed.dev/mtu"
ROUTES = "routed.dev/routes"
INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
_MTU = range(1280, 65536)
"""From the least that IPv6 works with (RFC 8200 5)."""
_BANDWIDTH = (10**3, 10**15)
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:([kMGTP])|([KMGTP])i|[eE]([0-9]{1,2}))?")
_POWERS = {"k": 1, "K": 1, "M": 2, "G": 3, "T": 4, "P": 5}


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """A route inside the pod."""

    destination: IPNetwork
    gateway: IPAddress | None = None
    """None for the gateway of the pod's own address."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a pod asks for; as it stands here, nothing at all."""

    addresses: tuple[IPAddress, ...] = ()
    """Fixed addresses, at most one of each family."""
    sticky: bool = False
    """The next pod of this name wants the same addresses again."""
    mtu: int | None = None
    """Bytes."""
    ingress_bps: int | None = None
    """Bits a second towards the pod."""
    egress_bps: int | None = None
    """Bits a second from the pod."""
    routes: tuple[StaticRoute, ...] = ()


def wishes(pod: Document) -> Wishes:
    """Return what a Pod's annotations say; Malformed names the annotation and what is wrong with it."""
    metadata = pod["metadata"]
    said: Mapping[str, str] = metadata.get("annotations") or {}
    addresses = _addresses(said[IP]) if IP in said else ()
    return Wishes(
        addresses=addresses,
        sticky=_sticky(said[STICKY], metadata, addresses) if STICKY in said else False,
        mtu=_mtu(said[MTU]) if MTU in said else None,
        ingress_bps=_bandwidth(INGRESS, said[INGRESS]) if INGRESS in said else None,
        egress_bps=_bandwidth(EGRESS, said[EGRESS]) if EGRESS in said else None,
        routes=_routes(said[ROUTES]) if ROUTES in said else (),
    )


def _addresses(text: str) -> tuple[IPAddress, ...]:
    try:
        addresses = tuple(ip_address(part.strip()) for part in text.split(","))
    except ValueError as error:
        raise _wrong(IP, text, f"{error}; write one address, or one of each family separated by a comma") from error
    if len({address.version for address in addresses}) < len(addresses):
        raise _wrong(IP, text, "a pod gets one address of each family")
    return tuple(sorted(addresses, key=lambda address: address.version))


def _sticky(text: str, metadata: Document, addresses: tuple[IPAddress, ...]) -> bool:
    if text not in {"true", "false"}:
        raise _wrong(STICKY, text, 'write "true" or "false"')
    if text == "true" and addresses:
        raise _wrong(STICKY, text, f"{IP} already says which address the pod gets; keep one of the two")
    owners = metadata.get("ownerReferences") or ()
    if text == "true" and not any(owner["kind"] == "StatefulSet" and owner.get("controller") for owner in owners):
        raise _wrong(STICKY, text, "only a StatefulSet's pods come back under the same name")
    return text == "true"


def _mtu(text: str) -> int:
    if not text.isdecimal() or int(text) not in _MTU:
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
    for route in routes:
        if route.gateway is not None and route.gateway.version != route.destination.version:
            raise _wrong(ROUTES, text, f"{route.destination} cannot have the gateway {route.gateway}")
    return routes


def _wrong(key: str, text: str, why: str) -> Malformed:
    return Malformed(f"annotation {key}: {text!r}: {why}")

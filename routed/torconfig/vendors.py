"""The vendors: which files a ToR of theirs needs, and which rack files they cannot express."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from routed.torconfig.model import Placeholder, Plan
from routed.torconfig.vendor_name import VendorName


@dataclass(frozen=True, slots=True)
class Document:
    """One file that a ToR needs."""

    suffix: str
    """Of the file's name, after the ToR's; also the template's name."""
    purpose: str
    comment: tuple[str, str] = ("! ", "")
    """What a comment line begins and ends with."""


@dataclass(frozen=True, slots=True)
class Vendor:
    """What one vendor's switches are like, as far as a rack file can disagree with it."""

    title: str
    documents: tuple[Document, ...]
    gateway: str | None = None
    """Pattern of the gateway's interface with its VLAN as the only group; None when any name will do."""
    example: str = ""
    """A gateway interface that fits the pattern."""
    ports: str = r"\S+"
    """Pattern of ports."""
    six_over_four: bool = False
    """Whether IPv6 routes may go over an IPv4 session with a spine and get a next hop there."""
    large_communities: bool = True
    """Whether route policy can match and delete large communities."""


MAXIMUM_VLAN = 4094  # IEEE 802.1Q
_HASH = ("# ", "")
VENDORS: Mapping[VendorName, Vendor] = {
    VendorName.FRR: Vendor("FRRouting on Linux", (Document("frr.conf", "/etc/frr/frr.conf"),), six_over_four=True),
    VendorName.SONIC: Vendor(
        "SONiC",
        (
            Document("frr.conf", "FRR of the bgp container, with docker_routing_config_mode split"),
            Document("sonic.sh", "commands for the SONiC command line", _HASH),
        ),
        gateway=r"Vlan([1-9]\d{0,3})",
        example="Vlan10",
        ports=r"Ethernet\d+",
        six_over_four=True,
    ),
    VendorName.CUMULUS: Vendor(
        "NVIDIA Cumulus Linux",
        (
            Document("frr.conf", "/etc/frr/frr.conf"),
            Document("interfaces", "/etc/network/interfaces", _HASH),
        ),
        gateway=r"vlan([1-9]\d{0,3})",
        example="vlan10",
        ports=r"swp\d+(s\d+)?",
        six_over_four=True,
    ),
    VendorName.EOS: Vendor(
        "Arista EOS",
        (Document("eos.cfg", "configure terminal, or configure replace"),),
        gateway=r"Vlan([1-9]\d{0,3})",
        example="Vlan10",
        ports=r"Ethernet\d+(/\d+){0,2}",
    ),
    VendorName.NXOS: Vendor(
        "Cisco NX-OS",
        (Document("nxos.cfg", "configure terminal"),),
        gateway=r"Vlan([1-9]\d{0,3})",
        example="Vlan10",
        ports=r"Ethernet\d+(/\d+){1,2}",
        large_communities=False,
    ),
    VendorName.JUNOS: Vendor(
        "Juniper Junos OS",
        (Document("junos.conf", "load merge", ("/* ", " */")),),
        gateway=r"irb\.([1-9]\d{0,3})",
        example="irb.10",
        ports=r"(ge|xe|et)-\d+/\d+/\d+(:\d+)?",
    ),
    VendorName.SRLINUX: Vendor(
        "Nokia SR Linux",
        (Document("srlinux.cli", "sr_cli in candidate mode", _HASH),),
        gateway=r"irb\d+\.([1-9]\d{0,3})",
        example="irb0.10",
        ports=r"ethernet-\d+/\d+(/\d+)?",
    ),
}


def problems(plan: Plan, vendor: Vendor) -> Iterator[str]:
    """Yield what this vendor cannot express of the plan, each with the rack file's key."""
    where = f"fabric.tors.{plan.name}"
    for number, uplink in enumerate(plan.uplinks):
        yield from _port(uplink.interface, f"{where}.uplinks[{number}].interface", vendor)
    for server in plan.servers:
        yield from _port(server.port, f"{where}.ports.{server.name}", vendor)
    yield from _gateway(plan, vendor)
    yield from _homeless_routes(plan, vendor, where)
    if plan.large and not vendor.large_communities:
        yield f"steering.community: {plan.community} is a large one, which route-maps of {vendor.title} cannot strip"


def _port(name: str, key: str, vendor: Vendor) -> Iterator[str]:
    if not isinstance(name, Placeholder) and not re.fullmatch(vendor.ports, name):
        yield f"{key}: {name!r} is no port of {vendor.title}"


def _gateway(plan: Plan, vendor: Vendor) -> Iterator[str]:
    name, tag = plan.gateway_interface, vlan(plan, vendor)
    if vendor.gateway is None or isinstance(name, Placeholder):
        return
    if not isinstance(tag, int):
        yield (
            f"fabric.gateway.interface: {name!r} is no VLAN's interface of {vendor.title}; "
            f"one looks like {vendor.example}"
        )
    elif tag > MAXIMUM_VLAN:
        yield f"fabric.gateway.interface: there is no VLAN {tag}"
    elif plan.vlan not in {None, tag}:
        yield f"fabric.gateway.interface: {name} is not in VLAN {plan.vlan}, which the servers tag (vlan)"


def _homeless_routes(plan: Plan, vendor: Vendor, where: str) -> Iterator[str]:
    """Yield sessions that would carry routes of an IP version which has no next hop on the link."""
    if vendor.six_over_four:
        return
    for number, uplink in enumerate(plan.uplinks):
        for session in uplink.sessions:
            for version in sorted(set(session.families) - {session.transport}):
                yield (
                    f"{where}.uplinks[{number}].peers: {session.spine} has no IPv{version} one, which {vendor.title} "
                    f"needs: over IPv{session.transport} the routes' next hops would not be on the link"
                )


def vlan(plan: Plan, vendor: Vendor) -> int | Placeholder | None:
    """Return the VLAN behind the gateway's interface; None when its name does not tell."""
    if vendor.gateway is None:
        return None
    if isinstance(plan.gateway_interface, Placeholder):
        return Placeholder("vlan") if plan.vlan is None else plan.vlan
    found = re.fullmatch(vendor.gateway, plan.gateway_interface)
    return int(found[1]) if found else None

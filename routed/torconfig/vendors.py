"""The vendors: which files a ToR of theirs needs, and which rack files they cannot express."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from routed.torconfig.plan import Placeholder, Plan
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


_HASH = ("# ", "")
VENDORS: Mapping[VendorName, Vendor] = {
    VendorName.FRR: Vendor(
        "FRRouting on Linux", (Document("frr.conf", "/etc/frr/frr.conf"),), six_over_four=True
    ),
    VendorName.SONIC: Vendor(
        "SONiC",
        (
            Document("frr.conf", "FRR of the bgp container, with docker_routing_config_mode split"),
            Document("sonic.sh", "commands for the SONiC command line", _HASH),
        ),
        gateway=r"Vlan([1-9]\d{0,3})",
        example="Vlan10",
        ports=r"(Ethernet|PortChannel)\d+",
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
        ports=r"(swp\d+(s\d+)?|bond\d+)",
        six_over_four=True,
    ),
    VendorName.EOS: Vendor(
        "Arista EOS",
        (Document("eos.cfg", "configure terminal, or configure replace"),),
        gateway=r"Vlan([1-9]\d{0,3})",
        example="Vlan10",
        ports=r"(Ethernet\d+(/\d+){0,2}|Port-Channel\d+)",
    ),
    VendorName.NXOS: Vendor(
        "Cisco NX-OS",
        (Document("nxos.cfg", "configure terminal"),),
        gateway=r"Vlan([1-9]\d{0,3})",
        example="Vlan10",
        ports=r"(Ethernet\d+(/\d+){1,2}|port-channel\d+)",
    ),
    VendorName.JUNOS: Vendor(
        "Juniper Junos OS",
        (Document("junos.conf", "load merge", ("/* ", " */")),),
        gateway=r"irb\.([1-9]\d{0,3})",
        example="irb.10",
        ports=r"((ge|xe|et)-\d+/\d+/\d+(:\d+)?|ae\d+)",
    ),
    VendorName.SRLINUX: Vendor(
        "Nokia SR Linux",
        (Document("srlinux.cli", "sr_cli in candidate mode", _HASH),),
        gateway=r"irb\d+\.([1-9]\d{0,3})",
        example="irb0.10",
        ports=r"(ethernet-\d+/\d+(/\d+)?|lag\d+)",
    ),
}


def problems(plan: Plan, vendor: Vendor) -> Iterator[str]:
    """Yield what this vendor cannot express of the plan, each with the rack file's key."""
    where = f"fabric.tors.{plan.name}"
    for port, key in _interfaces(plan, where):
        if not isinstance(port, Placeholder) and not re.fullmatch(vendor.ports, port):
            yield f"{key}: {port!r} is no interface of {vendor.title}"
    tag = vlan(plan, vendor)
    if tag is None and vendor.gateway and not isinstance(plan.gateway_interface, Placeholder):
        yield (
            f"fabric.gateway.interface: {plan.gateway_interface!r} is no VLAN's interface of {vendor.title}, "
            f"which looks like {vendor.example}"
        )
    if isinstance(tag, int) and tag > 4094:
        yield f"fabric.gateway.interface: there is no VLAN {tag}"
    if isinstance(tag, int) and plan.vlan is not None and tag != plan.vlan:
        yield f"fabric.gateway.interface: {plan.gateway_interface} is not in VLAN {plan.vlan}, which the servers tag (vlan)"
    for name, sessions in plan.spine_groups.items():
        for session in sessions:
            foreign = set(session.families) - {session.transport}
            if foreign and not vendor.six_over_four:
                yield (
                    f"{where}.uplinks: {session.spine} ({name}) has a peer for IPv{session.transport} alone; {vendor.title} "
                    f"needs one per IP version, else the routes' next hops are not on the link"
                )


def vlan(plan: Plan, vendor: Vendor) -> int | Placeholder | None:
    """Return the VLAN behind the gateway's interface; None when its name does not tell."""
    if vendor.gateway is None:
        return None
    if isinstance(plan.gateway_interface, Placeholder):
        return Placeholder("vlan") if plan.vlan is None else plan.vlan
    found = re.fullmatch(vendor.gateway, plan.gateway_interface)
    return int(found[1]) if found else None


def _interfaces(plan: Plan, where: str) -> Iterator[tuple[str, str]]:
    """Yield the ToR's ports with their keys in the rack file."""
    for number, uplink in enumerate(plan.uplinks):
        yield uplink.interface, f"{where}.uplinks[{number}].interface"
    for server in plan.servers:
        yield server.port, f"{where}.ports.{server.name}"

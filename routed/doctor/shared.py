"""Checks of an uplink that pods share, on a server without a bridge. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from routed.attach.answers import Device
from routed.doctor.facts import Facts, Unseen
from routed.doctor.findings import Finding, error, ok, unknown, warning
from routed.doctor.switch import kernel_lacp


def check_uplink(facts: Facts) -> Iterator[Finding]:
    """The uplink is there, tagged or not as the rack is, and has the members that the rack file names."""
    if facts.settings.ipvlan is None:
        return
    if isinstance(facts.network, Unseen):
        yield unknown("uplink", facts.network.why, "run as root, in the server's own network namespace")
        return
    name = facts.settings.uplink
    device = facts.network.devices.get(name)
    if device is None:
        yield error("uplink", f"there is no device {name}", "make it, or correct ipvlan.uplink in the rack file")
        return
    yield from (*_tag(facts.settings.vlan, device), *_members(facts, name)) or (_redundancy(facts, name),)
    if facts.bond is not None:
        yield kernel_lacp(name, facts.bond, facts.network)


def _tag(vlan: int | None, device: Device) -> Iterator[Finding]:
    if vlan is None and device.kind == "vlan":
        advice = "set vlan in the rack file to its tag, or name the device below it"
        yield error("uplink", f"{device.name} is a VLAN device, and the rack has no VLAN", advice)
    if vlan is not None and device.kind != "vlan":
        link = f"{device.name}.{vlan}"
        advice = f"`ip link add link {device.name} name {link} type vlan id {vlan}`, and ipvlan.uplink: {link}"
        yield error("uplink", f"the rack's VLAN is {vlan}, and {device.name} is no VLAN device", advice)


def _members(facts: Facts, name: str) -> Iterator[Finding]:
    named, real = set(facts.settings.members), set(facts.bond.members) if facts.bond is not None else set()
    if real and named != real:
        yield error(
            "uplink",
            f"{name} has {', '.join(sorted(real))}; the rack file says {', '.join(sorted(named)) or 'nothing of it'}",
            f"set ipvlan.members: [{', '.join(sorted(real))}] in the rack file, then {facts.keeper.restart}",
        )


def _redundancy(facts: Facts, name: str) -> Finding:
    if len(facts.members) > 1 or len(facts.settings.tors) == 1:
        return ok("uplink", f"{name}: {', '.join(facts.members)}")
    return warning(
        "uplink",
        f"{name} is one link: when it or its ToR fails, this server is cut off",
        "bond one link to each ToR (`ip link add bond0 type bond mode 802.3ad`)",
    )

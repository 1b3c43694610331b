"""Checks of Open vSwitch: database, switch, bridge, uplink, bond. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from ovs_flows.rows import MARK, version
from ovs_flows.sight import BridgeSight, PortSight
from routed.doctor.facts import Bond, Facts, Network, Unseen
from routed.doctor.findings import Finding, error, ok, unknown, warning

_OLDEST_OVS = (3, 1)
"""The oldest that the tests run on."""
_LACP_MODE, _NO_PARTNER = "802.3ad", "00:00:00:00:00:00"


def check_ovs(facts: Facts) -> Iterator[Finding]:
    """Database and switch answer, and the switch is new enough."""
    if facts.settings.ipvlan is not None:
        return
    failure = error if facts.root else unknown
    found = facts.version
    if isinstance(facts.switch, Unseen):
        advice = "`systemctl start openvswitch-switch`; paths.ovs in the rack file says where its sockets are"
        yield failure("ovs", facts.switch.why, advice)
    elif facts.switch.bridge is None:
        yield ok("ovs", "the database answers")
    elif isinstance(found, Unseen):
        advice = "`systemctl restart openvswitch-switch`: ovs-vswitchd does not run, or hangs"
        yield failure("ovs", found.why, advice)
    elif version(found) < _OLDEST_OVS:
        wanted = ".".join(map(str, _OLDEST_OVS))
        yield warning(
            "ovs", f"Open vSwitch {found} was never tested; {wanted} was", "upgrade the package openvswitch-switch"
        )
    else:
        yield ok("ovs", f"Open vSwitch {found}")


def check_bridge(facts: Facts) -> Iterator[Finding]:
    """The bridge exists, is ours alone, and forwards nothing by itself."""
    if facts.settings.ipvlan is not None:
        return
    name = facts.settings.bridge.name
    if isinstance(facts.switch, Unseen):
        yield unknown("bridge", "cannot be seen without Open vSwitch", "see `ovs` above")
        return
    bridge = facts.switch.bridge
    if bridge is None:
        there = ", ".join(facts.switch.bridges) or "none"
        yield error(
            "bridge",
            f"there is no bridge {name}; Open vSwitch has: {there}",
            f"`ovs-vsctl add-br {name}` and move the host's addresses to it, or correct bridge.name in the rack file",
        )
        return
    yield _ownership(name, bridge, running=not isinstance(facts.agent, Unseen), strangers=bool(facts.strangers))
    yield _controller(name, bridge)


def _ownership(name: str, bridge: BridgeSight, *, running: bool, strangers: bool) -> Finding:
    if bridge.owner not in ("", MARK["owner"]):
        return error(
            "bridge",
            f"{name} belongs to {bridge.owner}",
            f"`ovs-vsctl remove bridge {name} external_ids owner` to give it to the agent, or name another bridge",
        )
    if bridge.owner and bridge.fail_mode == "secure":
        return ok("bridge", f"{name} is ours, fail mode secure")
    found = f"{name} is {'ours' if bridge.owner else 'not taken over by an agent'}, fail mode {bridge.fail_mode}"
    if running:
        advice = f"`ovs-vsctl set bridge {name} fail_mode=secure external_ids:owner=routed`; who changes it back?"
        return error("bridge", found, advice)
    if strangers and bridge.fail_mode != "secure":
        return warning("bridge", found, "see `strangers` below before an agent starts: it takes the bridge over")
    return warning("bridge", found, "nothing to do by hand: the agent takes it over when it starts")


def _controller(name: str, bridge: BridgeSight) -> Finding:
    if bridge.controllers:
        return error(
            "controller",
            f"{name} is programmed by {', '.join(bridge.controllers)}",
            f"`ovs-vsctl del-controller {name}`, or name another bridge in the rack file",
        )
    return ok("controller", "nobody else programs the bridge")


def check_uplink(facts: Facts) -> Iterator[Finding]:
    """The uplink is on the bridge, plugged, and has the members that the rack file names."""
    if facts.settings.ipvlan is not None:
        return
    if isinstance(facts.switch, Unseen) or facts.switch.bridge is None:
        yield unknown("uplink", "cannot be seen without the bridge", "see `ovs` and `bridge` above")
        return
    bridge, name = facts.settings.bridge.name, facts.settings.bridge.uplink
    port = facts.uplink
    if port is None:
        has = ", ".join(sorted(facts.switch.bridge.ports.keys() - {bridge})) or "no ports"
        yield error(
            "uplink",
            f"{name} is not a port of {bridge}, which has: {has}",
            f"`ovs-vsctl add-port {bridge} {name}` (or add-bond), or correct bridge.uplink in the rack file",
        )
        return
    yield from (*_plugging(port), *_membership(facts, port)) or (_redundancy(facts),)
    if facts.bond is not None:
        yield kernel_lacp(name, facts.bond, facts.network)
    elif len(port.interfaces) > 1:
        yield _ovs_lacp(name, port)


def _plugging(port: PortSight) -> Iterator[Finding]:
    for interface in port.interfaces:
        if not interface.ofport:
            yield error(
                "uplink",
                f"Open vSwitch could not plug {interface.name}: {interface.error or 'no reason given'}",
                f"`ip link show {interface.name}`: is it there, and not used by another bridge?",
            )


def _membership(facts: Facts, port: PortSight) -> Iterator[Finding]:
    """Compare the bond's members with those that the rack file names."""
    named = set(facts.settings.bridge.members)
    real = set(facts.bond.members) if facts.bond is not None else {interface.name for interface in port.interfaces}
    name = facts.settings.bridge.uplink
    if not named and facts.bond is not None:
        yield error(
            "uplink",
            f"the rack file does not name the members of {name}: only one ToR hears of this server",
            f"set bridge.members: [{', '.join(sorted(real))}] in the rack file, then {facts.keeper.restart}",
        )
    elif named and named != real:
        yield error(
            "uplink",
            f"{name} has {', '.join(sorted(real)) or 'no members'}; the rack file says {', '.join(sorted(named))}",
            f"set bridge.members: [{', '.join(sorted(real))}] in the rack file, or mend the bond",
        )


def _redundancy(facts: Facts) -> Finding:
    name, members = facts.settings.bridge.uplink, facts.members
    if len(members) > 1:
        return ok("uplink", f"{name}: {', '.join(members)}")
    if len(facts.settings.tors) == 1:
        return ok("uplink", f"{name}: one link, to one ToR")
    return warning(
        "uplink",
        f"{name} is one link: when it or its ToR fails, this server is cut off",
        f"bond one link to each ToR (`ovs-vsctl add-bond {facts.settings.bridge.name} bond0 A B lacp=active`)",
    )


def kernel_lacp(name: str, bond: Bond, network: Network | Unseen) -> Finding:
    """Judge LACP of a bond of the kernel's."""
    if bond.mode != _LACP_MODE:
        return _no_lacp(name, f"{name} is a bond of mode {bond.mode}, without LACP")
    look = f"`cat /proc/net/bonding/{name}`"
    if bond.partner in ("", _NO_PARTNER):
        return error("lacp", f"{name} has no LACP partner", _lacp_advice(look))
    if left_out := _left_out(bond, network):
        found = f"{name} leaves {', '.join(left_out)} out: no LACP partner there, or another one than {bond.partner}"
        return error("lacp", found, _lacp_advice(look))
    return ok("lacp", f"{name}: partner {bond.partner}")


def _left_out(bond: Bond, network: Network | Unseen) -> list[str]:
    """Return the members that have carrier and are not used all the same."""
    if isinstance(network, Unseen):
        return []
    devices = ((member, network.devices.get(member)) for member in bond.members)
    return [member for member, device in devices if device is not None and device.carrier and device.left_out]


def _ovs_lacp(name: str, port: PortSight) -> Finding:
    if not port.lacp:
        return _no_lacp(name, f"{name} is a bond without LACP")
    silent = [interface.name for interface in port.interfaces if not interface.lacp_current]
    if silent:
        found = f"no LACP partner behind {', '.join(silent)}: nothing is sent or taken there"
        return error("lacp", found, _lacp_advice(f"`ovs-appctl lacp/show {name}`"))
    return ok("lacp", f"{name}: negotiated on {', '.join(interface.name for interface in port.interfaces)}")


def _no_lacp(name: str, found: str) -> Finding:
    return warning("lacp", found, f"configure LACP on the ToRs, then `ovs-vsctl set port {name} lacp=active`")


def _lacp_advice(look: str) -> str:
    return f"{look}; both ToR ports need LACP with the same system ID and key"

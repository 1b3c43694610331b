"""Checks of ports on the bridge that are not ours: what becomes of them while an agent runs. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ovs_flows.sight import BridgeSight, PortSight
from routed.doctor.facts import Facts, Unseen
from routed.doctor.findings import Finding, error, ok, unknown, warning
from routed.domain.wiring import FIRST_OFPORT, VF_SLOTS, VFS_OF_A_PF
from routed.settings import LegacySettings

_PAGE = "docs/migration.md"
_FREE_BELOW = FIRST_OFPORT - 100
"""Port numbers from there on are for mirrors and slots."""
_NAMED = 6
"""Ports that are called by their names; the rest is counted."""


def check_strangers(facts: Facts) -> Iterator[Finding]:
    """Ports of somebody else are cut off, or take part in a flat network as the rack file says."""
    if facts.settings.ipvlan is not None:
        return
    if isinstance(facts.switch, Unseen) or facts.switch.bridge is None:
        yield unknown("strangers", "cannot be seen without the bridge", "see `ovs` and `bridge` above")
        return
    settings, bridge = facts.settings.bridge, facts.switch.bridge
    strangers = facts.strangers
    yield from _collisions(strangers, facts)
    yield from _takeover(bridge, settings.name, strangers)
    if settings.legacy is None:
        yield _uninvited(strangers, settings.name)
    else:
        yield from _flat(strangers, settings.legacy, facts.keeper.restart)


def _uninvited(strangers: Mapping[str, PortSight], bridge: str) -> Finding:
    if not strangers:
        return ok("strangers", f"all ports of {bridge} but the uplink are ours")
    return warning(
        "strangers",
        f"{bridge} has {_list(strangers.items())}, not ours: while an agent runs, nothing passes there",
        f"`ovs-vsctl del-port {bridge} PORT`; where pods of a flat network use them, set bridge.legacy ({_PAGE})",
    )


def _flat(strangers: Mapping[str, PortSight], legacy: LegacySettings, restart: str) -> Iterator[Finding]:
    vlans = ", ".join(map(str, legacy.vlans))
    invited = [(name, port) for name, port in strangers.items() if port.tag is None or port.tag in legacy.vlans]
    others = [(name, port) for name, port in strangers.items() if (name, port) not in invited]
    if others:
        yield warning(
            "strangers",
            f"{_list(others)} in none of bridge.legacy.vlans ({vlans}): while an agent runs, nothing passes there",
            f"add the VLAN to bridge.legacy in the rack file, or remove the port ({_PAGE})",
        )
    if invited:
        yield ok("strangers", f"in the flat network of VLAN {vlans}: {_list(invited)}")
    else:
        yield warning(
            "strangers",
            f"no port is in the flat network of VLAN {vlans} any more",
            f"when no server has one, take bridge.legacy out of the rack file, {restart} ({_PAGE})",
        )


def _takeover(bridge: BridgeSight, name: str, strangers: Mapping[str, PortSight]) -> Iterator[Finding]:
    """Yield what an operator does first: Open vSwitch empties a bridge whose fail mode becomes secure."""
    if strangers and bridge.fail_mode != "secure":
        yield warning(
            "strangers",
            f"{name} is {bridge.fail_mode}: when the agent makes it secure, its ports have no flows until it serves",
            f"`ovs-vsctl set-fail-mode {name} secure && ovs-ofctl add-flow {name} priority=0,actions=NORMAL` first",
        )


def _collisions(strangers: Mapping[str, PortSight], facts: Facts) -> Iterator[Finding]:
    """Yield strangers that hold a number which a slot wants.

    There may be one per IPv4 address, and spare ones, and those of VFs, whose ports are their representors.
    """
    addresses = sum(pool.prefix.num_addresses for pool in facts.settings.pools if pool.prefix.version == 4)
    wires = range(min(addresses + facts.settings.bridge.ready_slots, VF_SLOTS))
    vfs = range(VF_SLOTS, VF_SLOTS + facts.pfs * VFS_OF_A_PF)
    for port in strangers.values():
        for interface in port.interfaces:
            slot = interface.ofport - FIRST_OFPORT
            if slot in wires or slot in vfs:
                yield error(
                    "strangers",
                    f"{interface.name} has port number {interface.ofport}; slot {slot} wants it"
                    f"{', a VF' if slot in vfs else ''}",
                    f"`ovs-vsctl set interface {interface.name} ofport_request=N`, N free and below {_FREE_BELOW}; "
                    "its packets stop for a moment",
                )


def _list(ports: Iterable[tuple[str, PortSight]]) -> str:
    """Return ``vport1 (200), vport2 (trunk)``."""
    named = [f"{name} ({'trunk' if port.tag is None else port.tag})" for name, port in sorted(ports)]
    return ", ".join([*named[:_NAMED], *([f"{len(named) - _NAMED} more"] if len(named) > _NAMED else [])])

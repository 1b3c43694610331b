"""All checks, in the order in which a server is set up: what comes first may explain what comes later. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from routed.doctor import fabric, host, presence, shared, strangers, switch
from routed.doctor.facts import Facts
from routed.doctor.findings import Finding

Check = Callable[[Facts], Iterator[Finding]]

CHECKS: tuple[Check, ...] = (
    presence.check_pools,
    host.check_user,
    host.check_kernel,
    switch.check_ovs,
    switch.check_bridge,
    switch.check_uplink,
    shared.check_uplink,
    strangers.check_strangers,
    host.check_members,
    host.check_nic,
    host.check_mtu,
    host.check_neighbor_broadcast,
    host.check_sysctls,
    presence.check_state,
    presence.check_ledger,
    presence.check_password,
    presence.check_agent,
    presence.check_drain,
    presence.check_cni_socket,
    presence.check_host_ports,
    fabric.check_addresses,
    fabric.check_gateways,
    fabric.check_tors,
    fabric.check_sides,
)


def judge(facts: Facts) -> tuple[Finding, ...]:
    """Return every finding."""
    return tuple(finding for check in CHECKS for finding in check(facts))

"""Looks at a server's NICs, network devices and Open vSwitch. Changes nothing; what cannot be seen is `Unseen`."""

from __future__ import annotations

import asyncio
import errno
import itertools
import platform
from collections.abc import Iterable, Mapping
from pathlib import Path

from ovs_flows import hardware
from ovs_flows.errors import OvsError
from ovs_flows.hardware import HardwareSight
from ovs_flows.ovsdb import Ovsdb
from routed.attach import devlink
from routed.attach.answers import NicPort
from routed.attach.errors import KernelError
from routed.attach.kernel import Rtnl
from routed.attach.rtnl import tc_offload
from routed.attach.sysfs import Pf, discover, uppers
from routed.doctor.facts import Unseen
from routed.doctor.gather import has_driver
from routed.nic.found import NO_SWITCH, Found
from routed.settings import BridgeSettings

TC_DRIVERS = ("sch_ingress", "cls_flower", "act_gact", "act_mirred", "act_pedit", "act_csum", "act_vlan", "act_skbedit")
"""What a pod's flows become (docs/pipeline.md)."""
EXTRA_DRIVERS = ("act_police", "act_ct", "nf_conntrack")
"""Meters; what matches connections."""


async def look(tree: Path, bridge: BridgeSettings, ovsdb: Ovsdb | Unseen) -> Found:
    """Look at everything; KernelError when not even the devices can be listed."""
    with Rtnl() as home:
        ports = {port.name: port for port in home.nic_ports()}
        pfs = discover(tree, ports.values())
        functions = (devices for pf in pfs for devices in (pf.devices, *(vf.devices for vf in pf.vfs)))
        names = {bridge.uplink, *bridge.members, *itertools.chain.from_iterable(functions)} & ports.keys()
        addresses = {name: tuple(home.addresses(ports[name].index)) for name in names}
    release = platform.release()
    devices = {device for pf in pfs for device in pf.devices} | set(bridge.members)
    return Found(
        pfs=pfs,
        ports=ports,
        addresses=addresses,
        uppers={name: _uppers(tree, ports[name], ports.values()) for name in names},
        modes={pf.address: await asyncio.to_thread(_mode, pf) for pf in pfs},  # an event loop of the library's own
        tc_offload={name: tc_offload(name) for name in sorted(devices) if name in ports},
        bond_modes=_bond_modes(tree, ports),
        drivers={driver: has_driver(driver, release) for driver in (*TC_DRIVERS, *EXTRA_DRIVERS)},
        switch=await _switch(ovsdb),
    )


def _mode(pf: Pf) -> str | Unseen:
    try:
        return devlink.mode(pf.address)
    except KernelError as error:
        driven = pf.driver and error.code in {errno.ENODEV, errno.EOPNOTSUPP}
        return NO_SWITCH if driven else Unseen(str(error))


def _uppers(tree: Path, port: NicPort, ports: Iterable[NicPort]) -> tuple[str, ...]:
    """Return what rides on a device in the server's own namespace; what was moved into another has no entry there."""
    masters = {each.name for each in ports if each.index == port.master}
    return tuple(sorted({*uppers(tree, port.name)} - masters))


def _bond_modes(tree: Path, ports: Iterable[str]) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for name in ports:
        try:
            found[name] = (tree / "class/net" / name / "bonding/mode").read_text(encoding="ascii").partition(" ")[0]
        except OSError:  # no bond
            continue
    return found


async def _switch(ovsdb: Ovsdb | Unseen) -> HardwareSight | Unseen:
    if isinstance(ovsdb, Unseen):
        return ovsdb
    try:
        return await hardware.look(ovsdb)
    except OvsError as error:
        return Unseen(str(error))

"""What it takes to make a server ready: from what was found and what is wanted to steps. Pure.

The order is the NICs': VFs without a driver, switchdev mode, uplinks, bond, bridge, and only then the VFs' driver,
since a bond of ports becomes one switch only while no VF is bound (mlx5). What somebody may be using is never taken
away: that is an obstacle, and with an obstacle nothing is done at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ovs_flows.hardware import HardwareSight
from routed.attach.sysfs import NoAnswer, Pf
from routed.doctor.facts import Unseen
from routed.nic.found import NO_SWITCH, Found, Wanted
from routed.nic.steps import (
    DEVICES,
    AddBond,
    AddBridge,
    AddPort,
    BindVfs,
    Enslave,
    HwOffload,
    KeepMac,
    Raise,
    RaiseRepresentors,
    Settle,
    Step,
    Switchdev,
    TcOffload,
    Write,
)

_KERNEL_DATAPATH = "system"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, or why nothing can be done."""

    steps: tuple[Step, ...]
    obstacles: tuple[str, ...] = ()


def plan(found: Found, wanted: Wanted) -> Plan:
    """Return the steps that are missing, in order; none when the server is as wanted."""
    obstacles = (*_hardware_obstacles(found, wanted), *(() if wanted.hardware_only else _host_obstacles(found, wanted)))
    if obstacles:
        return Plan((), obstacles)
    pfs = _pfs(found, wanted)
    steps = [step for pf in pfs for step in _functions(found, pf, wanted)]
    if steps:
        steps.append(Settle())
    steps += _offload(found, wanted)
    if not wanted.hardware_only:
        steps += (*_uplink(found, wanted), *_bridge(found, wanted))
    mtu = _mtu(found, wanted)
    steps += [RaiseRepresentors(pf.address, mtu) for pf in pfs if _representors_wait(found, pf, wanted, mtu)]
    if not (wanted.hardware_only and wanted.bonded):
        steps += [step for pf in pfs for step in _drivers(pf, wanted, joins=_joins(found, wanted))]
    return Plan(tuple(steps))


def _pfs(found: Found, wanted: Wanted) -> tuple[Pf, ...]:
    """Return the members' PFs; one for several members that share it."""
    known = (pf for member in wanted.members if (pf := found.pf_of(member)) is not None)
    return tuple({pf.address: pf for pf in known}.values())


def _is_legacy(found: Found, pf: Pf) -> bool:
    """Whether a PF's switch still forwards by itself."""
    return not any(found.ports[name].switch_id for name in found.uplinks(pf))


def _joins(found: Found, wanted: Wanted) -> bool:
    """Whether a member still has to go into the bond."""
    missing = set(wanted.members).difference(found.members(wanted.uplink))
    return wanted.bonded and not wanted.hardware_only and bool(missing)


# --- obstacles -------------------------------------------------------------------------------------------------------


def _hardware_obstacles(found: Found, wanted: Wanted) -> Iterator[str]:
    for member in wanted.members:
        if member not in found.ports:
            yield f"there is no device {member}; {_nics(found)}"
        elif member in found.bond_modes:
            yield f"{member} is a bond: name its members in bridge.members; {_nics(found)}"
        elif found.pf_of(member) is None:
            yield f"{member} is no port of a NIC with SR-IOV (BIOS: SR-IOV and VT-d on?); {_nics(found)}"
    pfs = _pfs(found, wanted)
    for pf in pfs:
        yield from _vf_obstacles(pf, wanted)
        busy = [vf.address for vf in pf.vfs if found.in_use(vf)]
        if busy and (_is_legacy(found, pf) or _joins(found, wanted)):
            what = "switchdev mode" if _is_legacy(found, pf) else "bond"
            yield f"{pf.address} has no {what} yet, and {', '.join(busy)} may be in use: drain this server first"
        if _is_legacy(found, pf):
            yield from _mode_obstacles(found, pf)
        elif isinstance(pf.uplinks, NoAnswer):
            yield pf.uplinks.why
    if _cards(pfs) > 1:
        yield f"{', '.join(wanted.members)} are ports of different NICs: neither forwards between a pod and their bond"


def _cards(pfs: tuple[Pf, ...]) -> int:
    """Return how many NICs these are: by their switches, or by their PCI slots while not all have told theirs."""
    switches = {pf.switch_id for pf in pfs}
    return len({pf.address.rpartition(".")[0] for pf in pfs} if "" in switches else switches)


def _nics(found: Found) -> str:
    names = (f"{pf.address} ({', '.join(found.uplinks(pf)) or 'no device'})" for pf in found.pfs)
    return f"NICs with SR-IOV: {', '.join(names) or 'none'}"


def _vf_obstacles(pf: Pf, wanted: Wanted) -> Iterator[str]:
    if pf.most_vfs < wanted.vfs:
        yield f"{pf.address} can have {pf.most_vfs} VFs, not {wanted.vfs}: firmware settings say how many"
    elif 0 < len(pf.vfs) < wanted.vfs:
        yield (
            f"{pf.address} has {len(pf.vfs)} VFs, and no driver adds to those: drain this server, then "
            f"`echo 0 > /sys/{DEVICES}/{pf.address}/sriov_numvfs`"
        )


def _mode_obstacles(found: Found, pf: Pf) -> Iterator[str]:
    """A change of mode makes devices vanish: nobody may be using them."""
    if found.modes.get(pf.address) == NO_SWITCH:
        yield f"{pf.driver} of {pf.address} knows no switchdev mode: VFs would have no representors"
    if found.modes.get(pf.address) == "switchdev":
        yield f"{pf.address} is in switchdev mode, and none of its devices says so: is the driver older than it?"
    for name in found.uplinks(pf):
        yield from _losses(found, name, "switchdev mode")
        if found.ports[name].master is not None:
            yield f"{name} has to leave its bond for switchdev mode: `ip link set dev {name} nomaster`"


def _host_obstacles(found: Found, wanted: Wanted) -> Iterator[str]:
    """What is in the way on the bridge, and of the bond."""
    if isinstance(found.switch, Unseen):
        yield f"Open vSwitch: {found.switch.why}"
        return
    if found.switch.datapath_type not in ("", _KERNEL_DATAPATH):
        yield f"{wanted.bridge} uses the datapath {found.switch.datapath_type}, which has no TC"
    for bridge, devices in found.switch.ports.items():
        for device in sorted({*wanted.members, wanted.uplink} & devices):
            if bridge != wanted.bridge:
                yield f"{device} is on bridge {bridge}: `ovs-vsctl del-port {bridge} {device}`"
            elif device != wanted.uplink:
                yield f"{device} is in a bond of Open vSwitch's own, which no NIC takes over: make it the kernel's"
    if wanted.bonded and wanted.uplink in found.ports and wanted.uplink not in found.bond_modes:
        yield f"{wanted.uplink} is a device, and no bond"
    yield from _address_obstacles(found, wanted, frozenset().union(*found.switch.ports.values()))


def _address_obstacles(found: Found, wanted: Wanted, plugged: frozenset[str]) -> Iterator[str]:
    """What goes into a bond or onto a bridge is in no other, and answers under its own addresses no more."""
    members = found.members(wanted.uplink)
    for member in wanted.members if wanted.bonded else ():
        if member not in members and member in found.ports:
            yield from _losses(found, member, wanted.uplink)
            if found.ports[member].master is not None:
                yield f"{member} is in another bond or bridge: `ip link set dev {member} nomaster`"
    if wanted.uplink not in plugged and wanted.uplink in found.ports:
        if found.addresses.get(wanted.uplink):
            yield f"{wanted.uplink} has addresses, which belong on {wanted.bridge}: {_take_away(found, wanted.uplink)}"
        if found.ports[wanted.uplink].master is not None:
            yield f"{wanted.uplink} is in another bond or bridge: `ip link set dev {wanted.uplink} nomaster`"


def _losses(found: Found, name: str, where: str) -> Iterator[str]:
    if found.addresses.get(name):
        yield f"{name} has addresses and would lose them in {where}: {_take_away(found, name)}"
    for upper in found.uppers.get(name, ()):
        yield f"{name} carries {upper} and would lose it in {where}: from a console, `ip link del dev {upper}`"


def _take_away(found: Found, name: str) -> str:
    commands = (f"`ip address del {address} dev {name}`" for address in found.addresses[name])
    return f"from a console, {', '.join(commands)}"


# --- steps -----------------------------------------------------------------------------------------------------------


def _functions(found: Found, pf: Pf, wanted: Wanted) -> Iterator[Step]:
    folder = f"{DEVICES}/{pf.address}"
    if not pf.vfs and wanted.vfs:
        if pf.autoprobe:
            yield Write(f"{folder}/sriov_drivers_autoprobe", "0")
        yield Write(f"{folder}/sriov_numvfs", str(wanted.vfs))
    if _is_legacy(found, pf) or _joins(found, wanted):
        yield from (Write(f"bus/pci/drivers/{vf.driver}/unbind", vf.address) for vf in pf.vfs if vf.driver)
    if _is_legacy(found, pf):
        yield Switchdev(pf.address)


def _offload(found: Found, wanted: Wanted) -> Iterator[Step]:
    for member in wanted.members:
        if found.tc_offload.get(member) is False:
            yield TcOffload(member)


def _uplink(found: Found, wanted: Wanted) -> Iterator[Step]:
    mtu = _mtu(found, wanted)
    there = found.members(wanted.uplink)
    if wanted.bonded:
        if wanted.uplink not in found.ports:
            yield AddBond(wanted.uplink)
        yield from (Enslave(member, wanted.uplink) for member in wanted.members if member not in there)
        if wanted.uplink not in found.ports or _is_low(found, wanted.uplink, mtu):
            yield Raise(wanted.uplink, mtu)
    for member in there if wanted.bonded else wanted.members:
        if member in wanted.members and _is_low(found, member, mtu):
            yield Raise(member, mtu)


def _bridge(found: Found, wanted: Wanted) -> Iterator[Step]:
    switch = found.switch
    if isinstance(switch, Unseen):
        return
    if not switch.offload:
        yield HwOffload()
    if wanted.bridge not in switch.ports:
        yield AddBridge(wanted.bridge)
    if not switch.hwaddr:
        yield KeepMac(wanted.bridge, _mac(found, switch, wanted))
    if wanted.uplink not in switch.ports.get(wanted.bridge, ()):
        yield AddPort(wanted.bridge, wanted.uplink)


def _mac(found: Found, switch: HardwareSight, wanted: Wanted) -> str:
    """Return the MAC address that the server has, or will have: that of a bridge or bond without members is random."""
    plugged = found.ports.keys() & switch.ports.get(wanted.bridge, frozenset()) - {wanted.bridge}
    if plugged and switch.mac:
        return switch.mac
    source = wanted.members[0] if wanted.bonded and not found.members(wanted.uplink) else wanted.uplink
    return found.ports[source].mac


def _drivers(pf: Pf, wanted: Wanted, *, joins: bool) -> Iterator[Step]:
    making = not pf.vfs and bool(wanted.vfs)
    if making or not pf.autoprobe:
        yield Write(f"{DEVICES}/{pf.address}/sriov_drivers_autoprobe", "1")
    if making or isinstance(pf.uplinks, NoAnswer) or joins or any(not vf.driver for vf in pf.vfs):
        yield BindVfs(pf.address)


def _representors_wait(found: Found, pf: Pf, wanted: Wanted, mtu: int) -> bool:
    """Whether a PF will have representors that are not ready."""
    if _is_legacy(found, pf) or not pf.vfs:
        return bool(wanted.vfs)
    known = [vf.representor for vf in pf.vfs if not isinstance(vf.representor, NoAnswer)]
    return any(_is_low(found, representor.name, mtu) for representor in known)


def _is_low(found: Found, device: str, mtu: int) -> bool:
    return not found.ports[device].up or found.ports[device].mtu != mtu


def _mtu(found: Found, wanted: Wanted) -> int:
    """Return the MTU that was asked for, else the largest that the uplink has, in bytes."""
    names = {wanted.uplink, *wanted.members} & found.ports.keys()
    return wanted.mtu or max(found.ports[name].mtu for name in names)

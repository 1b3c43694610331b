"""Checks of SR-IOV NICs: is everything there that hardware needs to forward pods' packets. Pure.

What is missing here does not keep pods from being attached by veth, but keeps their flows out of hardware.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ovs_flows.hardware import HardwareSight
from routed.attach.sysfs import NoAnswer, Pf
from routed.doctor.facts import Unseen
from routed.doctor.findings import Finding, error, ok, unknown, warning
from routed.nic.found import NO_SWITCH, Found
from routed.nic.look import EXTRA_DRIVERS, TC_DRIVERS
from routed.settings import BridgeSettings

_SYSFS = "/sys/bus/pci/devices"
_SETUP = "`routed nic setup --vfs N` does all of it"


def judge(found: Found, bridge: BridgeSettings) -> tuple[Finding, ...]:
    """Return every finding, in the order in which a NIC is set up."""
    checks: tuple[Callable[[Found, BridgeSettings], Iterator[Finding]], ...] = (
        check_members,
        check_functions,
        check_modes,
        check_card,
        check_representors,
        check_tc_offload,
        check_drivers,
        check_switch,
    )
    return tuple(finding for check in checks for finding in check(found, bridge))


def members(bridge: BridgeSettings) -> tuple[str, ...]:
    """Return the devices that this server goes out by, as the rack file names them."""
    return bridge.members or (bridge.uplink,)


def pfs(found: Found, bridge: BridgeSettings) -> tuple[Pf, ...]:
    """Return the PFs of the members; all that there are when no member has one."""
    own = {pf.address: pf for member in members(bridge) if (pf := found.pf_of(member)) is not None}
    return tuple(own.values()) or found.pfs


def check_members(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """Each link to a ToR is a port of a NIC with SR-IOV."""
    for name in members(bridge):
        pf, check = found.pf_of(name), f"member {name}"
        if name not in found.ports:
            yield error(check, "there is no such device", "correct bridge.members in the rack file; `ip link`")
        elif name in found.bond_modes:
            has = ", ".join(found.members(name))
            yield error(check, f"is a bond of {has or 'nothing'}", f"set bridge.members: [{has}] in the rack file")
        elif pf is None:
            yield error(
                check,
                "is no port of a NIC with SR-IOV",
                "turn on SR-IOV and VT-d (or AMD-Vi) in the BIOS, and SR-IOV in the NIC's firmware; `lspci -vv`",
            )
        else:
            yield ok(check, f"{pf.address}, {pf.vendor}:{pf.device}, {pf.driver or 'no driver'}")


def check_functions(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """Each PF has VFs, and each VF a driver unless it is in use."""
    for pf in pfs(found, bridge):
        check = f"vfs {pf.address}"
        if not pf.vfs:
            command = f"`echo {min(pf.most_vfs, 32)} > {_SYSFS}/{pf.address}/sriov_numvfs`"
            yield error(check, f"none of {pf.most_vfs}", f"{command}, before switchdev mode; {_SETUP}")
            continue
        unbound = [vf.address for vf in pf.vfs if not vf.driver]
        if unbound:
            yield warning(
                check,
                f"{len(unbound)} of {len(pf.vfs)} have no driver",
                f"`for vf in {' '.join(unbound)}; do echo $vf > /sys/bus/pci/drivers_probe; done`, after bonding",
            )
        else:
            used = sum(found.in_use(vf) for vf in pf.vfs)
            yield ok(check, f"{len(pf.vfs)} of {pf.most_vfs}, {used} in use")


def check_modes(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """Each PF's switch is in switchdev mode."""
    for pf in pfs(found, bridge):
        check, mode = f"mode {pf.address}", found.modes.get(pf.address)
        if not isinstance(pf.uplinks, NoAnswer):
            names = ", ".join(port.name for port in pf.uplinks)
            yield ok(check, f"switchdev, uplink {names}, switch {pf.switch_id}")
        elif mode == NO_SWITCH:
            yield error(check, f"{pf.driver} knows no switchdev mode", "another NIC; or veth pairs")
        elif mode == "switchdev":
            yield error(
                check, f"switchdev, but {pf.uplinks.why}", f"`devlink port show`, `ip -d link`; driver {pf.driver}"
            )
        elif mode is None or isinstance(mode, Unseen):
            why = "" if mode is None else f" ({mode.why})"
            yield error(check, f"{pf.uplinks.why}{why}", _switchdev(pf))
        else:
            yield error(check, f"{mode}: VFs have no representors", _switchdev(pf))


def _switchdev(pf: Pf) -> str:
    return f"`devlink dev eswitch set pci/{pf.address} mode switchdev`, while its VFs have no driver; {_SETUP}"


def check_card(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """All members are ports of one NIC, which alone forwards between a VF and their bond."""
    names = members(bridge)
    switches = {name: found.ports[name].switch_id for name in names if name in found.ports}
    if len(names) < 2 or len(switches) < len(names):
        return
    if not all(switches.values()):
        silent = ", ".join(name for name, switch in switches.items() if not switch)
        yield unknown("bond", f"{silent} does not say which NIC it is a port of", "see `mode` above")
    elif len(set(switches.values())) > 1:
        yield error(
            "bond",
            f"{', '.join(names)} are ports of different NICs",
            "bond two ports of one NIC; `cat /sys/class/net/NAME/phys_switch_id` must be equal",
        )
    elif found.members(bridge.uplink) != tuple(sorted(names)):
        has = ", ".join(found.members(bridge.uplink)) or "none of them"
        commands = (f"`ip link set dev {name} master {bridge.uplink}`" for name in names)
        yield error("bond", f"{bridge.uplink} has {has}", f"while VFs have no driver, {', '.join(commands)}; {_SETUP}")
    else:
        yield ok("bond", f"{bridge.uplink}: {', '.join(names)}, one NIC")


def check_representors(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """Each VF's representor is known and up."""
    for pf in pfs(found, bridge):
        if isinstance(pf.uplinks, NoAnswer) or not pf.vfs:
            continue
        check = f"representors {pf.address}"
        doubtful = {vf.index: vf.representor.why for vf in pf.vfs if isinstance(vf.representor, NoAnswer)}
        down = [
            vf.representor.name for vf in pf.vfs if not isinstance(vf.representor, NoAnswer) and not vf.representor.up
        ]
        if doubtful:
            why = next(iter(doubtful.values()))
            yield error(
                check,
                f"{len(doubtful)} of {len(pf.vfs)} VFs have none that is certain: {why}",
                "`ip -d link` shows switch id and port name of every device; `devlink port show`",
            )
        if down:
            loop = f"`for rep in {' '.join(down)}; do ip link set dev $rep up; done`"
            yield error(check, f"{len(down)} of {len(pf.vfs)} are down", f"{loop}; {_SETUP}")
        if not doubtful and not down:
            yield ok(check, f"{len(pf.vfs)}, all up")


def check_tc_offload(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """Each member hands flows to the NIC."""
    for name in members(bridge):
        check = f"hw-tc-offload {name}"
        if found.pf_of(name) is None:
            continue
        if found.tc_offload.get(name):
            yield ok(check, "on")
        elif found.tc_offload.get(name) is False:
            yield error(check, "off: no flow goes to the NIC", f"`ethtool -K {name} hw-tc-offload on`")
        else:
            yield error(
                check, "cannot be turned on", f"`ethtool -k {name}`; in legacy mode, and in old drivers, it is fixed"
            )


def check_drivers(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """The kernel can express flows, and connection tracking, in TC."""
    del bridge
    missing = [name for name in TC_DRIVERS if found.drivers.get(name) is False]
    unsaid = [name for name in (*TC_DRIVERS, *EXTRA_DRIVERS) if found.drivers.get(name) is None]
    if missing:
        yield error("tc", f"this kernel has no {', '.join(missing)}", f"`modprobe -a {' '.join(missing)}`")
    elif not any(name in unsaid for name in TC_DRIVERS):
        yield ok("tc", ", ".join(TC_DRIVERS))
    if unsaid:
        yield unknown(
            "tc", f"nothing says whether this kernel has {', '.join(unsaid)}", f"`modinfo {' '.join(unsaid)}`"
        )
    if found.drivers.get("act_police") is False:
        yield warning("meters", "no act_police: limits of pods' bandwidth stay in software", "`modprobe act_police`")
    tracking = [name for name in ("nf_conntrack", "act_ct") if found.drivers.get(name) is False]
    if tracking:
        yield warning(
            "conntrack",
            f"no {', '.join(tracking)}: flows that match connections stay in software; pods' own flows match none",
            f"`modprobe -a {' '.join(tracking)}`",
        )
    elif "act_ct" not in unsaid and "nf_conntrack" not in unsaid:
        yield ok("conntrack", "nf_conntrack and act_ct are there")


def check_switch(found: Found, bridge: BridgeSettings) -> Iterator[Finding]:
    """Open vSwitch offers flows to TC, and nothing on the bridge keeps them from it."""
    switch = found.switch
    if isinstance(switch, Unseen):
        yield unknown("hw-offload", switch.why, "`systemctl start openvswitch-switch`; run as root")
        return
    if switch.offload:
        yield ok("hw-offload", f"on, tc-policy {switch.policy}")
    else:
        command = "`ovs-vsctl set Open_vSwitch . other_config:hw-offload=true`"
        yield error("hw-offload", "off", f"{command}, then `systemctl restart openvswitch-switch`")
    if switch.policy == "skip_hw":
        yield error(
            "tc-policy", "skip_hw: nothing goes to the NIC", "`ovs-vsctl remove Open_vSwitch . other_config tc-policy`"
        )
    if not switch.datapath_type:
        advice = f"`ovs-vsctl add-br {bridge.name}`, or correct bridge.name in the rack file; {_SETUP}"
        yield error("bridge", f"there is no bridge {bridge.name}", advice)
    else:
        yield from _bridge(switch, bridge)


def _bridge(switch: HardwareSight, bridge: BridgeSettings) -> Iterator[Finding]:
    name = bridge.name
    if switch.datapath_type != "system":
        yield error(
            "datapath",
            f"{name} uses {switch.datapath_type}, which has no TC",
            f"`ovs-vsctl set bridge {name} datapath_type=system`; pods' traffic stops for a moment",
        )
    for sampler in switch.samplers:
        yield error(
            sampler, f"set on {name}: every flow stays in software", f"`ovs-vsctl clear bridge {name} {sampler}`"
        )
    if switch.tables_without_prefixes:
        tables = " ".join(map(str, switch.tables_without_prefixes))
        first = switch.tables_without_prefixes[0]
        yield error(
            "prefixes",
            f"tables {tables} have none: every remote address costs a flow in hardware",
            "the agent sets them; without one, for each table, `ovs-vsctl -- --id=@t create Flow_Table "
            f"prefixes=ip_dst,ip_src,ipv6_dst -- set bridge {name} flow_tables:{first}=@t`",
        )
    else:
        yield ok("prefixes", "set, or not needed by this version")
    if not switch.hwaddr:
        yield warning(
            "hwaddr",
            f"the MAC address of {name} changes with its ports: a representor may bring another",
            f"`ovs-vsctl set bridge {name} other_config:hwaddr={switch.mac or 'MAC'}`",
        )

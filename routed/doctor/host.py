"""Checks of the server itself: kernel, settings, devices. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from routed.attach.answers import Device
from routed.attach.hostfacts import Setting
from routed.doctor.facts import Facts, Network, Unseen
from routed.doctor.findings import Finding, error, ok, unknown, warning

_OLDEST_KERNEL = (5, 4)
"""Process descriptors (5.3) and strict netlink dumps (4.20) are needed; 5.4 is the first long-term kernel with both."""


def check_user(facts: Facts) -> Iterator[Finding]:
    """Most of what the doctor looks at, only root may see."""
    if not facts.root:
        yield unknown("user", "root does not run this: part of the server cannot be seen", "run `sudo routed doctor`")


def check_kernel(facts: Facts) -> Iterator[Finding]:
    """The kernel is new enough, and can make what slots are made of."""
    release = tuple(int(part) for part in facts.release.partition("-")[0].split(".") if part.isdigit())
    if release < _OLDEST_KERNEL:
        wanted = ".".join(map(str, _OLDEST_KERNEL))
        yield error("kernel", f"Linux {facts.release} is too old", f"install Linux {wanted} or later, and reboot")
    else:
        yield ok("kernel", f"Linux {facts.release}")
    for driver, there in facts.drivers.items():
        if there is None:
            yield unknown(
                f"driver {driver}",
                "nothing on this server says whether its kernel has it",
                f"look with `modinfo {driver}`",
            )
        elif there:
            yield ok(f"driver {driver}", "built in or loadable")
        else:
            yield error(
                f"driver {driver}",
                "this kernel has no such driver: pods cannot be attached",
                f"install the modules of Linux {facts.release} (linux-modules-extra, kernel-modules), then "
                f"`modprobe {driver}`",
            )


def check_sysctls(facts: Facts) -> Iterator[Finding]:
    """Forwarding is on, redirects are off, and the reverse path is not checked strictly."""
    if isinstance(facts.network, Unseen):
        yield unknown("sysctl", facts.network.why, "run as root, in the server's own network namespace")
        return
    reverse = [setting for setting in facts.network.sysctls if setting.name.endswith("/rp_filter")]
    for setting in facts.network.sysctls:
        if setting not in reverse:
            yield _setting(setting, good=setting.good, value=setting.value, to=setting.wanted[0])
    if reverse:
        yield _reverse_path(reverse)


def _reverse_path(settings: list[Setting]) -> Finding:
    """Judge rp_filter of `all` and of the bridge: the larger holds (Documentation/networking/ip-sysctl.rst)."""
    own = settings[-1]
    values = [setting.value for setting in settings if setting.value is not None]
    effective = max(values, key=int) if len(values) == len(settings) else None
    return _setting(own, good=effective in own.wanted, value=effective, to="2")


def _setting(setting: Setting, *, good: bool, value: str | None, to: str) -> Finding:
    name = "net." + setting.name.replace("/", ".")
    check = f"sysctl {name}"
    if value is None:
        return unknown(check, "there is no such setting", "it comes with the bridge device; see `bridge` above")
    if good:
        return ok(check, value)
    return error(
        check,
        f"{value} instead of {' or '.join(setting.wanted)}: {setting.why}",
        f"`sysctl -w {name}={to}`, and the same line in /etc/sysctl.d/ for the next boot",
    )


def check_members(facts: Facts) -> Iterator[Finding]:
    """Each link to a ToR exists, is up and has carrier."""
    if isinstance(facts.network, Unseen):
        yield unknown("member", facts.network.why, "run as root, in the server's own network namespace")
        return
    for name in facts.members:
        yield _member(name, facts.network.devices.get(name))


def _member(name: str, device: Device | None) -> Finding:
    check = f"member {name}"
    if device is None:
        return error(
            check, "there is no such device", "correct bridge.members in the rack file; `ip link` lists what there is"
        )
    if not device.up:
        return error(check, "is down", f"`ip link set dev {name} up`, and find out who took it down")
    if not device.carrier:
        return error(
            check,
            "has no carrier: nothing comes from its ToR",
            f"check cable and ToR port (a ToR that lost its own uplinks closes it); `ethtool {name}` shows the link",
        )
    return ok(check, "up, with carrier")


def check_nic(facts: Facts) -> Iterator[Finding]:
    """Hardware forwards between a pod and a bond only when both members are ports of one NIC."""
    if facts.settings.ipvlan is not None:
        return
    silent = [name for name in facts.members if facts.switch_ids.get(name) is None]
    identities = {name: facts.switch_ids.get(name) for name in facts.members}
    if silent:
        yield warning(
            "nic",
            f"not offloadable: no switching NIC behind {', '.join(silent)}",
            "fine without hardware offload; else `devlink dev eswitch set pci/ADDRESS mode switchdev` on each port",
        )
    elif len(set(identities.values())) > 1:
        yield warning(
            "nic",
            f"not offloadable: {', '.join(identities)} are ports of different NICs",
            "bond two ports of one NIC; /sys/class/net/NAME/phys_switch_id must be equal",
        )
    else:
        yield ok("nic", f"{', '.join(identities)}: one NIC")


def check_mtu(facts: Facts) -> Iterator[Finding]:
    """All links have one MTU, and the bridge's device has it too."""
    if isinstance(facts.network, Unseen):
        yield unknown("mtu", facts.network.why, "run as root, in the server's own network namespace")
        return
    bridge, uplink = facts.settings.device, facts.settings.uplink
    names = dict.fromkeys((*facts.members, uplink))
    links = {name: device.mtu for name in names if (device := facts.network.devices.get(name)) is not None}
    if not links:
        yield unknown("mtu", "no link of this server was found", "see `member` above")
        return
    largest = max(links.values())
    smaller = [name for name, mtu in links.items() if mtu < largest]
    if smaller:
        yield error(
            "mtu",
            f"{', '.join(f'{name} {mtu}' for name, mtu in links.items())}: packets vanish or shrink by the path taken",
            "; ".join(f"`ip link set dev {name} mtu {largest}`" for name in smaller),
        )
        return
    yield _bridge_mtu(bridge, facts.network, largest)


def _bridge_mtu(bridge: str, network: Network, wanted: int) -> Finding:
    own = network.devices.get(bridge)
    if own is None:
        return unknown("mtu", f"links have {wanted}; there is no device {bridge}", "see `bridge` above")
    if own.mtu != wanted:
        return error(
            "mtu",
            f"{bridge} {own.mtu}, its links {wanted}",
            f"the agent sets it; without one, `ovs-vsctl set interface {bridge} mtu_request={wanted}`",
        )
    return ok("mtu", f"{wanted} everywhere")


def check_neighbor_broadcast(facts: Facts) -> Iterator[Finding]:
    """Whether the bonding driver tells both ToRs of the server; the agent does so in any case."""
    if facts.bond is None:
        return
    says = {True: "on", False: "off", None: "not known to this kernel"}[facts.bond.broadcast_neighbor]
    yield ok("neighbor broadcast", f"{says}; the agent asks out of every member anyway")

"""Checks of RDMA: can a pod that asks for it (``rdma: true``) get a VF's RDMA device, and use it well. Pure.

RoCE v2 over a fabric that routes: what the ToRs have to do for it (ECN, PFC, trust in DSCP) cannot be seen from here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from routed.attach.rdma import EXCLUSIVE_AT_BOOT, EXCLUSIVE_COMMAND, Mode
from routed.attach.sysfs import Pf
from routed.doctor.facts import Unseen
from routed.doctor.findings import Finding, error, ok, unknown, warning
from routed.doctor.nic import members, pfs
from routed.nic.found import Found
from routed.nic.rdma import ROCE_V2, RdmaFound
from routed.settings import BridgeSettings

LEAST_MTU = 4200
"""Bytes that hold 4096 of RDMA, the most that there is, with the headers of RoCE v2 over IPv6."""
_MEMLOCK = "LimitMEMLOCK=infinity"


def judge(found: Found, rdma: RdmaFound, bridge: BridgeSettings) -> tuple[Finding, ...]:
    """Return every finding, in the order in which a server is set up for it."""
    checks: tuple[Callable[[Found, RdmaFound, BridgeSettings], Iterator[Finding]], ...] = (
        check_modules,
        check_mode,
        check_devices,
        check_types,
        check_mtu,
        check_pause,
        check_memory,
    )
    return tuple(finding for check in checks for finding in check(found, rdma, bridge))


def check_modules(_found: Found, rdma: RdmaFound, _bridge: BridgeSettings) -> Iterator[Finding]:
    """The kernel's part is loaded."""
    if rdma.missing_modules:
        names = " ".join(rdma.missing_modules)
        yield error("rdma-modules", f"not loaded: {names}", f"`modprobe -a {names}`; for good, in /etc/modules-load.d")
    else:
        yield ok("rdma-modules", "all loaded")


def check_mode(_found: Found, rdma: RdmaFound, _bridge: BridgeSettings) -> Iterator[Finding]:
    """Devices belong to namespaces, so that one can be moved into a pod."""
    if isinstance(rdma.mode, Unseen):
        yield unknown("rdma-mode", rdma.mode.why, "`rdma system`")
    elif rdma.mode is Mode.SHARED:
        yield error(
            "rdma-mode",
            "shared: every pod sees every RDMA device, and none can be moved into one",
            f"{EXCLUSIVE_COMMAND}, which works while there is no other network namespace; so {EXCLUSIVE_AT_BOOT}, "
            "`update-initramfs -u` where ib_core is in it, and restart the server",
        )
    else:
        yield ok("rdma-mode", "exclusive")


def check_devices(found: Found, rdma: RdmaFound, bridge: BridgeSettings) -> Iterator[Finding]:
    """Each VF that is not in use has an RDMA device."""
    for pf in pfs(found, bridge):
        check = f"rdma-devices {pf.address}"
        own = [vf for vf in pf.vfs if vf.address in rdma.devices and vf.driver]
        without = [vf.address for vf in own if rdma.devices[vf.address] is None]
        if without and len(without) == len(own) and rdma.devices.get(pf.address) is None:
            yield error(
                check,
                "neither the PF nor a VF has one",
                f"`lspci -k -s {pf.address}`, `devlink dev param show pci/{pf.address} name enable_roce`",
            )
        elif without:
            yield error(
                check,
                f"{len(without)} of {len(own)} VFs have none",
                f"`for vf in {' '.join(without)}; do devlink dev param set pci/$vf name enable_roce value true "
                "cmode driverinit; devlink dev reload pci/$vf; done`",
            )
        elif own:
            yield ok(check, f"{len(own)} VFs, {rdma.devices.get(pf.address) or 'none on the PF itself'}")
        else:
            yield unknown(check, "no VF that is not in use and has a driver", "see `vfs` above")


def check_types(found: Found, rdma: RdmaFound, bridge: BridgeSettings) -> Iterator[Finding]:
    """Devices speak RoCE v2, which is UDP and gets through ToRs that route; version 1 is no IP at all."""
    for name in _devices(found, rdma, bridge):
        check, types, default = f"rdma-type {name}", rdma.gid_types[name], rdma.default_types.get(name)
        if types and ROCE_V2 not in types:
            yield error(
                check,
                f"{', '.join(sorted(types))} alone, which no router forwards",
                f"`cat /sys/class/infiniband/{name}/ports/1/gid_attrs/types/*`; update the NIC's firmware and driver",
            )
        elif default is not None and default != ROCE_V2:
            configfs = f"/sys/kernel/config/rdma_cm/{name}"
            yield error(
                check,
                f"connections use {default}, which no router forwards",
                f"`mkdir -p {configfs}; echo '{ROCE_V2}' > {configfs}/ports/1/default_roce_mode`",
            )
        elif types:
            yield ok(check, ROCE_V2 if default is None else f"{ROCE_V2}, for connections as well")


def _devices(found: Found, rdma: RdmaFound, bridge: BridgeSettings) -> Iterator[str]:
    for pf in pfs(found, bridge):
        named = (rdma.devices.get(address) for address in _addresses(pf))
        yield from (name for name in named if name is not None)


def _addresses(pf: Pf) -> tuple[str, ...]:
    return (pf.address, *(vf.address for vf in pf.vfs))


def check_mtu(found: Found, _rdma: RdmaFound, bridge: BridgeSettings) -> Iterator[Finding]:
    """The largest messages of RDMA fit."""
    for name in members(bridge):
        if name not in found.ports:
            continue
        mtu, check = found.ports[name].mtu, f"rdma-mtu {name}"
        if mtu < LEAST_MTU:
            yield warning(
                check,
                f"{mtu}: RDMA uses less than its 4096 bytes a packet, which need {LEAST_MTU}",
                "`routed nic setup --mtu 9000 --vfs N`, and the same on the ToRs' ports",
            )
        else:
            yield ok(check, str(mtu))


def check_pause(found: Found, _rdma: RdmaFound, bridge: BridgeSettings) -> Iterator[Finding]:
    """What keeps RoCE from losing packets is not in sysfs: say where it is."""
    for name in members(bridge):
        if found.pf_of(name) is not None:
            yield warning(
                f"rdma-pause {name}",
                "priority flow control and trust in DSCP are not in sysfs: look yourself",
                f"`dcb pfc show dev {name}`, `dcb app show dev {name}`; with NVIDIA's drivers `mlnx_qos -i {name}`: "
                "trust dscp, and PFC on the priority of RoCE alone, as on the ToRs' ports",
            )


def check_memory(_found: Found, rdma: RdmaFound, _bridge: BridgeSettings) -> Iterator[Finding]:
    """Programs in containers may pin the memory that RDMA reads and writes."""
    if isinstance(rdma.memlock, Unseen):
        advice = "on the server itself, `grep locked /proc/$(pidof containerd)/limits`: unlimited"
        yield unknown("rdma-memory", rdma.memlock.why, advice)
        return
    for name, limit in sorted(rdma.memlock.items()):
        check = f"rdma-memory {name}"
        if limit is None:
            yield ok(check, "containers may pin any amount")
            continue
        folder, unit = f"/etc/systemd/system/{_unit(name)}.service.d", _unit(name)
        yield error(
            check,
            f"containers may pin {limit} bytes; registering more memory fails",
            f"`mkdir -p {folder}; printf '[Service]\\n{_MEMLOCK}\\n' > {folder}/memlock.conf; systemctl daemon-reload; "
            f"systemctl restart {unit}`; containers that run keep theirs",
        )


def _unit(runtime: str) -> str:
    return {"dockerd": "docker"}.get(runtime, runtime)

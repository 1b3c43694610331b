"""Takes steps on this server: sysfs, netlink, devlink, ethtool and the Open vSwitch database; no command is run.

What of this was tried on which NIC: docs/sriov.md.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from ovs_flows import hardware
from ovs_flows.errors import Unreachable
from ovs_flows.ovsdb import Ovsdb
from routed.attach import devlink
from routed.attach.errors import KernelError, NotFound
from routed.attach.kernel import Rtnl
from routed.attach.rtnl import add_bond, enslave, no_link_local, set_device, tc_offload_on
from routed.attach.sysfs import NoAnswer, Pf, discover
from routed.doctor.facts import Unseen
from routed.nic.found import Found, Wanted
from routed.nic.plan import Plan, plan
from routed.nic.steps import Machine, Settle, Step

_UDEV_BUSY = Path("/run/udev/queue")
_SETTLED_S, _LOOK_S = 30.0, 0.1


class NoEffectError(Exception):
    """Everything was done without an error, and something is still not as wanted."""


async def carry_out(
    machine: Machine, look: Callable[[], Awaitable[Found]], wanted: Wanted, announce: Callable[[Step], None]
) -> Plan:
    """Take every step that is missing, one after the other; return what was planned at first.

    Looks again afterwards, and once devices have settled: a driver may only then show what else there is to do. With
    an obstacle nothing is done. NoEffectError when one comes up on the way, or when what was done is still missing; an
    error of a step ends it, and another run goes on from there.
    """
    first = now = plan(await look(), wanted)
    done: list[Step] = []
    while now.steps:
        if all(step in done for step in now.steps):
            raise NoEffectError("; ".join(f"`{step.command}` had no effect" for step in now.steps))
        for step in now.steps:
            announce(step)
            await step.run(machine)
            done.append(step)
            if isinstance(step, Settle):
                break
        now = plan(await look(), wanted)
        if now.obstacles:
            raise NoEffectError("; ".join(now.obstacles))
    return first


class Host:
    """This server."""

    def __init__(self, tree: Path, ovsdb: Ovsdb | Unseen) -> None:
        self._tree = tree
        self._database = ovsdb

    async def write(self, attribute: str, value: str) -> None:
        """Write an attribute below /sys; KernelError."""
        try:
            (self._tree / attribute).write_text(value, encoding="ascii")
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, f"write {value} to {self._tree / attribute}") from error

    async def switchdev(self, pf: str) -> None:
        """Put a PF into switchdev mode; KernelError."""
        await asyncio.to_thread(devlink.set_switchdev, pf)  # the library runs an event loop of its own

    async def settle(self) -> None:
        """Wait until udev has nothing to do; KernelError when it is busy for half a minute.

        The file is what udevadm(8) settle looks at; without udev there is none.
        """
        deadline = time.monotonic() + _SETTLED_S
        while _UDEV_BUSY.exists():
            if time.monotonic() > deadline:
                raise KernelError(errno.ETIMEDOUT, "wait for udev to name new devices")
            await asyncio.sleep(_LOOK_S)

    async def tc_offload(self, device: str) -> None:
        """Turn on hw-tc-offload; KernelError."""
        tc_offload_on(device)

    async def add_bond(self, name: str) -> None:
        """Create a bond that speaks LACP; KernelError."""
        with Rtnl() as home:
            home.apply(add_bond(name))

    async def enslave(self, device: str, bond: str) -> None:
        """Put a device into a bond; KernelError."""
        with Rtnl() as home:
            home.apply(*enslave(_index(home, device), _index(home, bond)))

    async def raise_device(self, device: str, mtu: int | None) -> None:
        """Take a device up, without an address of its own making; KernelError."""
        with Rtnl() as home:
            index = _index(home, device)
            home.apply(no_link_local(index), set_device(index, up=True, mtu=mtu))

    async def representors(self, pf: str) -> Sequence[str]:
        """Return the devices that stand for a PF's VFs now; KernelError."""
        answers = [vf.representor for found in self._pfs() if found.address == pf for vf in found.vfs]
        return tuple(answer.name for answer in answers if not isinstance(answer, NoAnswer))

    async def unbound(self, pf: str) -> Sequence[str]:
        """Return the addresses of a PF's VFs that have no driver now; KernelError."""
        return tuple(vf.address for found in self._pfs() if found.address == pf for vf in found.vfs if not vf.driver)

    async def hw_offload(self) -> None:
        """Have Open vSwitch offer flows to NICs; OvsError."""
        await hardware.turn_on(self._ovsdb())

    async def add_bridge(self) -> None:
        """Make the bridge; OvsError."""
        await hardware.add_bridge(self._ovsdb())

    async def keep_mac(self, mac: str) -> None:
        """Have the bridge keep its MAC address; OvsError."""
        await hardware.keep_mac(self._ovsdb(), mac)

    async def add_port(self, device: str) -> None:
        """Plug a device into the bridge; OvsError, and it is not on it, when that cannot be."""
        await hardware.add_port(self._ovsdb(), device)

    def _ovsdb(self) -> Ovsdb:
        if isinstance(self._database, Unseen):
            raise Unreachable(self._database.why)
        return self._database

    def _pfs(self) -> tuple[Pf, ...]:
        with Rtnl() as home:
            return discover(self._tree, home.nic_ports())


def _index(home: Rtnl, name: str) -> int:
    device = home.device(name)
    if device is None:
        raise NotFound(errno.ENODEV, f"look up {name}")
    return device.index

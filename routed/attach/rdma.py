"""RDMA devices: whose they are, and how a VF's goes into a pod and comes back.

An RDMA device stands beside a VF's network device, for RoCE. It belongs to one network namespace only when the kernel
is told so (`exclusive` mode); in the other mode every namespace sees every device, and none can be moved. When a pod's
namespace ends, the kernel brings its devices home by itself. The device files in /dev/infiniband are none of this: the
device plugin gives them to the container (``isRdma``).

Source: Linux include/uapi/rdma/rdma_netlink.h, drivers/infiniband/core/nldev.c and device.c; rdma-system(8).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from routed.attach import answers, packing
from routed.attach.answers import Device
from routed.attach.errors import KernelError, RdmaMissing, RdmaShared
from routed.attach.netns import OWN, Visit, enter
from routed.attach.sysfs import SYSFS
from routed.domain.wiring import Link

NETLINK_RDMA = 20
_NLDEV = 5 << 10
"""What the types of all messages here begin with (RDMA_NL_NLDEV)."""
_GET, _SET, _PORT_GET, _SYS_GET = 1, 2, 5, 6
_INDEX, _NAME, _NETDEV, _MODE, _NETNS = 1, 2, 50, 66, 68
_ACK, _DUMP = 0x004, 0x300
_ERROR, _DONE = 2, 3
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
EXCLUSIVE_COMMAND = "`rdma system set netns exclusive`"
EXCLUSIVE_AT_BOOT = "`echo options ib_core netns_mode=0 > /etc/modprobe.d/rdma.conf`"


class Mode(Enum):
    """How the kernel divides RDMA devices among network namespaces."""

    EXCLUSIVE = 0
    SHARED = 1


@dataclass(frozen=True, slots=True)
class RdmaDevice:
    """An RDMA device of a namespace."""

    index: int
    """The same in every namespace, for as long as its driver keeps it."""
    name: str
    """``mlx5_3``."""


def device_name(address: str, tree: Path = SYSFS) -> str | None:
    """Return the RDMA device of a PCI function, None when this namespace's sysfs shows none."""
    try:
        entries = (tree / "bus/pci/devices" / address / "infiniband").iterdir()
        return min((entry.name for entry in entries), default=None)
    except OSError:
        return None


def give(home: Rdma, pod: Rdma, address: str, ifindex: int, netns: int) -> RdmaDevice:
    """Move a VF's RDMA device into a pod, and return it; one that is there already stays.

    The VF's network device, ``ifindex``, has to be in the pod by now: the kernel tells by it whose RDMA device it is.
    ``netns`` is the pod's namespace, open. RdmaShared, RdmaMissing, KernelError; nothing has changed then.
    """
    mode = home.mode()
    if mode is Mode.SHARED:
        raise RdmaShared(
            f"the RDMA device of {address} cannot be moved into a pod: this kernel shares RDMA devices among all "
            f"namespaces; {EXCLUSIVE_COMMAND} while there is no pod, or {EXCLUSIVE_AT_BOOT} and restart the server"
        )
    there = pod.own_device_of(ifindex)
    if there is not None:
        return there
    device = home.at(address)
    if device is None:
        raise RdmaMissing(f"{address} has no RDMA device here: `ls /sys/bus/pci/devices/{address}/infiniband`")
    home.move(device, netns)
    return device


def take_back(pod: Rdma, ifindex: int, home: int) -> RdmaDevice | None:
    """Move the RDMA device that goes with a pod's network device home; None when there is none.

    Before the network device goes: the kernel tells by that one whose it is. ``home`` is the server's namespace, open.
    """
    device = pod.own_device_of(ifindex)
    if device is not None:
        pod.move(device, home)
    return device


class VfRdma:
    """The RDMA devices of VFs, as what goes into pods beside them; make it in the server's namespace."""

    def __init__(self, tree: Path, addresses: Mapping[str, str], connect: Callable[[], Rdma] | None = None) -> None:
        """`tree` is like /sys; `addresses` has the PCI address of each representor's VF, and may change any time.

        `connect` opens the calling thread's namespace.
        """
        self._tree, self._addresses, self._connect = tree, addresses, connect or partial(Rdma, tree=tree)
        self._home = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Hold on to the server's namespace no longer."""
        os.close(self._home)

    def join(self, visit: Visit, slot: Device, link: Link) -> None:
        """Move the device of a representor's VF into the pod; RdmaShared, RdmaMissing, KernelError."""
        address, index = self._addresses[slot.name], visit.need(link.ifname)
        with ExitStack() as opened:
            enter(self._home)
            try:
                home = opened.enter_context(self._connect())
            finally:
                enter(visit.netns)
            give(home, opened.enter_context(self._connect()), address, index, visit.netns)

    def joined(self, found: Device) -> bool:
        """Whether the pod that the calling thread is in has the device of its VF."""
        if not self._possible():
            return False
        with self._connect() as pod:
            return pod.own_device_of(found.index) is not None

    def leave(self, found: Device) -> None:
        """Move the device of a VF home, from the pod that the calling thread is in."""
        if self._possible():
            with self._connect() as pod:
                take_back(pod, found.index, self._home)

    def _possible(self) -> bool:
        """Whether this kernel has RDMA; to ask it otherwise would have it look for a module each time."""
        return (self._tree / "class/infiniband").is_dir()


class Rdma:
    """A netlink socket to the RDMA devices of the namespace that its opener was in; for one thread at a time."""

    def __init__(self, connection: socket.socket | None = None, tree: Path = SYSFS) -> None:
        """`connection` is one to something that answers as the kernel does; KernelError where there is no RDMA.

        `tree` is sysfs, whatever namespace that shows: only what `at` finds depends on it.
        """
        self._socket, self._tree = connection or _open_socket(), tree
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def mode(self) -> Mode:
        """Return how devices are divided among namespaces."""
        for found in self._ask(_SYS_GET, _ACK, "ask how RDMA devices are divided"):
            if _MODE in found:
                return Mode(found[_MODE][0])
        raise KernelError(errno.EOPNOTSUPP, "ask how RDMA devices are divided", "this kernel (before 5.2) cannot say")

    def devices(self) -> list[RdmaDevice]:
        """Return the devices that this namespace sees."""
        found = self._ask(_GET, _DUMP, "list RDMA devices")
        return [RdmaDevice(_u32(one[_INDEX]), one[_NAME].rstrip(b"\0").decode()) for one in found if _NAME in one]

    def at(self, address: str) -> RdmaDevice | None:
        """Return the device of a PCI function."""
        name = device_name(address, self._tree)
        return next((one for one in self.devices() if one.name == name), None)

    def own_device_of(self, ifindex: int) -> RdmaDevice | None:
        """Return the device that has a port on a network device of this namespace, and belongs to it alone."""
        if self.mode() is Mode.SHARED:
            return None
        return next((one for one in self.devices() if ifindex in self._netdevs(one)), None)

    def move(self, device: RdmaDevice, netns: int) -> None:
        """Move a device of this namespace into another one, given by its file descriptor; KernelError."""
        doing = f"move RDMA device {device.name} into another namespace"
        try:
            self._ask(_SET, _ACK, doing, (_INDEX, device.index), (_NETNS, netns))
        except KernelError as error:
            if error.code == errno.EOPNOTSUPP:
                raise KernelError(
                    error.code, doing, "its driver cannot do that, or devices are shared (`rdma system`)"
                ) from error
            raise

    def _netdevs(self, device: RdmaDevice) -> list[int]:
        doing = f"list the ports of RDMA device {device.name}"
        try:
            found = self._ask(_PORT_GET, _DUMP, doing, (_INDEX, device.index))
        except KernelError as error:
            if error.code == errno.EINVAL:  # it went between two questions
                return []
            raise
        return [_u32(one[_NETDEV]) for one in found if _NETDEV in one]

    def _ask(self, command: int, flags: int, doing: str, *attributes: tuple[int, int]) -> list[dict[int, bytes]]:
        """Return the attributes of each answer; KernelError."""
        self._sequence += 1
        parts = [packing.attribute(kind, packing.number(value)) for kind, value in attributes]
        try:
            self._socket.send(packing.message(_NLDEV | command, flags, *parts, sequence=self._sequence))
            return list(self._answers(doing))
        except OSError as error:
            raise KernelError(error.errno or errno.EIO, doing) from error

    def _answers(self, doing: str) -> Iterator[dict[int, bytes]]:
        while True:
            for kind, flags, sequence, message in answers.split(self._socket.recv(1 << 16)):
                if sequence != self._sequence:
                    continue
                if kind in (_ERROR, _DONE):
                    failure = answers.failure(message, flags, doing)
                    if failure is not None:
                        raise failure
                    return
                yield answers.attributes(message, answers.HEADER_SIZE)


def _u32(value: bytes) -> int:
    (number,) = struct.unpack("=I", value)
    return int(number)


def _open_socket() -> socket.socket:
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_RDMA)
    except OSError as error:
        doing = "ask for RDMA devices"
        if error.errno == errno.EPROTONOSUPPORT:
            raise KernelError(error.errno, doing, "this kernel has no RDMA: `modprobe ib_core`") from error
        raise KernelError(error.errno or errno.EIO, doing) from error
    for option in (_CAP_ACK, _EXT_ACK):
        opened.setsockopt(_SOL_NETLINK, option, 1)
    return opened

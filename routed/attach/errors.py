# ruff: noqa: N818  # the names say what happened; a suffix would say it less well
"""What can go wrong between this server and the inside of a pod.

AttachError
├── InvalidNetns         the path is not a network namespace that a pod could have
├── InvalidName          no interface can have this name
├── InterfaceExists      the wanted name is taken inside the pod, by something that is not ours
├── ForeignDevice        a device on the server has a slot's name but not our mark: it is left alone
├── SlotMissing          the slot's wire does not exist (yet)
├── SlotTaken            the slot serves another attachment, or something that cannot be reached
├── VfAway               the VF's device is not (yet, or no more) where it is needed
├── VfInUse              the server itself uses the VF's device
├── RdmaShared           the kernel shares RDMA devices among all namespaces: none can be moved
├── RdmaMissing          the VF has no RDMA device here (yet)
├── UplinkUnusable       the device that pods shall share is not there, or is not what the rack file says
├── MarkTooLong          container id, interface name and netns path do not fit into an ifalias
└── KernelError          netlink, ioctl or sysctl said no
    └── NotFound         what the request was about does not exist
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


class AttachError(Exception):
    """Root of this package's errors."""


class InvalidNetns(AttachError):
    """The path does not exist, is not a network namespace, or is the server's own."""


class InvalidName(AttachError):
    """The kernel accepts no interface of this name."""


class InterfaceExists(AttachError):
    """The interface name is taken inside the pod by something that is not ours."""


class ForeignDevice(AttachError):
    """A device has a slot's name but does not carry our mark."""


class SlotMissing(AttachError):
    """The slot's wire does not exist."""


class SlotTaken(AttachError):
    """The slot serves somebody else."""


class VfAway(AttachError):
    """The network device of a VF is neither in the server's namespace nor in the pod's."""


class VfInUse(AttachError):
    """The server itself uses the network device of a VF: it has addresses, or another device is made of it."""


class RdmaShared(AttachError):
    """No RDMA device can be moved: the kernel shares all of them among all namespaces."""


class RdmaMissing(AttachError):
    """A VF has no RDMA device here: none was made, or it is not back from the pod before."""


class UplinkUnusable(AttachError):
    """The device that pods shall share is not there, or is not what the rack file says."""


class MarkTooLong(AttachError):
    """The ownership mark does not fit into the kernel's 255 bytes."""


class KernelError(AttachError):
    """The kernel refused a request."""

    def __init__(self, code: int, doing: str, detail: str = "") -> None:
        super().__init__(f"{doing}: {detail or os.strerror(code)}")
        self.code = code
        """An errno."""


class NotFound(KernelError):
    """The device, address or route of the request does not exist."""


def failures(keys: Iterable[K], call: Callable[[K], None]) -> dict[K, Exception]:
    """Call it for every key, whatever becomes of the others; return the errors of this package that came of it."""
    failed: dict[K, Exception] = {}
    for key in keys:
        try:
            call(key)
        except AttachError as error:
            failed[key] = error
    return failed

"""The switch inside a NIC: which mode it is in, and switchdev mode, by devlink. Imports pyroute2, as `rtnl` does.

Source: Linux Documentation/networking/devlink and include/uapi/linux/devlink.h.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2 import DL
from pyroute2.netlink import NLM_F_ACK, NLM_F_REQUEST
from pyroute2.netlink.devlink import DEVLINK_CMD_ESWITCH_GET, DEVLINK_CMD_ESWITCH_SET, devlinkcmd
from pyroute2.netlink.exceptions import NetlinkError

from routed.attach.errors import KernelError

LEGACY, SWITCHDEV = "legacy", "switchdev"
_MODES = (LEGACY, SWITCHDEV)
"""By number (enum devlink_eswitch_mode)."""
PCI = "pci"
"""The bus of every NIC; only a simulated one is on another."""


def mode(address: str, bus: str = PCI) -> str:
    """Return the mode of a PF's switch, `LEGACY` or `SWITCHDEV`; KernelError where the driver does not say.

    ENODEV: the driver of this device has no devlink; EOPNOTSUPP: it has, but no switch to ask about.
    """
    with _devlink(f"ask for the switch mode of {address}") as devlink:
        for answer in _exchange(devlink, message(address, DEVLINK_CMD_ESWITCH_GET, bus=bus)):
            number = answer.get_attr("DEVLINK_ATTR_ESWITCH_MODE")
            if number is not None and number < len(_MODES):
                return _MODES[number]
    raise KernelError(errno.EOPNOTSUPP, f"ask for the switch mode of {address}", "the driver does not say")


def set_switchdev(address: str, bus: str = PCI) -> None:
    """Put a PF's switch into switchdev mode; some drivers make its network device anew."""
    with _devlink(f"put {address} into switchdev mode") as devlink:
        _exchange(devlink, message(address, DEVLINK_CMD_ESWITCH_SET, ("DEVLINK_ATTR_ESWITCH_MODE", 1), bus=bus))


def message(address: str, command: int, *attributes: tuple[str, int], bus: str = PCI) -> Any:
    """Return a message about a device."""
    made = devlinkcmd()
    made["cmd"], made["version"] = command, 1
    made["attrs"] = [("DEVLINK_ATTR_BUS_NAME", bus), ("DEVLINK_ATTR_DEV_NAME", address), *attributes]
    return made


def _exchange(devlink: Any, made: Any) -> tuple[Any, ...]:
    return tuple(devlink.nlm_request(made, msg_type=devlink.prid, msg_flags=NLM_F_REQUEST | NLM_F_ACK))


@contextmanager
def _devlink(doing: str) -> Iterator[Any]:
    try:
        with DL() as devlink:
            yield devlink
    except NetlinkError as error:
        raise KernelError(error.code, doing) from error
    except OSError as error:
        raise KernelError(error.errno or errno.EIO, doing) from error

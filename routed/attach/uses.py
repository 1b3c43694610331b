"""Whether the server itself uses a network device that a pod could have: it is nobody's to take then.

Asks and changes nothing. What rides on a device from another network namespace is not seen.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from routed.attach.answers import Device, IPInterface
from routed.attach.kernel import Rtnl
from routed.attach.sysfs import uppers


def is_used(addresses: Collection[IPInterface], uppers: Collection[str], *, enslaved: bool) -> bool:
    """Whether a device is in use that has these addresses and these devices on top of it, or is part of another one."""
    return enslaved or bool(addresses) or bool(uppers)


def use_of(tree: Path, home: Rtnl, device: Device) -> str:
    """Return what the server has a device for, in words; empty when it is free. `tree` is like /sys."""
    addresses, above = home.addresses(device.index), uppers(tree, device.name)
    if not is_used(addresses, above, enslaved=device.master is not None):
        return ""
    what = ", ".join((*map(str, addresses), *above)) or "part of another device"
    return f"{device.name} ({what})"

"""Ownership, written into the kernel: the ifalias of a slot's devices, a number on routes and queues.

``routed`` says that a device is ours. A slot in use says also whose it is and where to look for it, so that the links
plane needs no memory: after a restart the kernel alone tells what exists. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from routed.attach.errors import MarkTooLong
from routed.domain.workload import AttachmentId

OURS = "routed"
"""On both ends of a free wire, and on the bridge's end always."""
IN_USE = f"{OURS} "
"""How the mark of a slot in use begins."""
ORIGIN = 82
"""Protocol number ("R") of the routes that a pod asked for: others may add routes to a pod (rtnetlink(7))."""
VF = f"{OURS}-vf "
"""How the alias of a VF that was given to a pod begins; its PCI address follows."""
SHAPER = 0x5254_0000
"""Handle ("RT") of the token buckets on our wires; ``tc qdisc`` prints ``5254:``."""
LIMIT = 255
"""Bytes; IFALIASZ without its terminator (linux/if.h)."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Whom a slot serves."""

    id: AttachmentId
    netns: str

    def text(self) -> str:
        """Return the ifalias; MarkTooLong when the kernel could not hold it."""
        text = f"{beginning(self.id)}{self.netns}"
        length = len(text.encode())
        if length > LIMIT:
            raise MarkTooLong(
                f"the ownership mark of {self.id} would be {length} bytes of {LIMIT}: the path {self.netns} is too long"
            )
        return text


def beginning(attachment: AttachmentId) -> str:
    """Return how this attachment's mark begins, whatever its netns path."""
    return f"{IN_USE}{attachment.container_id} {attachment.ifname} "


def is_ours(alias: str) -> bool:
    """Whether a device with this ifalias belongs to us."""
    return alias == OURS or alias.startswith(IN_USE)


def parse(alias: str) -> Mark | None:
    """Return whom the slot with this ifalias serves, None when it is free or not ours."""
    fields = alias.split(" ", 3)
    if len(fields) != 4 or fields[0] != OURS or not all(fields):
        return None
    return Mark(AttachmentId(fields[1], fields[2]), fields[3])

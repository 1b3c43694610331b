"""All that the intent is computed from, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from routed.domain.rack import Rack, Server, Uplink
from routed.domain.workload import Attachment, AttachmentId


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable view; the store publishes a new one for every change."""

    revision: int
    rack: Rack
    server: Server
    uplink: Uplink
    slots: int
    """Slots 0 to ``slots - 1`` are kept plugged, whether a pod uses them or not."""
    attachments: Mapping[AttachmentId, Attachment] = field(default_factory=lambda: MappingProxyType({}))
    draining: bool = False
    """The server leaves the fabric: nothing is announced any more, everything else stays."""

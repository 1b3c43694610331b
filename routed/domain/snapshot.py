"""All that the intent is computed from, at one moment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from ovs_flows.model import Mirror
from routed.domain.rack import Rack, Server, Uplink
from routed.domain.sides import Side
from routed.domain.wiring import Vf, wire_name
from routed.domain.workload import Attachment, AttachmentId, IPAddress

DRAINED = "this server is drained: it announces no routes until `routed undrain`"
"""Why nothing can be attached while `Snapshot.draining`."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where this server is. Compared by identity: it changes rarely, and every intent depends on it."""

    rack: Rack
    server: Server
    uplink: Uplink
    sides: tuple[Side, ...] = ()
    """How each ToR of the rack can be reached, in the rack's order; empty where nobody watches."""
    vfs: Mapping[int, Vf] = field(default_factory=lambda: MappingProxyType({}))
    """The VFs that pods can have, by slot."""

    def wire(self, attachment: Attachment) -> str:
        """Return the name of the bridge's end: a VF's representor, ``rt4099`` for one that is not there (any more)."""
        vf = self.vfs.get(attachment.slot)
        return wire_name(attachment.slot) if vf is None or vf.address != attachment.wishes.device else vf.representor

    def slot_of(self, device: str) -> int | None:
        """Return the slot of the VF at a PCI address, None when there is no such VF."""
        return next((slot for slot, vf in self.vfs.items() if vf.address == device), None)

    def mac(self, attachment: Attachment) -> str:
        """Return the MAC address of a pod's interface."""
        return self.uplink.mac if self.uplink.shared else attachment.mac


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An immutable view; the store publishes a new one for every change."""

    revision: int
    place: Place
    slots: int
    """Slots 0 to ``slots - 1`` are kept plugged, whether a pod uses them or not."""
    attachments: Mapping[AttachmentId, Attachment] = field(default_factory=lambda: MappingProxyType({}))
    draining: bool = False
    """The server is out of the fabric: nothing is announced, everything else stays."""

    mirrors: Mapping[AttachmentId, Mirror] = field(default_factory=lambda: MappingProxyType({}))
    """Pods whose packets are copied to somebody who looks for trouble; attachments all of them."""

    taken: Mapping[IPAddress, str] = field(default_factory=lambda: MappingProxyType({}))
    """Addresses that another server has by now, and which one; whoever still uses them here is cordoned."""

    def owner_elsewhere(self, attachment: Attachment) -> str | None:
        """Return which server an address of this attachment belongs to by now, None when all are ours."""
        return next((self.taken[address] for address in attachment.addresses if address in self.taken), None)

    @property
    def rack(self) -> Rack:
        """The rack, as its file describes it."""
        return self.place.rack

    @property
    def server(self) -> Server:
        """This server, as the rack file lists it."""
        return self.place.server

    @property
    def uplink(self) -> Uplink:
        """What was observed last of the way out."""
        return self.place.uplink

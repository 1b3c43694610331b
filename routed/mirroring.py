"""What `routed mirror` asks of the agent: copies of a pod's packets, for whoever looks for trouble.

Keeps nothing of its own. The mirrors are in the Open vSwitch database and name the attachment that they are of, so an
agent that starts takes them over; one whose attachment is gone is nobody's, and goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from ovs_flows.model import Mirror
from routed.attach import hostfacts
from routed.control import Refusal
from routed.domain.intent import Owner, Standing
from routed.domain.wiring import FIRST_OFPORT
from routed.domain.workload import Attachment, AttachmentId
from routed.reconcile.loop import Loop
from routed.store import Store

WAYS = {"in": (False, True), "out": (True, False), "both": (True, True)}
"""As the pod sees it -> whether what it sends and what it receives is copied."""
_OFPORTS = range(FIRST_OFPORT - 100, FIRST_OFPORT)
"""Numbers for the ports that copies leave by."""
_DEADLINE_S = 5.0


class Copier(Protocol):
    """What copies packets (`ovs_flows.mirrors`)."""

    async def observe(self) -> Mapping[str, Mirror]:
        """Return the mirrors that there are, by the port that they are of."""

    async def is_plugged(self, device: str) -> bool:
        """Tell whether somebody else plugged a device into the bridge; OvsError when it is on another one."""


class Mirroring:
    """Starts and stops mirrors, one for a pod and one to a port."""

    def __init__(
        self, store: Store, loop: Loop[Owner], mirrors: Copier | None, *, deadline_s: float = _DEADLINE_S
    ) -> None:
        """`mirrors` is None on a server whose packets do not pass Open vSwitch; `deadline_s` is for each change."""
        self._store, self._loop, self._mirrors, self._deadline_s = store, loop, mirrors, deadline_s

    async def adopt(self) -> None:
        """Take over what an earlier agent has mirrored, of pods that are still there."""
        found = {} if self._mirrors is None else await self._mirrors.observe()
        for attachment in self._store.snapshot.attachments.values():
            mirror = found.get(self._store.snapshot.place.wire(attachment))
            if mirror is not None and mirror.whose == str(attachment.id):
                self._store.mirror(attachment.id, mirror)

    async def start(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Mirror ``pod`` to the device ``to`` in ``direction`` and return its row; Refusal or OvsError."""
        attachment, target = self._attachment(wanted["pod"]), wanted["to"]
        sent, received = WAYS[wanted["direction"]]
        number = 0 if await self._is_plugged(attachment.id, target) else self._free_number(attachment.id)
        before = self._store.snapshot.mirrors.get(attachment.id)
        self._store.mirror(attachment.id, Mirror(target, number, str(attachment.id), sent=sent, received=received))
        try:
            await self._loop.wait_for(Standing.MIRRORS, deadline_s=self._deadline_s)
        except BaseException:  # cancellation too: nobody waits for it any more
            self._store.mirror(attachment.id, before)
            raise
        return self._row(attachment.id)

    async def stop(self, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        """End the mirror of ``pod``, or all without one, and return their rows; Refusal or OvsError."""
        mirrored = list(self._store.snapshot.mirrors)
        if "pod" in wanted:
            mirrored = [self._attachment(wanted["pod"]).id]
            if mirrored[0] not in self._store.snapshot.mirrors:
                raise Refusal(f"{wanted['pod']} is not mirrored; `routed mirror list` shows what is")
        rows = [self._row(key) for key in mirrored]
        for key in mirrored:
            self._store.mirror(key, None)
            await self._loop.wait_for(key, deadline_s=self._deadline_s)
        return rows

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each mirror."""
        return [self._row(key) for key in self._store.snapshot.mirrors]

    def _row(self, key: AttachmentId) -> dict[str, Any]:
        attachment, mirror = self._store.snapshot.attachments[key], self._store.snapshot.mirrors[key]
        work = self._loop.works().get(Standing.MIRRORS)
        port = self._store.snapshot.place.wire(attachment)
        found = (self._loop.lanes["mirrors"].actual or {}).get(port)
        return {
            "pod": str(attachment.pod),
            "port": port,
            "to": mirror.target,
            "direction": next(name for name, way in WAYS.items() if way == (mirror.sent, mirror.received)),
            "error": None if found == mirror or work is None else str(work.error or "not there yet"),
        }

    def _attachment(self, pod: str) -> Attachment:
        for attachment in self._store.snapshot.attachments.values():
            if not attachment.leaving and pod in (str(attachment.pod), *map(str, attachment.addresses)):
                return attachment
        raise Refusal(f"no pod {pod} on this server; `routed show attachments` lists them, as namespace/name")

    async def _is_plugged(self, key: AttachmentId, target: str) -> bool:
        """Tell whether somebody else has plugged this device into the bridge; Refusal when it can be no mirror's."""
        if self._mirrors is None:
            raise Refusal("packets of this server's pods do not pass Open vSwitch: use tcpdump on the pod's interface")
        for other, mirror in self._store.snapshot.mirrors.items():
            if other != key and mirror.target == target:
                raise Refusal(f"{target} has the copies of another pod's packets already: name another device")
        if await self._mirrors.is_plugged(target):
            return True
        addresses = await asyncio.to_thread(hostfacts.addresses, target)
        if addresses is None:
            raise Refusal(f"there is no device {target}: make it first (ip tuntap add {target} mode tap)")
        if addresses:
            raise Refusal(f"{target} has the address {addresses[0]}, which a port cannot use: name another device")
        return False

    def _free_number(self, key: AttachmentId) -> int:
        used = {mirror.ofport for other, mirror in self._store.snapshot.mirrors.items() if other != key}
        return next(number for number in _OFPORTS if number not in used)

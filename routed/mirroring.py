"""What `routed mirror` asks of the agent: copies of a pod's packets, for whoever looks for trouble.

Keeps nothing of its own. The mirrors are in the Open vSwitch database and name the attachment that they are of, so an
agent that starts takes them over; one whose attachment is gone is nobody's, and goes. A pod may end at any `await`:
whether it is there is asked again afterwards.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import structlog

from ovs_flows.errors import OvsError
from ovs_flows.model import Mirror
from routed.attach import hostfacts
from routed.control import Refusal
from routed.domain.intent import MirrorOf, Owner
from routed.domain.wiring import FIRST_OFPORT
from routed.domain.workload import Attachment, AttachmentId
from routed.reconcile.loop import Loop
from routed.store import Store

WAYS = {"in": (False, True), "out": (True, False), "both": (True, True)}
"""As the pod sees it -> whether what it sends and what it receives is copied."""
_OFPORTS = range(FIRST_OFPORT - 100, FIRST_OFPORT)
"""Numbers for the ports that copies leave by."""
_DEADLINE_S = 5.0

log = structlog.get_logger(__name__)


class Copier(Protocol):
    """What copies packets (`ovs_flows.mirrors`)."""

    async def observe(self) -> Mapping[str, Mirror]:
        """Return the mirrors that there are, by the port that they are of."""

    async def number_for(self, device: str, numbers: Iterable[int]) -> int:
        """Return one of these to plug a device with, 0 when others have plugged it; OvsError when it cannot be used."""


class Mirroring:
    """Starts and stops mirrors, one for a pod and one to a port; one change at a time."""

    def __init__(
        self, store: Store, loop: Loop[Owner], mirrors: Copier | None, *, deadline_s: float = _DEADLINE_S
    ) -> None:
        """`mirrors` is None on a server whose packets do not pass Open vSwitch; `deadline_s` is for each change."""
        self._store, self._loop, self._mirrors, self._deadline_s = store, loop, mirrors, deadline_s
        self._turn = asyncio.Lock()

    async def adopt(self) -> None:
        """Take over what an earlier agent has mirrored, of pods that are still there; none when nobody can tell."""
        try:
            found = {} if self._mirrors is None else await self._mirrors.observe()
        except OvsError as error:  # pods come first: the agent serves them, and the loop ends what nobody took over
            log.warning("mirrors.unknown", error=str(error))
            return
        for attachment in self._store.snapshot.attachments.values():
            mirror = found.get(self._store.snapshot.place.wire(attachment))
            if mirror is not None and mirror.whose == str(attachment.id):
                self._store.mirror(attachment.id, mirror)

    async def start(self, wanted: Mapping[str, str]) -> dict[str, Any]:
        """Mirror ``pod`` to the device ``to`` in ``direction`` and return its row; Refusal or OvsError."""
        async with self._turn:
            self._attachment(wanted["pod"])
            number = await self._number(wanted["to"])
            key = self._attachment(wanted["pod"]).id
            self._check_unshared(key, wanted["to"])
            sent, received = WAYS[wanted["direction"]]
            await self._make(key, Mirror(wanted["to"], number, str(key), sent=sent, received=received))
            if self._attachment(wanted["pod"]).id != key:
                raise Refusal(f"{wanted['pod']} has ended meanwhile, and another one has come")
            return self._row(key)

    async def _make(self, key: AttachmentId, mirror: Mirror) -> None:
        """Wait for a mirror; what was before is back when it cannot be made."""
        before = self._store.snapshot.mirrors.get(key)
        self._store.mirror(key, mirror)
        try:
            await self._loop.wait_for(MirrorOf(key), deadline_s=self._deadline_s)
        except BaseException:  # cancellation too: nobody waits for it any more
            self._store.mirror(key, before)
            raise

    async def stop(self, wanted: Mapping[str, str]) -> list[dict[str, Any]]:
        """End the mirror of ``pod``, or all without one, and return their rows; Refusal when one is still there."""
        async with self._turn:
            mirrored = list(self._store.snapshot.mirrors)
            if "pod" in wanted:
                mirrored = [self._attachment(wanted["pod"]).id]
                if mirrored[0] not in self._store.snapshot.mirrors:
                    raise Refusal(f"{wanted['pod']} is not mirrored; `routed mirror list` shows what is")
            rows = [self._row(key) for key in mirrored]
            for key in mirrored:
                self._store.mirror(key, None)
            waits = (self._loop.wait_for(MirrorOf(key), deadline_s=self._deadline_s) for key in mirrored)
            ends = zip(rows, await asyncio.gather(*waits, return_exceptions=True), strict=True)
            late = [f"{row['pod']} ({error})" for row, error in ends if error is not None]
            if late:
                raise Refusal(f"still mirrored, the agent goes on trying to end it: {', '.join(late)}")
            return rows

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each mirror."""
        return [self._row(key) for key in self._store.snapshot.mirrors]

    def _row(self, key: AttachmentId) -> dict[str, Any]:
        attachment, mirror = self._store.snapshot.attachments[key], self._store.snapshot.mirrors[key]
        work = self._loop.works().get(MirrorOf(key))
        port = self._store.snapshot.place.wire(attachment)
        found = (self._loop.lanes["mirrors"].actual or {}).get(port)
        error = None if work is None else work.error
        return {
            "pod": str(attachment.pod),
            "port": port,
            "to": mirror.target,
            "direction": next(name for name, way in WAYS.items() if way == (mirror.sent, mirror.received)),
            "error": None if found == mirror else str(error or "not there yet"),
        }

    def _attachment(self, pod: str) -> Attachment:
        for attachment in self._store.snapshot.attachments.values():
            if not attachment.leaving and pod in (str(attachment.pod), *map(str, attachment.addresses)):
                return attachment
        raise Refusal(f"no pod {pod} on this server; `routed show attachments` lists them, as namespace/name")

    def _check_unshared(self, key: AttachmentId, target: str) -> None:
        for other, mirror in self._store.snapshot.mirrors.items():
            if other != key and mirror.target == target:
                raise Refusal(f"{target} has the copies of another pod's packets already: name another device")

    async def _number(self, target: str) -> int:
        """Return the number to plug a device with, 0 when others have plugged it; Refusal when it cannot be used."""
        if self._mirrors is None:
            raise Refusal("packets of this server's pods do not pass Open vSwitch: use tcpdump on the pod's interface")
        used = {mirror.ofport for mirror in self._store.snapshot.mirrors.values() if mirror.target != target}
        number = await self._mirrors.number_for(target, [number for number in _OFPORTS if number not in used])
        if number == 0:
            return 0
        addresses = await asyncio.to_thread(hostfacts.addresses, target)
        if addresses is None:
            raise Refusal(f"there is no device {target}: make it first (ip tuntap add {target} mode tap)")
        if addresses:
            raise Refusal(f"{target} has the address {addresses[0]}, which a port cannot use: name another device")
        return number

"""What the agent does about each CNI command, in terms of the store and the loop.

ADD puts an attachment into the store and waits until the loop has built it; DEL lets it leave and waits until every
plane has lost it. Nothing is rolled back by hand: an ADD that fails discards its attachment, and the loop undoes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from itertools import starmap

from routed.cni.errors import (
    InvalidEnvironment,
    LimitedConnectivity,
    TryAgainLater,
    Unavailable,
    UnknownContainer,
    code_for,
)
from routed.cni.protocol import AttachmentRequest, GcRequest, Request
from routed.cni.result import IP, Interface, Result, Route, chain, differences
from routed.devices import Devices, equipped
from routed.domain.intent import Owner
from routed.domain.snapshot import DRAINED
from routed.domain.wiring import turn
from routed.domain.workload import Attachment, AttachmentId, IPAddress, PodRef, Wishes, host_interface
from routed.reconcile.loop import Difference, Loop
from routed.store import Store
from routed.telemetry import Telemetry

_EVERYTHING: Mapping[int, IPv4Network | IPv6Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


class AttachmentDrifted(LimitedConnectivity):
    """CHECK found that something of the attachment is not as it must be."""


class Verbs:
    """The handler behind the CNI socket."""

    def __init__(  # noqa: PLR0913 - a composition root's one call
        self,
        store: Store,
        loop: Loop[Owner],
        telemetry: Telemetry,
        *,
        ailment: Callable[[], str | None],
        wishes: Callable[[PodRef], Awaitable[Wishes]],
        devices: Devices,
        shortfall: Callable[[Attachment], Awaitable[str | None]],
        deadline_s: float,
    ) -> None:
        """`ailment` says why no pod could be attached now, None when one could; `deadline_s` bounds ADD and DEL.

        `wishes` says what a pod asks for; it may raise CniError. `shortfall` says why a pod's packets are forwarded
        slower than they should be, None when they are not.
        """
        self._store, self._loop, self._telemetry, self._devices = store, loop, telemetry, devices
        self._ailment, self._wishes, self._deadline_s = ailment, wishes, deadline_s
        self._shortfall = shortfall

    async def add(self, request: AttachmentRequest) -> Result:
        """Attach the pod, or confirm that it is attached."""
        with self._measured("ADD"):
            if self._store.snapshot.draining:
                raise TryAgainLater(DRAINED)
            self._check_beside(request.attachment)
            is_new = request.attachment not in self._store.snapshot.attachments
            wishes = await self._wishes(request.pod)
            async with self._devices.of(request) as device:
                wishes = equipped(wishes, request, device)
                attachment = await self._store.put(request.attachment, request.pod, request.netns, wishes)
            try:
                await self._loop.wait_for(attachment.id, deadline_s=self._deadline_s)
                self._confirm(attachment)
            except BaseException:  # cancellation too: nobody waits for this pod any more
                self._devices.note(device, works=False)
                if is_new:
                    await asyncio.shield(self._store.discard(attachment.id, attachment.sequence))
                raise
            self._devices.note(device, works=True)
            return chain(request.config.previous, self._result(attachment))

    async def delete(self, request: AttachmentRequest) -> None:
        """Make the attachment not exist; when that takes too long it goes on, and the runtime asks again."""
        with self._measured("DEL"):
            await self._release(request.attachment)

    async def check(self, request: AttachmentRequest) -> None:
        """Raise unless every plane holds what the attachment needs, prevResult says the same, and packets are fast."""
        with self._measured("CHECK"):
            attachment = self._store.snapshot.attachments.get(request.attachment)
            if attachment is None or attachment.leaving:
                raise UnknownContainer(f"{request.attachment} is not attached here")
            owner = self._store.snapshot.owner_elsewhere(attachment)
            if owner is not None:
                raise AttachmentDrifted(f"cordoned: server {owner} has the address of {request.attachment} by now")
            if request.config.previous is not None:
                complaints = differences(request.config.previous, self._result(attachment))
                if complaints:
                    raise AttachmentDrifted("; ".join(complaints))
            found = await self._loop.inspect(request.attachment)
            if found:
                raise AttachmentDrifted("; ".join(map(_sentence, found)) + "; repair is under way")
            slow = await self._shortfall(attachment)
            if slow is not None:
                raise AttachmentDrifted(slow)

    async def gc(self, request: GcRequest) -> None:
        """Release what the runtime does not know any more of this network; goes on past failures, then raises them."""
        with self._measured("GC"):
            attachments = self._store.snapshot.attachments
            stale = {
                key: one.sequence
                for key, one in attachments.items()
                if key not in request.valid and one.wishes.network == request.config.name
            }
            outcomes = await asyncio.gather(*starmap(self._release, stale.items()), return_exceptions=True)
            failures = [f"{key}: {error}" for key, error in zip(stale, outcomes, strict=True) if error is not None]
            if failures:
                raise TryAgainLater("; ".join(failures))

    async def status(self, _request: Request) -> None:
        """Raise unless an ADD could be served; a full pool or a lost session is no reason to evict a server's pods."""
        with self._measured("STATUS"):
            ailment = self._ailment()
            if ailment is not None:
                raise Unavailable(ailment)

    def _check_beside(self, wanted: AttachmentId) -> None:
        """Raise when another interface of the pod leaves no way to this one."""
        snapshot = self._store.snapshot
        for key, other in snapshot.attachments.items():
            if key.container_id != wanted.container_id or key == wanted or other.leaving:
                continue
            if snapshot.uplink.shared:
                raise InvalidEnvironment(
                    f"CNI_IFNAME={wanted.ifname}: the pod has {key.ifname} of this network, and answers of another "
                    "interface would leave by that one and be dropped; give it no second one of the same network"
                )
            if turn(key.ifname) == turn(wanted.ifname):
                raise InvalidEnvironment(
                    f"CNI_IFNAME={wanted.ifname}: the pod's {key.ifname} of this network has the same number at its "
                    "end, which says whose routes come first; take a name with another number"
                )

    def _confirm(self, attachment: Attachment) -> None:
        """Raise when what was built is not wanted (any more): DEL, drain or another ADD came meanwhile."""
        self._check_beside(attachment.id)
        snapshot = self._store.snapshot
        if snapshot.draining:
            raise TryAgainLater(DRAINED)
        if snapshot.attachments.get(attachment.id) != attachment:
            raise TryAgainLater(f"{attachment.id} was removed while it was being attached")

    async def _release(self, attachment: AttachmentId, sequence: int | None = None) -> None:
        if await self._store.discard(attachment, sequence):
            await self._loop.wait_for(attachment, deadline_s=self._deadline_s)

    def _result(self, attachment: Attachment) -> Result:
        rack, mtu = self._store.snapshot.rack, self._store.snapshot.uplink.mtu
        pod = Interface(
            name=attachment.id.ifname,
            mac=self._store.snapshot.place.mac(attachment),
            mtu=attachment.mtu(mtu),
            sandbox=attachment.netns,
            pci_id=attachment.wishes.device or "",
        )
        gateways = [(address, rack.gateway(address)) for address in attachment.addresses]
        return Result(
            interfaces=(_wire(self._store.snapshot.place.wire(attachment), mtu), pod),
            ips=tuple(
                IP(address=host_interface(address), gateway=gateway, interface=1) for address, gateway in gateways
            ),
            routes=tuple(
                route
                for _, gateway in gateways
                for route in (
                    _default_route(gateway),
                    *(Route(dst=to, gw=gateway) for to in attachment.destinations(gateway.version)),
                )
            ),
        )

    @contextmanager
    def _measured(self, command: str) -> Iterator[None]:
        with self._telemetry.cni_seconds.labels(command).time():
            try:
                yield
            except Exception as error:
                self._telemetry.cni_errors.labels(command, code_for(error).code.name.lower()).inc()
                raise


@lru_cache(maxsize=4096)
def _wire(name: str, mtu: int) -> Interface:
    return Interface(name=name, mtu=mtu)


@lru_cache(maxsize=64)
def _default_route(gateway: IPAddress) -> Route:
    return Route(dst=_EVERYTHING[gateway.version], gw=gateway)


def _sentence(difference: Difference) -> str:
    if difference.found is None:
        return f"{difference.plane}: {difference.key} is missing"
    return f"{difference.plane}: {difference.key} is {difference.found}, not {difference.wanted}"

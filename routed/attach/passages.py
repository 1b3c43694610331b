"""The passages plane: what an uplink that pods share lets pass, in filters of the kernel's traffic control.

What is for a pod of this server goes into its wire, whether it comes in from a ToR or is on its way out, from another
pod, where it would otherwise go to a ToR and back. What comes from an address of a pool has to come from one that a pod
of this server has; which of them sent it, its door has seen to (`routed.attach.doors`). And what a ToR sends here by
mistake, for an address of a pool that no pod has, is dropped before this server's own stack would send it back.

The server's own packets pass; so does everything that is no IP packet and no ARP.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from routed.attach.answers import Device
from routed.attach.errors import KernelError, NotFound, UplinkUnusable, failures
from routed.attach.filters import (
    CHAIN,
    ETH_ARP,
    Filter,
    Hook,
    Verdict,
    add_filter,
    changes,
    of_destination,
    of_source,
)
from routed.attach.kernel import Rtnl
from routed.attach.veth import outer_index, wire_of
from routed.domain.wiring import FENCED, Passage
from routed.domain.workload import IPNetwork
from routed.threads import apart

BROKEN = Passage("")
"""What is observed of a prefix that has some other filters of ours; nobody wants that."""


def filters(prefix: IPNetwork, passage: Passage, mac: str) -> frozenset[Filter]:
    """Return what makes a passage; ``mac`` is the uplink's, and so that of all pods."""
    if passage.wire is not None:
        into = outer_index(passage.wire)
        return frozenset(
            {
                of_source(Hook.EGRESS, Verdict.LOOK_ON, prefix, mac),
                of_destination(Hook.EGRESS, Verdict.OUT, prefix, CHAIN, into),
                of_destination(Hook.INGRESS, Verdict.OUT, prefix, device=into),
            }
        )
    fence = {of_source(Hook.EGRESS, Verdict.DROP, prefix), of_destination(Hook.INGRESS, Verdict.DROP, prefix)}
    if prefix.version == 4:  # neither pods nor servers ever ask on behalf of a pod's address
        fence.add(Filter(Hook.EGRESS, Verdict.DROP, source=prefix, protocol=ETH_ARP))
    return frozenset(fence)


class Passages:
    """What the uplink does: prefix -> Passage. A prefix with other filters than it should have counts as not there."""

    name = "passages"
    streams = False

    def __init__(self, uplink: str) -> None:
        self._uplink = uplink

    async def observe(self) -> Mapping[IPNetwork, Passage]:
        """Return all passages, strays included."""
        return await apart(self._observe)

    async def upsert(self, items: Mapping[IPNetwork, Passage]) -> Mapping[IPNetwork, Exception]:
        """Make these passages be so."""
        return await apart(self._each, items, lambda at, prefix: at.set(prefix, items[prefix]))

    async def remove(self, keys: Collection[IPNetwork]) -> Mapping[IPNetwork, Exception]:
        """Close these passages."""
        return await apart(self._each, keys, lambda at, prefix: at.clear(prefix))

    def _observe(self) -> Mapping[IPNetwork, Passage]:
        with Rtnl() as home:
            device = _device(home, self._uplink)
            found = _by_prefix(home.filters(device.index))
        return {prefix: _passage(prefix, frozenset(handles), device.mac) for prefix, handles in found.items()}

    def _each(
        self, prefixes: Iterable[IPNetwork], call: Callable[[_Uplink, IPNetwork], None]
    ) -> Mapping[IPNetwork, Exception]:
        with Rtnl() as home:
            uplink = _Uplink(home, _device(home, self._uplink))
            return failures(prefixes, lambda prefix: call(uplink, prefix))


class _Uplink:
    """The device, for one batch."""

    def __init__(self, home: Rtnl, device: Device) -> None:
        self._home, self._index, self._mac = home, device.index, device.mac
        home.make_room(device.index)

    def set(self, prefix: IPNetwork, passage: Passage) -> None:
        requests = [add_filter(self._index, one) for one in filters(prefix, passage, self._mac)]
        try:
            self._home.apply(*requests)
        except KernelError as error:
            if error.code != errno.EEXIST:
                raise
            self.clear(prefix)
            self._home.apply(*requests)

    def clear(self, prefix: IPNetwork) -> None:
        found = _by_prefix(self._home.filters(self._index)).get(prefix, {})
        with suppress(NotFound):
            self._home.apply(*changes(self._index, found, ()))


def _device(home: Rtnl, uplink: str) -> Device:
    device = home.device(uplink)
    if device is None:
        raise UplinkUnusable(f"there is no device {uplink}")
    return device


def _by_prefix(found: Mapping[Filter, int]) -> dict[IPNetwork, dict[Filter, int]]:
    by_prefix: dict[IPNetwork, dict[Filter, int]] = {}
    for one, handle in found.items():
        prefix = one.source or one.destination
        if prefix is not None:
            by_prefix.setdefault(prefix, {})[one] = handle
    return by_prefix


def _passage(prefix: IPNetwork, found: frozenset[Filter], mac: str) -> Passage:
    wires = {wire for one in found if one.device and (wire := wire_of(one.device)) is not None}
    whole = (passage for passage in (FENCED, *map(Passage, wires)) if found == filters(prefix, passage, mac))
    return next(whole, BROKEN)

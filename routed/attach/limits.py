"""The limits plane: how fast a pod may send and receive.

A token bucket (tc-tbf(8)) on each end of a slot's wire: what the bridge sends to the pod leaves through rt<n>, what
the pod sends leaves through rp<n>. Both are out of the pod's reach, and it makes no difference which datapath the
bridge has. Our buckets carry a handle of our own; nobody else's queueing discipline is touched, but for what is at the
root of a wire that is to be limited.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress

from routed.attach import mark
from routed.attach.errors import NotFound, SlotMissing, failures
from routed.attach.kernel import Rtnl
from routed.attach.rtnl import delete_shaper, set_shaper
from routed.attach.slots import SlotSpace
from routed.attach.veth import inner_index, is_wire
from routed.domain.wiring import Limit
from routed.threads import apart


class Limits:
    """Limits of wires: bridge's end -> Limit."""

    name = "limits"
    streams = False

    def __init__(self, space: SlotSpace) -> None:
        self._space = space

    async def observe(self) -> Mapping[str, Limit]:
        """Return the limits of all wires that have one."""
        return await apart(self._observe)

    async def upsert(self, items: Mapping[str, Limit]) -> Mapping[str, Exception]:
        """Limit these wires so."""
        return await apart(self._each, items, lambda ends, wire: ends.limit(wire, items[wire]))

    async def remove(self, keys: Collection[str]) -> Mapping[str, Exception]:
        """Let these wires carry what they can."""
        return await apart(self._each, keys, lambda ends, wire: ends.limit(wire, Limit(None, None)))

    def _observe(self) -> Mapping[str, Limit]:
        with Rtnl() as home, self._space.run(Rtnl) as slots:
            outer, inner = home.shapers(mark.SHAPER), slots.shapers(mark.SHAPER)
            if not outer and not inner:
                return {}
            names = {one.name: one.index for one in home.devices(alias=mark.OURS) if is_wire(one.name)}
        found = {name: Limit(outer.get(index), inner.get(inner_index(name))) for name, index in names.items()}
        return {name: limit for name, limit in found.items() if limit != Limit(None, None)}

    def _each(self, wires: Iterable[str], call: Callable[[_Ends, str], None]) -> Mapping[str, Exception]:
        with Rtnl() as home, self._space.run(Rtnl) as slots:
            ends = _Ends(home, slots)
            return failures(wires, lambda wire: call(ends, wire))


class _Ends:
    """Where the two ends of a wire are."""

    def __init__(self, home: Rtnl, slots: Rtnl) -> None:
        self._home, self._slots = home, slots

    def limit(self, wire: str, limit: Limit) -> None:
        """Limit a wire, or stop to where there is no limit; SlotMissing when there is no wire to limit."""
        outer = self._home.device(wire)
        if outer is not None and mark.is_ours(outer.alias):
            _set(self._home, outer.index, limit.to_pod)
            _set(self._slots, inner_index(wire), limit.from_pod)
        elif limit != Limit(None, None):
            raise SlotMissing(f"{wire} does not exist")


def _set(where: Rtnl, index: int, bytes_s: int | None) -> None:
    if bytes_s is not None:
        where.apply(set_shaper(index, mark.SHAPER, bytes_s))
    elif index in where.shapers(mark.SHAPER):
        with suppress(NotFound):  # gone with its device
            where.apply(delete_shaper(index, mark.SHAPER))

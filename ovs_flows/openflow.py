"""The flows plane: what is programmed into the bridge, kept as the agent wants it.

Owns the connection to the bridge's management socket and the way changes are made: one atomic bundle, in which only
what differs is deleted or added, so that traffic is never interrupted and unchanged flows keep their counters. Never
commits a bundle of which OVS refused a part: OVS would leave that part out and apply the rest.

The bridge is ours alone: `Flows.observe` returns every flow on it, strays under the cookie that they carry, and the
base pipeline's bundle takes those of the first table along, since any of them may stand before ours. Groups and meters
carry no cookie in OpenFlow: all groups are the base pipeline's, and a meter's number says whose it is.

Open vSwitch takes no meters in a bundle, and deletes the flows of a meter that is deleted: meters are made before the
bundle that uses them, and go after the one that does not any more. Only who has any, or wants one, pays for that.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from ovs_flows import messages
from ovs_flows.connection import Answer, Connection
from ovs_flows.cookies import BASE_OBJECT, cookie, object_of
from ovs_flows.errors import Refused, Unreachable
from ovs_flows.messages import Message
from ovs_flows.meters import LAST, numbers, owner
from ovs_flows.model import Entry, Flow, Meter, flows_of, groups_of, meters_of
from ovs_flows.tables import CLASSIFY
from ovs_flows.wire import decode_flow_statistics, decode_groups, decode_meters

Entries = frozenset[Entry]
BASE = cookie(BASE_OBJECT)
_RETRY_S = 0.05
_RETRY_MAX_S = 1.0
_UNKNOWN_METER = (12, 3)
"""The OpenFlow error about a meter that is not there (OpenFlow 1.4 7.5.4.13)."""
_DUMP_ONE_BY_ONE = 32
"""Up to this many cookies are asked for singly; for more the whole bridge is dumped."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Change:
    """A bundle in the making: messages in the order that OVS needs, each with the key that it is for."""

    before: list[tuple[int, Message]] = field(default_factory=list)
    deletes: list[tuple[int, Message]] = field(default_factory=list)
    adds: list[tuple[int, Message]] = field(default_factory=list)
    after: list[tuple[int, Message]] = field(default_factory=list)

    def plan(self, key: int, have: Entries, want: Entries) -> None:
        """Add what turns ``have`` into ``want``: groups before flows that use them, and after them when they go."""
        want_flows = flows_of(want - have)
        replaced = {flow.identity for flow in want_flows}
        self.adds += ((key, messages.add_flow(key, flow)) for flow in want_flows)
        self.deletes += (
            (key, messages.delete_flow(key, flow)) for flow in flows_of(have - want) if flow.identity not in replaced
        )
        numbers = {group.number for group in groups_of(have)}
        for group in groups_of(want - have):
            change = messages.modify_group if group.number in numbers else messages.add_group
            self.before.append((key, change(group)))
        gone = numbers - {group.number for group in groups_of(want)}
        self.after += ((key, messages.delete_group(number)) for number in gone)

    def evict(self, found: Mapping[int, Entries]) -> None:
        """Delete what is not ours of the first table, on the base pipeline's behalf: packets would meet it before."""
        self.deletes += ((BASE, messages.delete_flow(key, flow)) for key, flow in _in_the_way(found))

    def messages(self) -> list[tuple[int, Message]]:
        return [*self.before, *self.deletes, *self.adds, *self.after]


class Flows:
    """Plane: cookie -> flows, meters and, for the base cookie, groups."""

    name = "flows"
    streams = False

    def __init__(self, socket: Path, wake: Callable[[], None]) -> None:
        self._socket = socket
        self._wake = wake
        self._connection: Connection | None = None
        self._bundles = 0
        self._metered: set[int] = set()
        """Cookies that have meters, as far as known."""

    async def run(self) -> None:
        """Keep a connection until cancelled; wakes the loop each time that there is a new one, and when it is lost."""
        delay = _RETRY_S
        while True:
            try:
                connection = await Connection.open(self._socket, self._wake)
            except Unreachable as error:
                if delay == _RETRY_S:
                    log.warning("openflow.unreachable", error=str(error))
                delay = min(delay * 2, _RETRY_MAX_S)
            else:
                await self._serve(connection)
                delay = _RETRY_S
            await asyncio.sleep(delay)

    async def _serve(self, connection: Connection) -> None:
        """Let the plane use a connection until it is lost."""
        try:
            await connection.exchange([messages.monitor_flows()])  # refused by OVS before 2.17: then the resync looks
            self._connection = connection
            log.info("openflow.connected", socket=str(self._socket))
            self._wake()
            await connection.closed.wait()
            log.warning("openflow.lost", error="closed by the switch")
        except Unreachable as error:
            log.warning("openflow.lost", error=str(error))
        finally:
            self._connection = None
            connection.close()
            self._wake()  # to see that nothing can be seen any more

    async def observe(self) -> Mapping[int, Entries]:
        """Return everything that the bridge has, by cookie; Unreachable when it cannot tell."""
        questions = [messages.dump_flows(), messages.dump_groups(), messages.dump_meter()]
        found = _entries(questions, await self._connected().exchange(questions))
        self._metered = {key for key, entries in found.items() if meters_of(entries)}
        return found

    async def upsert(self, items: Mapping[int, Entries]) -> Mapping[int, Exception]:
        """Make each cookie's entries exactly these, all in one bundle.

        A key of which OVS refuses an entry is left as it was and reported; the others go through. Raises Unreachable
        when the switch cannot be asked, Refused when it does not say which entry it minds.
        """
        metered = {key: items[key] for key in items if key in self._metered or meters_of(items[key])}
        failed = await self._make_meters(metered) if metered else {}
        failed |= await self._upsert_flows({key: items[key] for key in items if key not in failed})
        if metered:
            await self._drop_meters({key: items[key] for key in metered if key not in failed})
        return failed

    async def _upsert_flows(self, items: Mapping[int, Entries]) -> dict[int, Exception]:
        """Make each cookie's flows and groups exactly these."""
        have: Mapping[int, Entries] = {}  # nearly always so: then the first bundle is right, and asking costs no time
        questions = _questions(items)
        failed: dict[int, Exception] = {}
        while True:
            change = _Change()
            for key in items.keys() - failed.keys():
                change.plan(key, have.get(key, frozenset()), items[key])
            if BASE in items.keys() - failed.keys():
                change.evict(have)
            bundle = self._new_bundle(change.messages())
            found = await bundle.prepare(questions)
            questions = []
            if items.keys().isdisjoint(found) and not (BASE in items and _in_the_way(found)):
                refused = await bundle.close()
                if not refused:
                    return failed
                failed |= refused
            else:
                await bundle.discard()
                have = found

    async def remove(self, keys: Collection[int]) -> Mapping[int, Exception]:
        """Delete all entries of these cookies; the base cookie takes every group along."""
        wanted = [(key, messages.delete_cookie(key)) for key in keys]
        if BASE in keys:
            wanted.append((BASE, messages.delete_group()))
        failed = await self._tell(wanted)
        metered = self._metered.intersection(keys) - failed.keys()
        if metered:
            await self._drop_meters(dict.fromkeys(metered, frozenset()))
        return failed

    async def _make_meters(self, items: Mapping[int, Entries]) -> dict[int, Exception]:
        """Make the meters that these want; those that none of them wants stay."""
        self._metered.update(items)
        wanted = [(key, meter) for key, entries in items.items() for meter in meters_of(entries)]
        have, failed = await self._meters(wanted)
        changes = [
            (key, messages.modify_meter(meter) if meter.number in have else messages.add_meter(meter))
            for key, meter in wanted
            if key not in failed and have.get(meter.number) != meter
        ]
        return failed | await self._tell(changes)

    async def _drop_meters(self, items: Mapping[int, Entries]) -> None:
        """Delete the meters of these cookies that they do not want; Open vSwitch minds none that is not there."""
        wanted = {meter.number for entries in items.values() for meter in meters_of(entries)}
        gone = [(key, number) for key in items for number in numbers(key) if number not in wanted]
        await self._tell([(key, messages.delete_meter(number)) for key, number in gone])
        self._metered -= {key for key, entries in items.items() if not meters_of(entries)}

    async def _meters(self, wanted: Sequence[tuple[int, Meter]]) -> tuple[Mapping[int, Meter], dict[int, Exception]]:
        """Return what these meters, each with its key, are now, by number; and the keys of which OVS did not tell."""
        answer = await self._connected().exchange([messages.dump_meter(meter.number) for _, meter in wanted])
        found = (decode_meters(content) for contents in answer.parts.values() for content in contents)
        minded = {xid: error for xid, error in answer.errors.items() if error.error != _UNKNOWN_METER}
        return {meter.number: meter for meters in found for meter in meters}, _blamed(minded, wanted, answer.first)

    async def _tell(self, wanted: Sequence[tuple[int, Message]]) -> dict[int, Exception]:
        """Send messages, each with the key that it is for; return the keys whose messages were refused."""
        if not wanted:
            return {}
        answer = await self._connected().exchange([message for _, message in wanted])
        return _blamed(answer.errors, wanted, answer.first)

    def _connected(self) -> Connection:
        if self._connection is None:
            raise Unreachable(f"no connection to the switch on {self._socket}")
        return self._connection

    def _new_bundle(self, wanted: Sequence[tuple[int, Message]]) -> _Bundle:
        self._bundles += 1
        return _Bundle(self._connected(), self._bundles, wanted)


@dataclass(slots=True)
class _Bundle:
    """Messages that are committed together, or not at all; each with the key that it is for."""

    connection: Connection
    number: int
    wanted: Sequence[tuple[int, Message]]
    first: int = 0
    """Transaction number of the first message."""
    errors: Mapping[int, Refused] = field(default_factory=dict)

    async def prepare(self, questions: Sequence[Message]) -> Mapping[int, Entries]:
        """Open the bundle and put everything into it; asks these questions first and returns what there is."""
        if not (self.wanted or questions):
            return {}
        opening = [messages.bundle_control(self.number, messages.OPEN)] if self.wanted else []
        self.first = self.connection.next_xid() + len(questions) + len(opening)
        adds = (
            messages.bundle_add(self.number, message, xid) for xid, (_, message) in enumerate(self.wanted, self.first)
        )
        answer = await self.connection.exchange([*questions, *opening, *adds])
        asked = range(answer.first, answer.first + len(questions))
        self.errors = {xid: error for xid, error in answer.errors.items() if xid not in asked}
        return _entries(questions, answer)

    async def discard(self) -> None:
        """Let nothing of it happen."""
        if self.wanted:
            await self.connection.exchange([messages.bundle_control(self.number, messages.DISCARD)])

    async def close(self) -> dict[int, Exception]:
        """Commit, or discard when OVS minded something; returns the keys that it was about."""
        if not self.wanted:
            return {}
        step = messages.DISCARD if self.errors else messages.COMMIT
        answer = await self.connection.exchange([messages.bundle_control(self.number, step)])
        return _blamed(self.errors or answer.errors, self.wanted, self.first)


def _questions(keys: Collection[int]) -> list[Message]:
    """Return what to ask for the flows and groups of these cookies."""
    everything = len(keys) > _DUMP_ONE_BY_ONE
    questions = [messages.dump_flows()] if everything else [messages.dump_cookie(key) for key in keys]
    if BASE in keys:
        questions += [messages.dump_groups(), messages.dump_flows(table=CLASSIFY.number)]
    return questions


def _in_the_way(found: Mapping[int, Entries]) -> list[tuple[int, Flow]]:
    """Return the flows of the first table that are not ours, each with its cookie."""
    foreign = ((key, flow) for key, entries in found.items() if object_of(key) is None for flow in flows_of(entries))
    return [(key, flow) for key, flow in foreign if flow.table == CLASSIFY.number]


def _entries(questions: Sequence[Message], answer: Answer) -> Mapping[int, Entries]:
    """Return the entries that answer these questions, which an exchange began with; raises what OVS minded of them."""
    found: defaultdict[int, set[Entry]] = defaultdict(set)
    for xid, question in enumerate(questions, answer.first):
        if xid in answer.errors:
            raise answer.errors[xid]
        for content in answer.parts.get(xid, ()):
            part, _ = messages.parse_part(question.body)
            if part == messages.PART_GROUPS:
                found[BASE].update(decode_groups(content))
            elif part == messages.PART_METERS:
                for meter in decode_meters(content):
                    if meter.number <= LAST:
                        found[owner(meter.number)].add(meter)
            else:
                for key, flow in decode_flow_statistics(content):
                    found[key].add(flow)
    return {key: frozenset(entries) for key, entries in found.items() if entries}


def _blamed(errors: Mapping[int, Refused], wanted: Sequence[tuple[int, object]], first: int) -> dict[int, Exception]:
    """Return the keys whose messages were refused, one for each wanted; raises when an error is about none of them."""
    blamed: dict[int, Exception] = {}
    elsewhere: list[Refused] = []
    for xid, error in errors.items():
        if 0 <= xid - first < len(wanted):
            blamed.setdefault(wanted[xid - first][0], error)
        else:
            elsewhere.append(error)
    if elsewhere and not blamed:
        raise elsewhere[0]
    return blamed

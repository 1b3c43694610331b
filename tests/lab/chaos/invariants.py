"""What must hold once everything that was broken is mended, as a comparison of what was seen. Pure.

The truth is what the pods were told when they were attached; everything else that knows an address is a `Table`: one
plane at one place. Whatever a table has that no pod has is leaked; whatever a pod has that a table lacks is missing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Plane(StrEnum):
    """Who knows addresses of pods."""

    LEDGER = "ledger"
    AGENT = "agent"
    FLOWS = "flows"
    PODS = "pods' interfaces"
    SENT = "adj-RIB-out"
    RECEIVED = "adj-RIB-in"
    RIB = "RIB"
    FIB = "kernel routes"


ON_SERVERS = (Plane.LEDGER, Plane.AGENT, Plane.FLOWS, Plane.PODS)
"""Here an entry's holder is an attachment; elsewhere it is the server that the route leads to."""


class Invariant(StrEnum):
    """What must hold."""

    REACHABLE = "every pod is reachable from everywhere"
    UNIQUE = "no address twice"
    UNLEAKED = "nothing leaked"
    COMPLETE = "nothing missing"
    CONTAINED = "no host route beyond its rack"
    AGGREGATED = "a pool with pods is known everywhere"
    HOST = "the host's own flows are as before"
    CONFIRMED = "CHECK confirms every pod"
    SEEN = "everything answers"
    SOUND = "no agent logged an error"


@dataclass(frozen=True, slots=True)
class Finding:
    """One violation."""

    invariant: Invariant
    what: str
    """The address, or the name of the object."""
    plane: str
    where: str
    """The server or router."""
    words: str

    def __str__(self) -> str:
        return f"{self.invariant}: {self.what} in {self.plane} of {self.where}: {self.words}"


@dataclass(frozen=True, slots=True)
class Live:
    """A pod that lives."""

    id: str
    """Its container."""
    server: str
    addresses: tuple[str, ...]
    slot: int


@dataclass(frozen=True, slots=True)
class Entry:
    """An address, as a table has it."""

    address: str
    holder: str


@dataclass(frozen=True, slots=True)
class Table:
    """One plane at one place, with an entry per address that it knows."""

    plane: Plane
    where: str
    servers: frozenset[str]
    """Whose pods belong in it; nobody's for a router of another rack."""
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Thing:
    """Something on a server that exists because of an attachment: a macvlan, a slot's mark, a cookie, a queued DEL."""

    plane: str
    where: str
    name: str
    owner: str
    """The attachment's container; empty for nobody's."""


@dataclass(frozen=True, slots=True)
class Stock:
    """The slots of a server, by number, as each plane counts them."""

    server: str
    slots: Mapping[str, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Survey:
    """Everything that was looked at."""

    live: tuple[Live, ...]
    tables: tuple[Table, ...]
    things: tuple[Thing, ...] = ()
    stocks: tuple[Stock, ...] = ()
    pools: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Prefix -> the servers whose pods have addresses of it."""
    aggregates: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Router -> the pools that it has a route to."""
    host_flows: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Server -> flows and groups that belong to no pod."""
    errors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Server -> what its agents logged as errors: outages are warnings, so these are bugs."""


def compare(seen: Survey, host_flows: Mapping[str, frozenset[str]]) -> list[Finding]:
    """Return all violations; `host_flows` is what the servers had of these before."""
    return [
        *_twice(seen),
        *(finding for table in seen.tables for finding in _table(seen.live, table)),
        *_leaked(seen),
        *_stock(seen),
        *_aggregates(seen),
        *_host(seen, host_flows),
        *(
            Finding(Invariant.SOUND, "error", "log", server, line)
            for server, log in seen.errors.items()
            for line in log
        ),
    ]


def _twice(seen: Survey) -> Iterator[Finding]:
    """Find addresses with several holders, within a server and across servers."""
    told: dict[str, set[str]] = defaultdict(set)
    for pod in seen.live:
        for address in pod.addresses:
            told[address].add(pod.id)
    holders: dict[tuple[Plane, str], set[tuple[str, str]]] = defaultdict(set)
    for table in seen.tables:
        for entry in table.entries:
            if table.plane in ON_SERVERS:
                holders[table.plane, entry.address].add((table.where, entry.holder))
    for address, pods in told.items():
        if len(pods) > 1:
            yield Finding(Invariant.UNIQUE, address, "answers of ADD", "the lab", _list(pods))
    for (plane, address), places in holders.items():
        if len(places) > 1:
            words = _list(f"{holder} on {where}" for where, holder in places)
            yield Finding(Invariant.UNIQUE, address, plane, _list({where for where, _ in places}), words)


def _table(live: Iterable[Live], table: Table) -> Iterator[Finding]:
    """Compare one table with the pods that belong in it, address by address and holder by holder."""
    wanted = {
        address: pod.id if table.plane in ON_SERVERS else pod.server
        for pod in live
        if pod.server in table.servers
        for address in pod.addresses
    }
    found: dict[str, set[str]] = defaultdict(set)
    for entry in table.entries:
        found[entry.address].add(entry.holder)
    beyond = not table.servers
    for address, holders in found.items():
        if address not in wanted:
            invariant = Invariant.CONTAINED if beyond else Invariant.UNLEAKED
            yield Finding(
                invariant, address, table.plane, table.where, f"leads to {_list(holders)}, no pod there has it"
            )
        elif holders != {wanted[address]}:
            words = f"{_list(holders)} instead of {wanted[address]}"
            yield Finding(Invariant.UNIQUE, address, table.plane, table.where, words)
    for address in wanted.keys() - found.keys():
        yield Finding(Invariant.COMPLETE, address, table.plane, table.where, f"{wanted[address]} is not there")


def _leaked(seen: Survey) -> Iterator[Finding]:
    alive = {(pod.server, pod.id) for pod in seen.live}
    for thing in seen.things:
        if (thing.where, thing.owner) not in alive:
            words = f"belongs to {thing.owner}, which is no pod any more" if thing.owner else "belongs to nobody"
            yield Finding(Invariant.UNLEAKED, thing.name, thing.plane, thing.where, words)


def _stock(seen: Survey) -> Iterator[Finding]:
    """Every slot is whole: on the bridge, in the server's namespace and in the slots'; a pod has one of them."""
    for stock in seen.stocks:
        every = frozenset[int]().union(*stock.slots.values())
        for plane, slots in stock.slots.items():
            for slot in every - slots:
                words = f"is only in {_list(name for name, others in stock.slots.items() if slot in others)}"
                yield Finding(Invariant.UNLEAKED, f"slot {slot}", plane, stock.server, words)
        used: dict[int, list[str]] = defaultdict(list)
        for pod in seen.live:
            if pod.server == stock.server:
                used[pod.slot].append(pod.id)
        for slot, pods in used.items():
            if slot not in every:
                yield Finding(Invariant.COMPLETE, f"slot {slot}", "slots", stock.server, f"{_list(pods)} has it")
            if len(pods) > 1:
                yield Finding(Invariant.UNIQUE, f"slot {slot}", "slots", stock.server, _list(pods))
        gap = every ^ frozenset(range(len(every)))
        if gap:
            words = "the numbers of the stock are not in a row"
            yield Finding(Invariant.UNLEAKED, _list(f"slot {slot}" for slot in gap), "slots", stock.server, words)


def _aggregates(seen: Survey) -> Iterator[Finding]:
    """A pool is announced while, and only while, a pod has an address of it."""
    inhabited = {pool for pool, servers in seen.pools.items() if servers}
    for router, pools in seen.aggregates.items():
        for pool in inhabited - pools:
            yield Finding(Invariant.AGGREGATED, pool, Plane.FIB, router, f"{_list(seen.pools[pool])} has pods of it")
        for pool in pools - inhabited:
            yield Finding(Invariant.UNLEAKED, pool, Plane.FIB, router, "no pod has an address of it")


def _host(seen: Survey, before: Mapping[str, frozenset[str]]) -> Iterator[Finding]:
    for server, flows in seen.host_flows.items():
        for flow in flows - before[server]:
            yield Finding(Invariant.HOST, flow, Plane.FLOWS, server, "was not there")
        for flow in before[server] - flows:
            yield Finding(Invariant.HOST, flow, Plane.FLOWS, server, "is gone")


def _list(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))

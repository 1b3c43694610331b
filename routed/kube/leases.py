"""This server's leases, each an Address object that this server created.

Keeps a stock of them, so that `owned` answers from memory and an ADD needs no API server. The rules that keep every
address with one server, whatever is slow, lost or restarted:

- An address is claimed by creating the object of its name, which only one server can do.
- A lease counts when it is in the local file (`routed.kube.cache`), not before.
- Giving back: out of `owned`, then ask the ledger, then out of the file, then delete what was read, if unchanged.
- A delete without an answer may take effect at any time. An object of ours that memory does not know is therefore
  written once before it counts: its new resource version makes a late delete fail.

Never: which address a pod gets (`ipam.ledger`), how a request travels (`routed.kube.api`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from random import Random
from typing import Protocol

import structlog

from ipam.allocate import Share, shares
from ipam.model import Holdings, IPAddress, IPNetwork, Pod, Pool
from routed.domain.workload import host_network
from routed.kube.addresses import Lease
from routed.kube.cache import Cache
from routed.kube.errors import KubeError, NoNode
from routed.kube.registry import Registry
from routed.kube.stock import Asks, Marks, change, draw

log = structlog.get_logger(__name__)
_PACE_S = 0.1
"""Least time between two passes: what happens meanwhile goes into one."""
_RETRY_S = (1.0, 15.0)
"""Shortest and longest pause after a pass that failed, and between looks while an address is missing."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How the leases are, for people and metrics."""

    reachable: bool = False
    """Whether the last pass went well."""
    servers: int = 1
    """How many have leases in this rack, this one included."""
    idle: Mapping[IPNetwork, int] = field(default_factory=dict)
    """By pool: addresses of the rack that serve no pod, leased or not, as of the last look."""
    taken: Mapping[IPAddress, str] = field(default_factory=dict)
    """Addresses in use here whose lease is another server's, and that server."""


class Tenant(Protocol):
    """Who lives on the leases: the agent's store."""

    async def holdings(self) -> Holdings:
        """Return what cannot be given back, after every allocation that was under way when this was asked."""

    def set_taken(self, taken: Mapping[IPAddress, str]) -> None:
        """Take note, at every change, of the addresses in use here that are another server's, and of which one's."""


class KubeLeases:
    """`ipam.leases.LeaseSource` on the Kubernetes API. `start` it before the ledger is opened, `run` it afterwards."""

    def __init__(  # noqa: PLR0913 - a composition root's one call
        self,
        registry: Registry,
        cache: Cache,
        pools: Sequence[Pool],
        *,
        marks: Marks = Marks(),  # noqa: B008 - frozen
        look_s: float = 60.0,
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is asked or read yet. ``look_s`` is the time between two looks at the rack's leases."""
        self._registry, self._cache = registry, cache
        self._marks, self._look_s, self._rng, self._clock = marks, look_s, rng, clock
        self._families = _families(pools)
        self.standing = Standing()
        self._node_uid = ""
        self._mine: dict[IPAddress, Lease] = {}
        self._others: dict[IPAddress, Lease | None] = {}
        """As of the last look, plus what was found taken since; None for what could not be read."""
        self._owned: tuple[IPNetwork, ...] = ()
        self._look_at = 0.0
        self._short_s = _RETRY_S[0]
        self._asks = Asks()
        self._waiting: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()

    def owned(self) -> tuple[IPNetwork, ...]:
        """Return the leased addresses as prefixes of one address each; from any thread."""
        return self._owned

    def nudge(self) -> None:
        """Say that the ledger has changed; soon the stock follows and the API server learns who uses what."""
        self._wake.set()

    async def more(self, pod: Pod) -> None:
        """Say that a pod found no free address, and wait until something was done about it, or until it cannot be.

        Worth another attempt afterwards. Returns at once while the API server does not answer.
        """
        self._asks.add(pod, self._clock())
        self._wake.set()
        if self.standing.reachable:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter

    async def start(self) -> None:
        """Take up the leases of earlier runs: what the API server says or, while it is away, what the file says.

        Raises OSError when the file cannot be read or written.
        """
        cached = await asyncio.to_thread(self._cache.load)
        self._publish({address: Lease(address) for address in cached})
        try:
            await self._look()
        except KubeError as error:
            log.warning("leases.unconfirmed", leases=len(cached), error=str(error))
        else:
            self.standing = replace(self.standing, reachable=True)

    async def run(self, tenant: Tenant) -> None:
        """Keep the stock for ever."""
        pause_s = _RETRY_S[0]
        while True:
            self._wake.clear()
            try:
                await self.tidy(tenant)
            except (KubeError, OSError) as error:
                if pause_s == _RETRY_S[0]:
                    log.warning("leases.stuck", error=str(error), leases=len(self._owned))
                self.standing = replace(self.standing, reachable=False)
                self._look_at = 0.0  # what was asked for may have happened or not
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1))
                pause_s = min(pause_s * 2, _RETRY_S[1])
                continue
            if pause_s > _RETRY_S[0]:
                log.info("leases.well", leases=len(self._owned))
            self.standing, pause_s = replace(self.standing, reachable=True), _RETRY_S[0]
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._look_at - self._clock(), 0)):
                    await self._wake.wait()
            await asyncio.sleep(_PACE_S)

    async def tidy(self, tenant: Tenant) -> None:
        """Make one pass: look if it is time to, claim, give back, say who uses what; raises KubeError, OSError."""
        waiting, self._waiting = self._waiting, []
        try:
            if self._clock() >= self._look_at:
                await self._look()
            held = await tenant.holdings()
            self._asks.review(frozenset(held.used.values()), self._clock())
            await self._keep_used(held, tenant)
            surplus = await self._balance(held)
        finally:
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
        await self._give_back(surplus, tenant)
        await self._say_who(held)

    # ---- looking

    async def _look(self) -> None:
        """Learn all leases of the rack; memory then agrees with the API server."""
        uid = await self._registry.uid_of(self._registry.node)
        if uid is None:
            raise NoNode(f"this server's Node {self._registry.node} is not registered")
        self._node_uid = uid
        found = await self._registry.everything()
        here = {address: lease for address, lease in found.items() if lease.node == self._registry.node}
        if lost := self._mine.keys() - here.keys():
            log.warning("leases.lost", addresses=sorted(map(str, lost)))
        kept = {address: here[address] for address in self._mine.keys() & here.keys() if here[address].node_uid == uid}
        self._others = {address: lease for address, lease in found.items() if address not in here}
        self.standing = replace(
            self.standing,
            servers=len({lease.node for lease in found.values()} | {self._registry.node}),
            idle=self._idle([address for address, lease in found.items() if lease.pod is not None]),
        )
        self._look_at = self._clock() + self._look_s * self._rng.uniform(0.5, 1)
        await self._own(kept)
        await self._win([self._registry.confirm(lease, uid) for address, lease in here.items() if address not in kept])

    def _idle(self, used: Sequence[IPAddress]) -> dict[IPNetwork, int]:
        return {
            share.prefix: share.capacity - sum(address.version == version and int(address) in share for address in used)
            for version, family in self._families.items()
            for share in family
        }

    # ---- claiming

    async def _balance(self, held: Holdings) -> list[IPAddress]:
        """Claim what the stock lacks; return what it has too much of, and what no pool contains any more."""
        surplus = [address for address in self._mine if address not in held and not self._covers(address)]
        short = False
        for version, family in self._families.items():
            stock = [address for address in self._mine if address.version == version]
            stock = [address for address in stock if address not in held and self._covers(address)]
            idle = sum(self.standing.idle.get(share.prefix, 0) for share in family)
            wanted = change(len(stock), self._marks.shared(idle, self.standing.servers), len(self._asks))
            if wanted > 0:
                short |= await self._grow(version, wanted) < wanted
            surplus += self._rng.sample(stock, max(-wanted, 0))
        if short:  # somebody may give something back soon
            self._look_at = min(self._look_at, self._clock() + self._short_s * self._rng.uniform(0.5, 1))
        self._short_s = min(self._short_s * 2, _RETRY_S[1]) if short else _RETRY_S[0]
        return surplus

    async def _grow(self, version: int, count: int) -> int:
        """Claim addresses of one family, as many as can be had; returns how many."""
        family, before = self._families[version], len(self._mine)
        while (missing := count - (len(self._mine) - before)) > 0:
            known = {int(address) for address in (*self._mine, *self._others) if address.version == version}
            capacity = sum(share.capacity for share in family)
            free = capacity - sum(any(number in share for share in family) for number in known)
            numbers = draw(family, known, free, missing, self._rng)
            if not numbers:
                break
            await self._claim([_address(version, number) for number in numbers])
        return len(self._mine) - before

    async def _claim(self, wanted: Sequence[IPAddress]) -> None:
        """Create the objects of these addresses at once, and own those that we got."""
        await self._win([self._registry.claim(address, self._node_uid) for address in wanted])
        for address in wanted:
            if address not in self._mine:
                self._others[address] = None

    async def _keep_used(self, held: Holdings, tenant: Tenant) -> None:
        """Claim what is used here without a lease (older than the leases, or lost); tell of what is another's."""
        missing = [address for address in (*held.used, *held.cooling) if address not in self._mine]
        await self._claim([address for address in missing if address not in self._others])
        for address in missing:
            if address in self._others and self._others[address] is None:
                await self._identify(address)
        owners = {address: self._others.get(address) for address in held.used if address not in self._mine}
        taken = {address: lease.node for address, lease in owners.items() if lease is not None}
        if taken != self.standing.taken:
            for address in taken.keys() - self.standing.taken.keys():
                log.error("lease.taken", address=str(address), owner=taken[address], pod=str(held.used[address]))
            self.standing = replace(self.standing, taken=taken)
            tenant.set_taken(taken)

    async def _identify(self, address: IPAddress) -> None:
        """Learn whose an address is that could not be claimed: ours, if somebody took the rack's label off."""
        lease = await self._registry.find(address)
        if lease is not None and lease.node == self._registry.node:
            await self._win([self._registry.confirm(lease, self._node_uid)])
        elif lease is not None:
            self._others[address] = lease

    async def _win(self, requests: Sequence[Awaitable[Lease | None]]) -> None:
        """Own what these requests bring, durably; then raise what went wrong, if anything did."""
        answers = await _all(requests)
        won = {answer.address: answer for answer in answers if isinstance(answer, Lease)}
        for address in won:
            self._others.pop(address, None)
        await self._own(self._mine | won)
        _raise_first(answers)

    # ---- giving back

    async def _give_back(self, surplus: Sequence[IPAddress], tenant: Tenant) -> None:
        """Let others have these addresses, unless the ledger has handed them out just now."""
        if not surplus:
            return
        everything = self._mine
        self._publish({address: lease for address, lease in everything.items() if address not in set(surplus)})
        held = await tenant.holdings()
        going = [everything[address] for address in surplus if address not in held]
        left = everything.keys() - {lease.address for lease in going}
        await self._own({address: everything[address] for address in left})
        answers = await _all([self._registry.release(lease) for lease in going])
        if False in answers:
            self._look_at = 0.0
        _raise_first(answers)

    # ---- telling who uses what

    async def _say_who(self, held: Holdings) -> None:
        """Write to each object which pod uses its address; of no consequence to leases."""
        wrong = [lease for lease in self._mine.values() if lease.pod != held.used.get(lease.address)]
        answers = await _all([self._registry.say(lease, held.used.get(lease.address)) for lease in wrong])
        self._mine |= {answer.address: answer for answer in answers if isinstance(answer, Lease)}
        if None in answers:
            self._look_at = 0.0
        _raise_first(answers)

    # ---- what memory says

    def _covers(self, address: IPAddress) -> bool:
        return any(int(address) in share for share in self._families.get(address.version, ()))

    async def _own(self, leases: Mapping[IPAddress, Lease]) -> None:
        """Write what is ours from now on, then count on it."""
        if leases.keys() != self._cache.stored:
            await asyncio.to_thread(self._cache.save, frozenset(leases))
        self._publish(leases)

    def _publish(self, leases: Mapping[IPAddress, Lease]) -> None:
        self._mine = dict(leases)
        self._owned = tuple(host_network(address) for address in leases)


def _families(pools: Sequence[Pool]) -> dict[int, tuple[Share, ...]]:
    return shares(pools, [pool.prefix for pool in pools])


def _address(version: int, number: int) -> IPAddress:
    return IPv4Address(number) if version == 4 else IPv6Address(number)


async def _all(requests: Iterable[Awaitable[object]]) -> list[object]:
    """Wait for requests that are under way together; a KubeError is an answer, anything else is raised."""

    async def answered(request: Awaitable[object]) -> object:
        try:
            return await request
        except KubeError as error:
            return error

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(answered(request)) for request in requests]
    return [task.result() for task in tasks]


def _raise_first(answers: Iterable[object]) -> None:
    for answer in answers:
        if isinstance(answer, KubeError):
            raise answer

"""This server's leases, each an Address object that this server created.

Keeps a stock of them, so that `owned` answers from memory and an ADD needs no API server. The rules that keep every
address with one server, whatever is slow, lost or restarted:

- An address is claimed by creating the object of its name, which only one server can do.
- A lease counts when it is in the local file (`routed.kube.cache`), not before.
- Giving back: out of `owned`, then ask the ledger, then out of the file, then delete what was read, if unchanged.
- An address that waits for the next pod of a name (`routed.kube.sticky`), or that a pod asks for, is `reserved`.
- A delete without an answer may take effect at any time. An object of ours that memory does not know is therefore
  written once before it counts: its new resource version makes a late delete fail.

Never: which address a pod gets (`ipam.ledger`), how a request travels (`routed.kube.api`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, field, replace
from random import Random
from typing import Protocol

import structlog

from ipam.model import Holdings, IPAddress, IPNetwork, Pod, Pool
from routed.domain.workload import host_network
from routed.kube.addresses import Lease, object_name, pod_key
from routed.kube.cache import Cache
from routed.kube.errors import Expired, KubeError, NoNode, Refused
from routed.kube.registry import Registry
from routed.kube.sticky import Sticky
from routed.kube.stock import ASK_S, Asks, Marks, change
from routed.kube.view import View
from routed.threads import apart

log = structlog.get_logger(__name__)
_PACE_S = 0.1
"""Least time between two passes: what happens meanwhile goes into one."""
_PATIENCE_S = 10.0
"""How long an ADD waits for the API server."""
_WANTED_S = 1.0
"""Pause between two passes while others wait for what cools down here; such a pass asks the API server nothing."""
_RETRY_S = (1.0, 15.0)
"""Shortest and longest pause after a pass that failed."""


@dataclass(frozen=True, slots=True)
class LeaseState:
    """How the leases are, for people and metrics."""

    reachable: bool = False
    """Whether the last pass went well."""
    servers: int = 1
    """How many have leases in this rack, this one included."""
    idle: Mapping[IPNetwork, int] = field(default_factory=dict)
    """By pool: addresses of the rack that serve no pod, leased or not."""
    capacity: Mapping[IPNetwork, int] = field(default_factory=dict)
    """By pool: addresses of the rack that pods can have."""
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
        look_s: float = 300.0,
        patience_s: float = 120.0,
        rng: Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is asked or read yet.

        ``look_s`` is the time between two looks at the rack's leases, ``patience_s`` how long a sticky pod waits for
        the addresses that it had on another server, which has to let them cool down first.
        """
        self._registry, self._cache = registry, cache
        self._marks, self._look_s, self._rng, self._clock = marks, look_s, rng, clock
        self._view = View(pools, registry.node)
        self._asks = Asks()
        self._sticky = Sticky(patience_s)
        self._node_uid = ""
        self._mine: dict[IPAddress, Lease] = {}
        self._owned: tuple[IPNetwork, ...] = ()
        """The same as prefixes."""
        self._reserved: frozenset[IPAddress] = frozenset()
        self._taken: Mapping[IPAddress, str] = {}
        self._reachable = False
        self._look_at = 0.0
        self._version = ""
        """What the last look saw, for whoever listens to what comes after."""
        self._looked, self._wake = asyncio.Event(), asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []

    def owned(self) -> tuple[IPNetwork, ...]:
        """Return the leased addresses as prefixes of one address each; from any thread."""
        return self._owned

    def reserved(self) -> frozenset[IPAddress]:
        """Return the addresses that wait for a name or that pods ask for, leased or not; from any thread."""
        return self._reserved

    def state(self) -> LeaseState:
        """Return how the leases are."""
        return LeaseState(self._reachable, self._view.servers, self._view.idle(), self._view.capacity(), self._taken)

    def nudge(self) -> None:
        """Say that the ledger has changed; soon the stock follows and the API server learns who uses what."""
        self._wake.set()

    async def more(self, pod: Pod, fixed: Sequence[IPAddress] = ()) -> bool:
        """Say that a pod found no free address, and wait until something was done about it, or until it cannot be.

        Returns at once while the API server does not answer. Another attempt is always worthwhile.
        """
        self._asks.add(pod, self._clock(), fixed)
        self._reserve()
        self._wake.set()
        if self._reachable:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            with suppress(TimeoutError):
                async with asyncio.timeout(_PATIENCE_S):
                    await waiter
        return True

    def served(self, pod: Pod, sticky: Sequence[IPAddress] = ()) -> None:
        """Say that a pod has an address; nothing is kept for it any more, if it had asked.

        ``sticky`` are those of its addresses that the next pod of its name wants to have again.
        """
        self._asks.drop(pod)
        self._sticky.served(pod, sticky)

    def recall(self, pod: Pod) -> tuple[IPAddress, ...]:
        """Return the addresses that the last pod of this name had, as far as they may be waited for."""
        found, given_up = self._sticky.recall(pod, self._view.others.values(), self._clock())
        if given_up:
            log.warning("sticky.given_up", pod=pod_key(pod), addresses=sorted(map(str, found)))
            return ()
        return found

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
            self._reachable = True

    async def run(self, tenant: Tenant) -> None:
        """Keep the stock for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep(tenant))
            group.create_task(self._listen())

    async def _keep(self, tenant: Tenant) -> None:
        pause_s = _RETRY_S[0]
        while True:
            self._wake.clear()
            try:
                await self.tidy(tenant)
            except (KubeError, OSError) as error:
                if pause_s == _RETRY_S[0]:
                    log.warning("leases.stuck", error=str(error), leases=len(self._owned))
                self._reachable = False
                self._look_at = 0.0  # what was asked for may have happened or not
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1))
                pause_s = min(pause_s * 2, _RETRY_S[1])
                continue
            if pause_s > _RETRY_S[0]:
                log.info("leases.well", leases=len(self._owned))
            self._reachable, pause_s = True, _RETRY_S[0]
            with suppress(TimeoutError):
                async with asyncio.timeout(self._pause_s()):
                    await self._wake.wait()
            await asyncio.sleep(_PACE_S)

    def _pause_s(self) -> float:
        """Return how long there is nothing to do unless something happens."""
        look_s = max(self._look_at - self._clock(), 0)
        if not self._view.wanted().isdisjoint(self._mine):  # to be given up when it has cooled down
            return min(look_s, _WANTED_S)
        return min(look_s, ASK_S) if self._asks else look_s

    async def tidy(self, tenant: Tenant) -> None:
        """Make one pass: look if it is time to, claim, give back, say who uses what; raises KubeError, OSError."""
        waiting, self._waiting = self._waiting, []
        try:
            if self._clock() >= self._look_at:
                await self._look()
            held = await tenant.holdings()
            self._view.count_used(held.used.keys())
            self._asks.review(frozenset(held.used.values()), self._clock())
            self._sticky.review(held, self._view.others.values(), self._is_scarce, self._clock())
            self._reserve()
            await self._keep_used(held, tenant)
            await self._claim([one for one in self._asks.fixed if one not in self._mine and self._view.is_free(one)])
            surplus = await self._balance(held)
        finally:
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)
        await self._give_back(surplus, tenant)
        await self._say_who(held)
        await self._say_what_for()

    # ---- looking

    async def _look(self) -> None:
        """Learn all leases of the rack; memory then agrees with the API server."""
        uid = await self._registry.uid_of(self._registry.node)
        if uid is None:
            raise NoNode(f"this server's Node {self._registry.node} is not registered")
        self._node_uid = uid
        found, self._version = await self._registry.everything()
        self._looked.set()
        here = self._view.reset(found)
        if lost := self._mine.keys() - here.keys():
            log.warning("leases.lost", addresses=sorted(map(str, lost)))
        kept = {address: here[address] for address in self._mine.keys() & here.keys() if here[address].node_uid == uid}
        self._look_at = self._clock() + self._look_s * self._rng.uniform(0.5, 1)
        await self._own(kept)
        await self._win([self._registry.confirm(lease, uid) for address, lease in here.items() if address not in kept])

    async def _listen(self) -> None:
        """Hear of the other servers' claims as they happen; all of it hints, so whatever fails ends in another look."""
        while True:
            await self._looked.wait()
            self._looked.clear()
            try:
                async with aclosing(self._registry.changes(self._version)) as changes:
                    async for lease, exists in changes:
                        self._hear(lease, exists=exists)
            except Expired:
                pass  # what was heard last is too long ago
            except KubeError as error:
                log.warning("leases.deaf", error=str(error))
                await asyncio.sleep(_RETRY_S[1] * self._rng.uniform(0.5, 1))
            self._look_at = 0.0
            self._wake.set()

    def _hear(self, lease: Lease, *, exists: bool) -> None:
        """Take note of a lease that has changed; wake up when that matters here."""
        if lease.node == self._registry.node:
            mine = self._mine.get(lease.address)
            if not exists and mine is not None and mine.uid == lease.uid:
                self._look_at = 0.0
                self._wake.set()
            return
        before = self._view.marks(lease.address.version, self._marks)
        self._view.hear(lease, exists=exists)
        if (
            (self._asks and not exists)
            or not self._mine.keys().isdisjoint(lease.wanted)
            or self._view.marks(lease.address.version, self._marks) != before
            or (self._sticky.waiting() and self._is_scarce(lease.address.version))
        ):
            self._wake.set()

    # ---- claiming

    async def _balance(self, held: Holdings) -> list[IPAddress]:
        """Claim what the stock lacks; return what is too much of it, wanted by others' pods, or in no pool any more."""
        unused = [address for address in self._mine if address not in held and address not in self._asks.fixed]
        wanted = self._view.wanted()
        surplus = [address for address in unused if self._view.pool(address) is None or address in wanted]
        kept = self._sticky.waiting().union(surplus)
        for version in self._view.families:
            stock = [one for one in unused if one.version == version and one not in kept]
            lacking = change(len(stock), self._view.marks(version, self._marks), len(self._asks))
            await self._grow(version, lacking)
            surplus += self._rng.sample(stock, max(-lacking, 0))
        return surplus

    async def _grow(self, version: int, count: int) -> None:
        """Claim so many addresses of one family, or as many as can be had."""
        goal = len(self._mine) + count
        while (missing := goal - len(self._mine)) > 0:
            drawn = self._view.draw(version, self._mine, missing, self._rng)
            if not drawn:
                break
            await self._claim(drawn)

    async def _claim(self, wanted: Sequence[IPAddress]) -> None:
        """Create the objects of these addresses at once, and own those that we got."""
        await self._win([self._registry.claim(address, self._node_uid) for address in wanted])
        for address in wanted:
            if address not in self._mine:
                self._view.learn(address, None)

    async def _keep_used(self, held: Holdings, tenant: Tenant) -> None:
        """Claim what is used here without a lease (older than the leases, or lost); tell of what is another's."""
        others = self._view.others
        missing = [address for address in (*held.used, *held.cooling) if address not in self._mine]
        await self._claim([address for address in missing if address not in others])
        for address in missing:
            if address in others and others[address] is None:
                await self._identify(address)
        owners = {address: others.get(address) for address in held.used if address not in self._mine}
        taken = {address: lease.node for address, lease in owners.items() if lease is not None}
        if taken != self._taken:
            for address in taken.keys() - self._taken.keys():
                log.error("lease.taken", address=str(address), owner=taken[address], pod=held.used[address].name)
            self._taken = taken
            tenant.set_taken(taken)

    async def _identify(self, address: IPAddress) -> None:
        """Learn whose an address is that could not be claimed: ours, if somebody took the rack's label off."""
        lease = await self._registry.find(address)
        if lease is not None and lease.node == self._registry.node:
            await self._win([self._registry.confirm(lease, self._node_uid)])
        elif lease is not None:
            self._view.learn(address, lease)

    async def _win(self, requests: Sequence[Awaitable[Lease | None]]) -> None:
        """Own what these requests bring, durably; then raise what went wrong, if anything did."""
        answers = await _all(requests)
        won = {answer.address: answer for answer in answers if isinstance(answer, Lease)}
        self._view.won(won)
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
        for address in self._view.wanted().intersection(lease.address for lease in going):
            self._view.learn(address, None)  # whoever waits for it has it soon; we do not claim it first
        if False in answers:
            self._look_at = 0.0
        _raise_first(answers)

    # ---- telling who uses what

    async def _say_who(self, held: Holdings) -> None:
        """Write to each object which pod uses its address; of no consequence to leases, so a refusal is let be."""
        wrong = [lease for lease in self._mine.values() if lease.pod != held.used.get(lease.address)]
        answers = await _all([self._registry.say(lease, held.used.get(lease.address)) for lease in wrong])
        for lease, answer in zip(wrong, answers, strict=True):
            if isinstance(answer, Refused):
                log.warning("lease.unsaid", address=str(lease.address), error=str(answer))
                answer = replace(lease, pod=held.used.get(lease.address))  # noqa: PLW2901 - not again before a look
            if isinstance(answer, Lease):
                self._mine[lease.address] = answer
        if None in answers:
            self._look_at = 0.0
        _raise_first(answer for answer in answers if not isinstance(answer, Refused))

    async def _say_what_for(self) -> None:
        """Write to the objects which pods their addresses are kept for, and to one of them what our pods wait for."""
        known = [lease for lease in self._mine.values() if lease.version]
        missing = tuple(sorted((one for one in self._asks.fixed if one not in self._mine), key=object_name))
        carrier = next((one for one in known if one.wanted), known[0] if known else None)
        due = []
        for lease in known:
            said = self._sticky.name_of(lease.address), missing if lease is carrier else ()
            if said != (lease.sticky, lease.wanted):
                due.append(self._registry.note(lease, *said))
        answers = await _all(due)
        for answer in answers:
            if isinstance(answer, Lease):
                self._mine[answer.address] = answer
        if None in answers:
            self._look_at = 0.0
        _raise_first(answers)

    # ---- what memory says

    def _is_scarce(self, version: int) -> bool:
        return self._view.is_scarce(version, self._mine)

    async def _own(self, leases: Mapping[IPAddress, Lease]) -> None:
        """Write what is ours from now on, then count on it."""
        if frozenset(leases) != self._cache.stored:
            await apart(self._cache.save, frozenset(leases))
        self._publish(leases)

    def _publish(self, leases: Mapping[IPAddress, Lease]) -> None:
        has_changed = list(leases) != list(self._mine)
        self._mine = dict(leases)
        self._sticky.adopt(self._mine, self._clock())
        self._reserve()
        if has_changed:  # the ledger computes its shares anew for a new tuple
            self._owned = tuple(map(host_network, leases))

    def _reserve(self) -> None:
        """Keep what waits and what is asked for from everybody else; before it is owned, or it is gone at once."""
        self._reserved = self._sticky.waiting() | self._asks.fixed


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

"""This server's leases, each an Address object that this server created.

Keeps a stock of them, so that `owned` answers from memory and an ADD needs no API server. The rules that keep every
address with one server, whatever is slow, lost or restarted:

- An address is claimed by creating the object of its name, which only one server can do.
- A lease counts when it is in the local file (`routed.kube.cache`), not before.
- Giving back: out of `owned`, then ask the ledger, then out of the file, then delete what was read, if unchanged.
- A delete without an answer may take effect at any time. An object of ours that memory does not know is therefore
  written once before it counts: its new resource version makes a late delete fail.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from random import Random

import structlog

from ipam.allocate import Share, shares
from ipam.model import IPNetwork, Pool
from routed.domain.workload import IPAddress, PodRef, host_network
from routed.kube import addresses
from routed.kube.addresses import RACK_LABEL, Lease
from routed.kube.api import ADDRESSES, Api
from routed.kube.cache import Cache
from routed.kube.errors import AlreadyExists, KubeError, Malformed, NotFound, Refused, Unreachable
from routed.kube.stock import Marks, change, draw

log = structlog.get_logger(__name__)
_ASK_S = 60.0
"""How long an address is kept for a pod that found none: kubelet's next attempt comes sooner."""
_PACE_S = 0.1
"""Least time between two passes: what happens meanwhile goes into one."""
_RETRY_S = (1.0, 30.0)
"""Shortest and longest pause after a pass that failed, and between looks while an address is missing."""


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the ledger says of addresses."""

    used: Mapping[IPAddress, PodRef]
    """Held by an attachment, leaving ones included."""
    cooling: frozenset[IPAddress] = frozenset()

    def __contains__(self, address: IPAddress) -> bool:
        return address in self.used or address in self.cooling


@dataclass(frozen=True, slots=True)
class Claimant:
    """Whose leases they are."""

    rack: str
    node: str
    node_uid: str


class KubeLeases:
    """`ipam.leases.LeaseSource` on the Kubernetes API. `start` it before the ledger is opened, `run` it afterwards."""

    def __init__(  # noqa: PLR0913 - a composition root's one call
        self,
        api: Api,
        cache: Cache,
        claimant: Claimant,
        pools: Sequence[Pool],
        *,
        holdings: Callable[[], Awaitable[Holdings]],
        on_taken: Callable[[Lease], None],
        marks: Marks = Marks(),  # noqa: B008 - frozen
        look_s: float = 60.0,
        rng: Random | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare; nothing is asked or read yet.

        ``holdings`` has to answer after every allocation that was under way when it was asked: it goes through the
        ledger's own thread. ``on_taken`` is told of another server's lease on an address that is used here, once.
        ``look_s`` is the time between two looks at all leases of the rack.
        """
        self._api, self._cache, self._claimant = api, cache, claimant
        self._holdings, self._on_taken = holdings, on_taken
        self._marks, self._look_s, self._clock = marks, look_s, clock
        self._rng = rng or Random()  # noqa: S311 - spreads servers out, keeps no secret
        self._families = _families(pools)
        self._mine: dict[IPAddress, Lease] = {}
        self._others: dict[IPAddress, Lease | None] = {}
        """As of the last look, plus what was found taken since; None for what could not be read."""
        self._idle: dict[int, int] = {}
        self._servers = 1
        self._owned: tuple[IPNetwork, ...] = ()
        self._look_at = 0.0
        self._short_s = _RETRY_S[0]
        self._used: frozenset[IPAddress] = frozenset()
        self._asks: list[float] = []
        self._told: set[tuple[IPAddress, str]] = set()
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._failing = False

    def owned(self) -> tuple[IPNetwork, ...]:
        """Return the leased addresses as prefixes of one address each; from any thread."""
        return self._owned

    def set_pools(self, pools: Sequence[Pool]) -> None:
        """Follow an edit of the rack; leases outside the pools are given back when no pod uses them."""
        self._families = _families(pools)
        self._look_at = 0.0
        self.nudge()

    def nudge(self) -> None:
        """Say that the ledger has changed; soon the stock follows and the API server learns who uses what."""
        self._wake.set()

    async def ask(self) -> None:
        """Say that an ADD found no free address, and wait until something was done about it, or until it cannot be.

        Worth another attempt afterwards. Returns at once while the API server does not answer.
        """
        self._asks.append(self._clock() + _ASK_S)
        if not self._failing:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            self._wake.set()
            await waiter

    async def start(self) -> None:
        """Take up the leases of earlier runs: what the API server says or, while it is away, what the file says."""
        cached = await asyncio.to_thread(self._cache.load)
        self._mine = {address: self._bare(address) for address in cached}
        try:
            await self._look()
        except Unreachable as error:
            log.warning("leases.unconfirmed", leases=len(cached), error=str(error))
            self._publish(self._mine)

    async def run(self) -> None:
        """Keep the stock for ever."""
        pause_s = _RETRY_S[0]
        while True:
            self._wake.clear()
            try:
                await self.tidy()
            except (KubeError, OSError) as error:
                if not self._failing:
                    log.warning("leases.stuck", error=str(error), leases=len(self._owned))
                self._failing = True
                await asyncio.sleep(pause_s * self._rng.uniform(0.5, 1))
                pause_s = min(pause_s * 2, _RETRY_S[1])
                continue
            if self._failing:
                log.info("leases.well", leases=len(self._owned))
            self._failing, pause_s = False, _RETRY_S[0]
            with suppress(TimeoutError):
                async with asyncio.timeout(max(self._look_at - self._clock(), 0)):
                    await self._wake.wait()
            await asyncio.sleep(_PACE_S)

    async def tidy(self) -> None:
        """Make one pass: look if it is time to, claim or give back, say who uses what; raises KubeError, OSError."""
        waiting, self._waiting = self._waiting, []
        try:
            if self._clock() >= self._look_at:
                await self._look()
            holdings = await self._holdings()
            self._meet_asks(holdings)
            await self._claim_used(holdings)
            surplus = [lease.address for lease in self._mine.values() if self._share(lease.address) is None]
            for version in self._families:
                stock = self._stock(version, holdings)
                marks = self._marks.shared(self._idle.get(version, 0), self._servers)
                wanted = change(len(stock), marks, len(self._asks))
                if wanted > 0:
                    await self._grow(version, wanted)
                surplus += self._rng.sample(stock, max(-wanted, 0))
            await self._give_back([address for address in surplus if address not in holdings])
            await self._say_who(holdings)
        finally:
            for waiter in waiting:
                if not waiter.done():
                    waiter.set_result(None)

    # ---- looking

    async def _look(self) -> None:
        """Learn all leases of the rack; memory then agrees with the API server."""
        listing = await self._api.list(ADDRESSES, labels=f"{RACK_LABEL}={self._claimant.rack}")
        found: dict[IPAddress, Lease] = {}
        for item in listing.items:
            try:
                lease = addresses.read(item)
            except Malformed as error:
                log.warning("lease.malformed", error=str(error))
                continue
            found[lease.address] = lease
        here = {address: lease for address, lease in found.items() if lease.node == self._claimant.node}
        kept = {address: lease for address, lease in here.items() if address in self._mine}
        if lost := self._mine.keys() - here.keys():
            log.warning("leases.lost", addresses=sorted(map(str, lost)))
        self._others = {address: lease for address, lease in found.items() if address not in here}
        self._servers = len({lease.node for lease in found.values()} | {self._claimant.node})
        self._idle = {
            version: sum(share.capacity for share in family)
            - sum(lease.pod is not None for lease in found.values() if self._share(lease.address) in family)
            for version, family in self._families.items()
        }
        self._look_at = self._clock() + self._look_s * self._rng.uniform(0.5, 1)
        unknown = [lease for address, lease in here.items() if address not in self._mine]
        await self._adopt(kept, await self._each(self._confirm, unknown))

    async def _confirm(self, lease: Lease) -> Lease | None:
        """Write an object of ours, so that no delete from before can take it away any more."""
        token = f"{self._rng.getrandbits(64):016x}"
        annotated = {"resourceVersion": lease.version, "annotations": {"routed.dev/confirmed": token}}
        return addresses.read(await self._api.patch(ADDRESSES, lease.name, {"metadata": annotated}))

    # ---- claiming

    async def _grow(self, version: int, count: int) -> None:
        """Claim addresses of one family, as many as there are; looks again when others were faster."""
        family = self._families[version]
        for _ in range(4):
            known = {int(address) for address in (*self._mine, *self._others) if address.version == version}
            free = sum(share.capacity for share in family) - sum(
                any(number in share for share in family) for number in known
            )
            numbers = draw(family, known, free, count, self._rng)
            claimed = await self._claim([_address(version, number) for number in numbers])
            count -= claimed
            if count <= 0:
                self._short_s = _RETRY_S[0]
                return
            if claimed < len(numbers) or not numbers:
                await self._look()
        self._look_at = min(self._look_at, self._clock() + self._short_s * self._rng.uniform(0.5, 1))
        self._short_s = min(self._short_s * 2, _RETRY_S[1])

    async def _claim_used(self, holdings: Holdings) -> None:
        """Claim what is used here without a lease (older than the leases, or lost); tell of what is another's."""
        missing = [address for address in (*holdings.used, *holdings.cooling) if address not in self._mine]
        await self._claim([address for address in missing if address not in self._others])
        for address in missing:
            lease = self._others.get(address)
            if lease is not None and address in holdings.used and (address, lease.uid) not in self._told:
                self._told.add((address, lease.uid))
                log.error("lease.taken", address=str(address), owner=lease.node, pod=str(holdings.used[address]))
                self._on_taken(lease)

    async def _claim(self, wanted: Sequence[IPAddress]) -> int:
        """Create the objects of these addresses at once and own those that we got; returns how many."""
        before = len(self._mine)
        await self._adopt(self._mine, await self._each(self._create, wanted))
        return len(self._mine) - before

    async def _create(self, address: IPAddress) -> Lease | None:
        claimant = self._claimant
        document = addresses.new_object(
            address, rack=claimant.rack, node=claimant.node, node_uid=claimant.node_uid
        )
        try:
            return addresses.read(await self._api.create(ADDRESSES, document))
        except AlreadyExists:
            self._others[address] = None
            return None

    async def _adopt(self, kept: Mapping[IPAddress, Lease], answers: Iterable[Lease | KubeError | None]) -> None:
        """Own what was kept and what was won, durably; then raise what went wrong, if anything did."""
        answers = list(answers)
        won = {answer.address: answer for answer in answers if isinstance(answer, Lease)}
        await self._own({**kept, **won})
        for answer in answers:
            if isinstance(answer, KubeError):
                raise answer

    # ---- giving back

    async def _give_back(self, surplus: Sequence[IPAddress]) -> None:
        """Let others have these addresses, unless the ledger has handed them out just now."""
        deletable = {address: self._mine[address] for address in surplus if self._mine[address].version}
        if not deletable:
            return
        everything = self._mine
        self._publish({address: lease for address, lease in everything.items() if address not in deletable})
        holdings = await self._holdings()
        going = {address: lease for address, lease in deletable.items() if address not in holdings}
        await self._own({address: lease for address, lease in everything.items() if address not in going})
        for answer in await self._each(self._delete, going.values()):
            if isinstance(answer, KubeError):
                self._look_at = 0.0
                raise answer

    async def _delete(self, lease: Lease) -> None:
        with suppress(NotFound):
            await self._api.delete(ADDRESSES, lease.name, uid=lease.uid, version=lease.version)

    # ---- telling who uses what

    async def _say_who(self, holdings: Holdings) -> None:
        """Write to each object which pod uses its address; of no consequence to leases."""
        wrong = [
            replace(lease, pod=holdings.used.get(lease.address))
            for lease in self._mine.values()
            if lease.version and lease.pod != holdings.used.get(lease.address)
        ]
        answers = await self._each(self._say, wrong)
        self._mine = self._mine | {lease.address: lease for lease in answers if isinstance(lease, Lease)}
        for answer in answers:
            if isinstance(answer, KubeError):
                raise answer

    async def _say(self, lease: Lease) -> Lease | None:
        try:
            change_ = addresses.usage(lease.pod)
            said = addresses.read(await self._api.patch(ADDRESSES, lease.name, change_, subresource="status"))
        except NotFound:
            self._look_at = 0.0
            return None
        return said if said.uid == lease.uid else None

    # ---- what memory says

    def _stock(self, version: int, holdings: Holdings) -> list[IPAddress]:
        """Return the leased addresses of a family that could be handed out now."""
        return [
            address
            for address in self._mine
            if address.version == version and address not in holdings and self._share(address) is not None
        ]

    def _meet_asks(self, holdings: Holdings) -> None:
        """Drop the asks that new pods have met, and those of pods that do not come back."""
        used = frozenset(holdings.used)
        per_family = max(len({version for version in self._families}), 1)
        met = len(used - self._used) // per_family
        self._used = used
        self._asks = [until for until in self._asks[met:] if until > self._clock()]

    def _share(self, address: IPAddress) -> Share | None:
        return next((share for share in self._families.get(address.version, ()) if int(address) in share), None)

    def _bare(self, address: IPAddress) -> Lease:
        return Lease(address, self._claimant.rack, self._claimant.node, self._claimant.node_uid)

    async def _own(self, leases: Mapping[IPAddress, Lease]) -> None:
        """Write what is ours from now on, then count on it."""
        if leases.keys() != self._mine.keys() or not self._owned:
            await asyncio.to_thread(self._cache.save, list(leases))
        self._publish(leases)

"""The store against a real ledger: durable first, then visible, and thirty pods in one transaction."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import SimpleNamespace

import pytest

from ipam.errors import Leaving, PoolError, PoolExhausted
from ipam.leases import EmbeddedLeases
from ipam.ledger import Ledger
from ipam.model import Holder, Pool
from ovs_flows.model import Mirror
from routed.cni.errors import InvalidConfig, TryAgainLater
from routed.domain.intent import MirrorOf, Owner, Standing, VfPort
from routed.domain.rack import Rack, Server, Subnet, Uplink
from routed.domain.wiring import Vf
from routed.domain.workload import AttachmentId, PodRef, StaticRoute, Wishes
from routed.store import _QUIET_S, Store

PREFIX, GATEWAY = ip_network("10.101.0.0/26"), ip_address("10.101.0.1")
UPLINK = Uplink((1,), ("bond0",), "02:10:00:00:01:0b", None, 1500)
POD = PodRef("default", "web", "u1")


class Rig(SimpleNamespace):
    store: Store
    ledger: Ledger
    changed: list[Owner]
    transactions: list[int]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Rig]]:
    rigs: list[tuple[Store, Ledger]] = []

    def close() -> None:
        while rigs:
            store, ledger = rigs.pop()
            store.close()
            ledger.close()

    def start() -> Rig:
        close()
        pools = (Pool(PREFIX, GATEWAY),)
        ledger = Ledger(tmp_path / "ledger.db", pools, EmbeddedLeases(pools))
        transactions: list[int] = []
        original = ledger.put

        def counted(requests: Sequence[object], now: float) -> object:
            transactions.append(len(requests))
            return original(requests, now)  # type: ignore[arg-type]  # only counts, the ledger checks

        ledger.put = counted  # type: ignore[method-assign,assignment]  # an executing wrapper
        changed: list[Owner] = []
        rack = Rack("r1", (), (), (Subnet(PREFIX, GATEWAY),))
        server = Server("s11", 65500, (ip_address("10.1.0.11"),))
        store = Store(ledger, rack=rack, server=server, uplink=UPLINK, ready_slots=4, on_change=changed.extend)
        rigs.append((store, ledger))
        return Rig(store=store, ledger=ledger, changed=changed, transactions=transactions)

    yield start
    close()


def key(number: int) -> AttachmentId:
    return AttachmentId(f"c{number}", "eth0")


async def test_a_put_is_visible_and_wakes_its_owner(opened: Callable[[], Rig]) -> None:
    rig = opened()
    attachment = await rig.store.put(key(1), POD, "/run/netns/web")
    assert rig.store.snapshot.attachments == {key(1): attachment}
    assert rig.changed == [key(1)]
    assert await rig.store.put(key(1), POD, "/run/netns/web") == attachment


async def test_pods_that_come_together_share_a_transaction(opened: Callable[[], Rig]) -> None:
    rig = opened()
    await asyncio.gather(*(rig.store.put(key(number), POD, "/run/netns/web") for number in range(30)))
    assert sum(rig.transactions) == 30
    assert len(rig.transactions) <= 3
    assert len({one.slot for one in rig.store.snapshot.attachments.values()}) == 30


async def test_everything_survives_a_restart(opened: Callable[[], Rig]) -> None:
    rig = opened()
    staying = await rig.store.put(key(1), POD, "/run/netns/web")
    await rig.store.put(key(2), POD, "/run/netns/web")
    await rig.store.discard(key(2))
    again = opened().store.snapshot
    assert again.attachments[key(1)] == staying
    assert again.attachments[key(2)].leaving
    assert again.slots == 2 + 4


async def test_what_a_pod_asked_for_survives_a_restart(opened: Callable[[], Rig]) -> None:
    routes = (StaticRoute(ip_network("10.50.0.0/16")), StaticRoute(ip_network("fd00:50::/48"), ip_address("fd00::1")))
    wishes = Wishes(
        addresses=(ip_address("10.101.0.9"),), sticky=True, mtu=1400, ingress_bps=10**6, egress_bps=10**9, routes=routes
    )
    rig = opened()
    asked = await rig.store.put(key(1), POD, "/run/netns/web", wishes)
    plain = await rig.store.put(key(2), POD, "/run/netns/web")
    assert (asked.wishes, plain.wishes) == (wishes, Wishes())
    assert asked.addresses == wishes.addresses
    again = opened().store.snapshot
    assert again.attachments == {key(1): asked, key(2): plain}


VFS = {4096: Vf("pf0vf0", "0000:03:00.2"), 4352: Vf("pf1vf0", "0000:03:08.2")}


async def test_a_pod_with_a_device_has_its_slot_after_a_restart_too(opened: Callable[[], Rig]) -> None:
    rig = opened()
    rig.store.set_vfs(VFS)
    one = await rig.store.put(key(1), POD, "/run/netns/web", Wishes(device="0000:03:08.2"))
    plain = await rig.store.put(key(2), POD, "/run/netns/web")
    assert (one.slot, one.wishes.device, plain.slot) == (4352, "0000:03:08.2", 0)
    again = opened()
    assert again.store.snapshot.attachments == {key(1): one, key(2): plain}
    assert again.store.devices() == {"0000:03:08.2": 4352}
    assert again.store.snapshot.slots == 1 + 4, "a stock of veth pairs as ever"
    again.store.set_vfs(VFS)
    assert again.changed == [VfPort(4096), VfPort(4352), key(1)]
    assert await again.store.put(key(1), POD, "/run/netns/web", Wishes(device="0000:03:08.2")) == one


def test_the_stock_never_takes_what_is_vfs(opened: Callable[[], Rig]) -> None:
    rig = opened()
    rig.store.keep_slots(10_000)
    assert rig.store.snapshot.slots == 4096


async def test_a_device_is_one_pods_and_of_this_server(opened: Callable[[], Rig]) -> None:
    rig = opened()
    rig.store.set_vfs(VFS)
    await rig.store.put(key(1), POD, "/run/netns/web", Wishes(device="0000:03:00.2"))
    with pytest.raises(TryAgainLater, match=r"0000:03:00.2 cannot be had: .* c1/eth0 holds slot 4096"):
        await rig.store.put(key(2), POD, "/run/netns/web", Wishes(device="0000:03:00.2"))
    with pytest.raises(TryAgainLater, match="cannot change to another"):
        await rig.store.put(key(1), POD, "/run/netns/web", Wishes(device="0000:03:08.2"))
    with pytest.raises(InvalidConfig, match=r"0000:99:00.0 is no VF .* `routed doctor nic`"):
        await rig.store.put(key(3), POD, "/run/netns/web", Wishes(device="0000:99:00.0"))
    assert set(rig.store.snapshot.attachments) == {key(1)}
    await rig.store.discard(key(1))
    await rig.store.forget(key(1))
    assert (await rig.store.put(key(2), POD, "/run/netns/web", Wishes(device="0000:03:00.2"))).slot == 4096


async def test_leaving_is_not_gone_until_forgotten(opened: Callable[[], Rig]) -> None:
    rig = opened()
    await rig.store.put(key(1), POD, "/run/netns/web")
    assert await rig.store.discard(key(1))
    assert rig.store.snapshot.attachments[key(1)].leaving
    with pytest.raises(Leaving):
        await rig.store.put(key(1), POD, "/run/netns/web")
    await rig.store.forget(key(1))
    await rig.store.forget(key(1))
    assert rig.store.snapshot.attachments == {}
    assert not await rig.store.discard(key(1))
    (pool,) = rig.store.usage()
    assert (pool.used, pool.cooling, pool.free) == (0, 1, 60)


async def test_a_full_pool_refuses_one_and_serves_the_others(opened: Callable[[], Rig]) -> None:
    rig = opened()
    calls = (rig.store.put(key(number), POD, "/run/netns/web") for number in range(62))
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(isinstance(one, PoolExhausted) for one in outcomes) == 1
    assert len(rig.store.snapshot.attachments) == 61


async def test_the_stock_grows_in_a_quiet_moment_before_it_is_used_up(opened: Callable[[], Rig]) -> None:
    rig = opened()
    for number in range(3):
        await rig.store.put(key(number), POD, "/run/netns/web")
    assert Standing.STOCK not in rig.changed
    async with asyncio.timeout(5):
        while Standing.STOCK not in rig.changed:
            await asyncio.sleep(0.01)
    assert rig.store.snapshot.slots == 3 + 4


async def test_a_stock_that_runs_out_does_not_wait_for_quiet(opened: Callable[[], Rig]) -> None:
    rig = opened()
    for number in range(4):
        await rig.store.put(key(number), POD, "/run/netns/web")
    async with asyncio.timeout(_QUIET_S / 2):
        while Standing.STOCK not in rig.changed:
            await asyncio.sleep(0)
    assert rig.store.snapshot.slots == 4 + 4


async def test_the_uplink_concerns_everybody_but_only_when_it_changes(opened: Callable[[], Rig]) -> None:
    rig = opened()
    rig.store.set_vfs(VFS)
    await rig.store.put(key(1), POD, "/run/netns/web")
    rig.changed.clear()
    rig.store.set_uplink(UPLINK)
    assert rig.changed == []
    rig.store.set_uplink(Uplink((1,), ("bond0",), UPLINK.mac, "02:00:00:00:01:01", 1500))
    assert set(rig.changed) == {Standing.HOST, Standing.STOCK, VfPort(4096), VfPort(4352), key(1)}


async def test_a_mistake_in_the_ledger_reaches_its_caller(opened: Callable[[], Rig]) -> None:
    rig = opened()
    correct = rig.ledger.put

    def mistaken(requests: Sequence[object], now: float) -> object:
        rig.ledger.put = correct  # type: ignore[method-assign]  # an executing wrapper, for one call
        raise TypeError(f"{len(requests)} at {now}")

    rig.ledger.put = mistaken  # type: ignore[method-assign,assignment]  # see above
    async with asyncio.timeout(5):
        with pytest.raises(TypeError):
            await rig.store.put(key(1), POD, "")
        assert (await rig.store.put(key(1), POD, "")).slot == 0


async def test_a_pool_must_not_go_before_its_pods(opened: Callable[[], Rig], tmp_path: Path) -> None:
    first = opened()
    await first.store.put(key(1), POD, "/run/netns/web")
    first.store.close()
    first.ledger.close()
    other = Subnet(ip_network("10.102.0.0/26"), ip_address("10.102.0.1"))
    pools = (Pool(other.prefix, other.gateway),)
    with Ledger(tmp_path / "ledger.db", pools, EmbeddedLeases(pools)) as ledger:

        def start() -> Store:
            rack, server = Rack("r1", (), (), (other,)), Server("s11", 65500, (ip_address("10.1.0.11"),))
            return Store(ledger, rack=rack, server=server, uplink=UPLINK, ready_slots=4, on_change=lambda _: None)

        with pytest.raises(PoolError, match=r"10\.101\.0\.2 is in no pool of rack r1, but default/web still has it"):
            start()
        ledger.discard(Holder("c1", "eth0"))
        store = start()  # what leaves needs no gateway
        store.close()


async def test_a_mirror_is_of_a_pod_that_is_there(opened: Callable[[], Rig]) -> None:
    rig, mirror = opened(), Mirror("tap0", 900, str(key(1)))
    rig.store.mirror(key(1), mirror)
    assert (rig.store.snapshot.mirrors, rig.changed) == ({}, [])
    await rig.store.put(key(1), POD, "/run/netns/web")
    rig.store.mirror(key(1), mirror)
    assert rig.store.snapshot.mirrors == {key(1): mirror}
    assert rig.changed[1:] == [MirrorOf(key(1)), key(1)]
    await rig.store.discard(key(1))
    await rig.store.forget(key(1))
    rig.store.mirror(key(1), mirror)
    assert rig.store.snapshot.mirrors == {}
    assert rig.changed[3:] == [key(1), MirrorOf(key(1))], "the loop may forget its owner"

"""Leases on a real API server: what one server does, and two that meet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from random import Random

import pytest

from ipam.errors import PoolExhausted
from ipam.model import Holdings, IPAddress, Pod
from routed.kube.addresses import Lease
from routed.kube.client import connect
from routed.kube.errors import NoNode
from routed.kube.registry import Registry
from routed.kube.stock import Marks
from tests.fixtures.pools import V4, V6, pool
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, NODES, add_node, agent_of
from tests.kube.servants import Servant, owners, twice, until

SMALL = pool("10.9.0.0/29", "10.9.0.1")
"""Five addresses."""
_RACKS = count()
FEW = Marks(2, 6)


@pytest.fixture
def rack(cluster: ControlPlane) -> Iterator[str]:
    """A rack of its own for each test; the addresses are everybody's, so they go in the end."""
    name = f"rack-{next(_RACKS)}"
    yield name
    for item in cluster.admin.get(ADDRESSES).granted()["items"]:
        cluster.admin.delete(f"{ADDRESSES}/{item['metadata']['name']}")


def text(address: IPAddress) -> str:
    return f"{ADDRESSES}/{address}"


async def settled(servant: Servant) -> frozenset[IPAddress]:
    """Make passes until one changes nothing; return what the server owns."""
    before: frozenset[IPAddress] | None = None
    while before != (now := servant.claims()):
        before = now
        await servant.leases.tidy(servant)
    return now


async def test_one_of_many_who_claim_an_address_gets_it(cluster: ControlPlane, rack: str, tmp_path: Path) -> None:
    address = ip_address("10.9.0.5")
    async with AsyncExitStack() as stack:
        registries = []
        for number in range(12):
            name = f"{rack}-s{number}"
            api = await stack.enter_async_context(connect(cluster.kubeconfig(agent_of(cluster, name), tmp_path / name)))
            registries.append(Registry(api, rack, name, Random(number)))  # noqa: S311 - no secret
        won = await asyncio.gather(*(registry.claim(address, "uid") for registry in registries))
        (winner,) = [lease for lease in won if lease is not None]
        assert owners(cluster, rack) == {address: winner.node}
        assert not await registries[0].release(Lease(address, winner.node, "uid", winner.uid, "1")), "another version"
        assert owners(cluster, rack) == {address: winner.node}


async def test_the_stock_follows_its_marks_and_the_api_says_who_uses_what(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4], rack=rack, marks=FEW)
    async with servant.alive(keep=False):
        assert len(await settled(servant)) == 4, "half way between the marks"
        records = [servant.try_add() for _ in range(3)]
        assert len(await settled(servant)) == 3 + 4, "one was left, below the low mark"
        said = [cluster.admin.get(text(record.addresses[0])).granted()["status"]["pod"]["name"] for record in records]
        assert said == [record.pod.name for record in records]
        for record in records:
            servant.delete(record)
        assert len(await settled(servant)) == 4
        assert owners(cluster, rack) == dict.fromkeys(servant.claims(), servant.name)
        assert not any(one.get("status", {}).get("pod") for one in cluster.admin.get(ADDRESSES).granted()["items"])


async def test_both_families_are_kept_and_a_pod_gets_one_of_each(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4, V6], rack=rack, marks=FEW)
    async with servant.alive(keep=False):
        await settled(servant)
        record = servant.try_add()
        assert [address.version for address in record.addresses] == [4, 6]
        assert {address: owner for address, owner in owners(cluster, rack).items() if address in record.addresses}


async def test_an_add_that_finds_nothing_asks_once_and_gets_an_address(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4], rack=rack, marks=Marks(0, 0))
    async with servant.alive():
        with pytest.raises(PoolExhausted):
            servant.try_add()
        records = await asyncio.gather(*(servant.add() for _ in range(30)))
        assert len({record.addresses for record in records}) == 30


async def test_what_one_server_gives_back_another_one_gets(cluster: ControlPlane, rack: str, tmp_path: Path) -> None:
    one, two = (Servant(cluster, tmp_path, f"{rack}-s{n}", [SMALL], rack=rack, marks=FEW, look_s=0.2) for n in (1, 2))
    async with one.alive(), two.alive():
        all_of_them = [await one.insist() for _ in range(5)]
        with pytest.raises(PoolExhausted):
            await two.add()
        one.delete(all_of_them[0])
        assert (await two.insist()).addresses == all_of_them[0].addresses
        assert not twice([one, two])


async def test_nothing_is_kept_for_a_pod_that_came_back_and_ended(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    one, two = (Servant(cluster, tmp_path, f"{rack}-s{n}", [SMALL], rack=rack, marks=Marks(0, 0)) for n in (1, 2))
    async with one.alive(), two.alive(keep=False):
        all_of_them = [await one.insist() for _ in range(5)]
        pod = two.new_pod()
        first, _ = await asyncio.gather(two.add(pod), two.leases.tidy(two), return_exceptions=True)
        assert isinstance(first, PoolExhausted)
        one.delete(all_of_them[0])
        await until(lambda: len(owners(cluster, rack)) == 4, "it is given back")
        await two.leases.start()
        assert len(await settled(two)) == 1, "it is kept for the pod"
        two.delete(await two.add(pod))
        assert not await settled(two), "not any more, though no pass has seen the pod with it"


async def test_a_pod_that_the_api_server_will_not_hear_of_has_its_address_all_the_same(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4], rack=rack, marks=FEW)
    async with servant.alive(keep=False):
        await settled(servant)
        (odd,) = servant.try_add(Pod("x" * 64, "its namespace is too long", "u")).addresses
        (plain,) = servant.try_add().addresses
        await settled(servant)
        assert "status" not in cluster.admin.get(text(odd)).granted()
        assert cluster.admin.get(text(plain)).granted()["status"]["pod"], "control"
        assert owners(cluster, rack).keys() == servant.claims()


class Rash(Servant):
    """Hands out an address between the moment when it is asked for what is in use and that when it is told so."""

    busy = False
    truthful = True
    rashly: IPAddress | None = None

    async def holdings(self) -> Holdings:
        said = await super().holdings()
        if self.busy and self.rashly is None:
            (self.rashly,) = self.try_add().addresses
        elif self.rashly is not None and not self.truthful:
            return Holdings({}, frozenset())
        return said


@pytest.mark.parametrize("truthful", [True, False], ids=["asks again", "control: is told the old truth again"])
async def test_an_address_handed_out_while_it_is_given_back_stays(
    cluster: ControlPlane, rack: str, tmp_path: Path, *, truthful: bool
) -> None:
    servant = Rash(cluster, tmp_path, f"{rack}-s1", [SMALL], rack=rack, marks=FEW)
    async with servant.alive(keep=False):
        await settled(servant)
        servant.busy, servant.truthful = True, truthful
        servant.leases._marks = Marks(0, 0)  # all of the stock is too much now
        await servant.leases.tidy(servant)
        assert (servant.rashly in owners(cluster, rack)) is truthful


async def test_a_lease_that_somebody_deleted_is_claimed_again(cluster: ControlPlane, rack: str, tmp_path: Path) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4], rack=rack, marks=FEW, look_s=0.2)
    async with servant.alive():
        (used,) = (await servant.add()).addresses
        uid = cluster.admin.get(text(used)).granted()["metadata"]["uid"]
        cluster.admin.delete(text(used)).granted()
        await until(lambda: cluster.admin.get(text(used)).ok, "it is there again")
        assert cluster.admin.get(text(used)).granted()["metadata"]["uid"] != uid
        await until(lambda: used in servant.claims(), "and ours")
        assert not servant.taken


async def test_a_lease_without_the_label_of_its_rack_is_found(cluster: ControlPlane, rack: str, tmp_path: Path) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4], rack=rack, marks=FEW, look_s=0.2)
    async with servant.alive():
        (used,) = (await servant.add()).addresses
        cluster.admin.patch(text(used), {"metadata": {"labels": {"routed.dev/rack": None}}}).granted()
        await until(lambda: used in owners(cluster, rack), "the label is there again")


async def test_a_server_that_comes_back_to_a_lost_address_is_told_so(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    one, two = (
        Servant(cluster, tmp_path, f"{rack}-s{n}", [SMALL], rack=rack, marks=Marks(0, 0), look_s=0.2) for n in (1, 2)
    )
    async with one.alive():
        (lost,) = (await one.add()).addresses
        (kept,) = (await one.add()).addresses
    cluster.admin.delete(text(lost)).granted()
    async with two.alive():
        while lost not in two.pods():
            await two.insist()
        await until(lambda: not len(two.leases._asks), "nothing is kept back for a pod any more")
        async with one.alive():
            await until(lambda: one.taken == {lost: two.name}, "it is told whose the address is now")
            assert lost not in {network.network_address for network in one.leases.owned()}
            assert kept in {network.network_address for network in one.leases.owned()}
            assert twice([one, two]) == {lost: [one.name, two.name]}, "control: this is what the judge is there for"
            two.delete(next(record for record in two.ledger.records() if lost in record.addresses))
            await until(lambda: not one.taken, "it has the address again when the other one has given it back")
            assert not twice([one, two])


async def test_a_node_that_was_registered_anew_keeps_its_leases(
    cluster: ControlPlane, rack: str, tmp_path: Path
) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4], rack=rack, marks=FEW)
    async with servant.alive(keep=False):
        mine = await settled(servant)
    before = cluster.admin.get(f"{NODES}/{servant.name}").granted()["metadata"]["uid"]
    cluster.admin.delete(f"{NODES}/{servant.name}").granted()
    async with servant.alive(keep=False):
        with pytest.raises(NoNode):
            await servant.leases.tidy(servant)
        assert servant.claims() == mine, "no Node is no reason to let go of anything"
        after = add_node(cluster, servant.name)["metadata"]["uid"]
        assert after != before
        assert await settled(servant) == mine
    uids = {cluster.admin.get(text(address)).granted()["spec"]["nodeUID"] for address in mine}
    assert uids == {after}


class Trusting(Registry):
    """Takes up what it finds as it is."""

    async def confirm(self, lease: Lease, node_uid: str) -> Lease | None:
        assert lease.node_uid == node_uid
        return lease


@pytest.mark.parametrize("confirms", [True, False], ids=["confirmed", "control: taken up as it is"])
async def test_a_delete_that_comes_late_misses_a_lease_that_was_taken_up_again(
    cluster: ControlPlane, rack: str, tmp_path: Path, *, confirms: bool
) -> None:
    servant = Servant(cluster, tmp_path, f"{rack}-s1", [V4], rack=rack, marks=FEW)
    async with servant.alive(keep=False):
        (address, *_) = sorted(await settled(servant))
        await servant.leases.tidy(servant)
        late = (await servant.registry.everything())[0][address]
    (servant.folder / "leases.json").unlink()  # as if it had been given back: out of the file, and then killed
    servant.registry_kind = Registry if confirms else Trusting
    async with servant.alive(keep=False):
        assert address in await settled(servant)
        assert await servant.registry.release(late) is not confirms
        assert (address in owners(cluster, rack)) is confirms


async def test_adds_need_no_api_server_while_the_stock_lasts(cluster: ControlPlane, tmp_path: Path) -> None:
    marks = Marks(8, 16)
    servant = Servant(cluster, tmp_path, "s1", [V4], rack="away", marks=marks)
    async with servant.alive():
        await until(lambda: len(servant.claims()) == marks.target, "the stock")
        stock = servant.claims()
        cluster.stop()
        try:
            records = [await servant.add() for _ in range(marks.target)]
            assert servant.pods() == stock
            servant.delete(records.pop())
            records.append(await servant.add())
            await until(lambda: not servant.leases.state().reachable, "it knows that nobody answers")
            began = time.monotonic()
            with pytest.raises(PoolExhausted):
                await servant.add()
            assert time.monotonic() - began < 5, "it does not wait for an API server that is away"
        finally:
            cluster.start()
            cluster.wait_ready()
        await until(lambda: servant.leases.state().reachable, "it knows that the API server is back")
        await servant.add()
        await until(lambda: len(servant.claims()) >= len(servant.pods()) + marks.low, "a stock again")
        assert owners(cluster, "away").keys() == servant.claims()


async def test_leases_outlive_agent_and_server(cluster: ControlPlane, tmp_path: Path) -> None:
    servant = Servant(cluster, tmp_path, "s2", [pool("10.8.0.0/24", "10.8.0.1")], rack="lasting", marks=FEW)
    async with servant.alive(keep=False):
        mine = await settled(servant)
        servant.try_add()
    async with servant.alive(keep=False):
        assert servant.claims() == mine, "after a restart"
    servant.boot = "second"
    async with servant.alive(keep=False):
        assert servant.claims() == mine, "after a reboot: the API server says so"
        servant.leases._cache.save(frozenset(mine))
    cluster.stop()
    try:
        async with servant.alive(keep=False):
            assert servant.claims() == mine, "after a restart while the API server is away: the file says so"
            servant.try_add()
        servant.boot = "third"
        async with servant.alive(keep=False):
            assert servant.claims() == servant.pods(), "control: after a reboot, the file does not count"
    finally:
        cluster.start()
        cluster.wait_ready()
    async with servant.alive(keep=False):
        assert servant.claims() == mine

"""The agent's own store on leases of a real API server, composed from a rack file as the agent does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
import yaml

from ipam.errors import AddressRefused
from ipam.ledger import Ledger
from ipam.model import IPAddress
from routed import views
from routed.cni.errors import TryAgainLater
from routed.domain.intent import plan
from routed.domain.rack import Uplink
from routed.domain.workload import Attachment, AttachmentId, PodRef, Wishes, host_network
from routed.kube.addresses import Lease, read
from routed.kube.client import connect
from routed.kube.cluster import Cluster
from routed.kube.events import Events
from routed.kube.racks import pools_of
from routed.leasing import Leasing, leasing
from routed.settings import Settings, load
from routed.store import Store
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, address, agent_of, clear
from tests.kube.servants import owners, until

EXAMPLE = Path(__file__).parents[2] / "rack.example.yaml"
UPLINK = Uplink((1,), ("bond0",), "02:10:00:00:01:0b", "02:00:00:00:01:01", 1500)


@pytest.fixture
def settings(cluster: ControlPlane, tmp_path: Path) -> Iterator[Settings]:
    document = yaml.safe_load(EXAMPLE.read_text())
    for server in document["servers"].values():
        del server["owns"]
    kubeconfig = cluster.kubeconfig(agent_of(cluster, "s11"), tmp_path / "kubeconfig")
    document |= {"rack": "leasing", "paths": {"state": str(tmp_path)}, "fabric": None}
    document["kubernetes"] = {"kubeconfig": str(kubeconfig), "stock_low": 4, "stock_high": 8}
    (tmp_path / "rack.yaml").write_text(yaml.safe_dump(document))
    yield load(tmp_path / "rack.yaml")
    clear(cluster, ADDRESSES)


@asynccontextmanager
async def composed(
    settings: Settings, name: str = "s11", *, cooldown_s: float = 60
) -> AsyncIterator[tuple[Store, Leasing]]:
    """Compose what the agent has between the CNI socket and the planes."""
    pools = pools_of(settings)
    async with connect(settings.kubernetes.kubeconfig if settings.kubernetes else None) as api:
        rng = Random(1)  # noqa: S311 - spreads servers out
        leases = await leasing(settings, name, Cluster(api, name, Events(api, name), rng), pools)
        with Ledger(settings.paths.state / "ledger.db", pools, leases.source, cooldown_s=cooldown_s) as ledger:
            store = Store(
                ledger,
                rack=settings.domain_rack(),
                server=settings.domain_server(name),
                uplink=UPLINK,
                ready_slots=4,
                on_change=lambda _: leases.nudge(),
            )
            running = asyncio.create_task(leases.run(store))
            try:
                yield store, leases
            finally:
                running.cancel()
                await asyncio.wait([running])
                store.close()


def key(number: int) -> AttachmentId:
    return AttachmentId(f"c{number}", "eth0")


async def add(store: Store, number: int) -> AttachmentId:
    await store.put(key(number), PodRef("shop", f"cart-{number}", f"u{number}"), f"/run/netns/{number}")
    return key(number)


async def test_thirty_pods_at_once_get_addresses_and_keep_them(cluster: ControlPlane, settings: Settings) -> None:
    async with composed(settings) as (store, leases):
        await asyncio.gather(*(add(store, number) for number in range(30)))
        used = {one for attachment in store.snapshot.attachments.values() for one in attachment.addresses}
        assert len(used) == 60, "one of each family"
        state = leases.state()
        assert state is not None
        assert state.reachable
        await until(lambda: used <= owners(cluster, "leasing").keys(), "the API server knows of all")
        v4 = views.leases(store.usage(), leases.state())[0]
        assert v4["rack_idle"] <= 253
    async with composed(settings) as (store, _):
        again = {one for attachment in store.snapshot.attachments.values() for one in attachment.addresses}
        assert again == used


async def test_a_taken_address_is_cordoned_until_its_pod_ends(cluster: ControlPlane, settings: Settings) -> None:
    async with composed(settings) as (store, _):
        lost, kept = await add(store, 1), await add(store, 2)
        taken = store.snapshot.attachments[lost].addresses[0]
        await until(lambda: taken in owners(cluster, "leasing"), "it is leased")
    cluster.admin.delete(f"{ADDRESSES}/{taken}").granted()
    cluster.admin.post(ADDRESSES, address(str(taken), node="s99", rack="leasing")).granted()
    async with composed(settings) as (store, leases):
        await until(lambda: store.snapshot.taken == {taken: "s99"}, "the store is told so")
        assert set(plan(store.snapshot, lost).advertisements.values()) == {None}, "not announced any more"
        assert set(plan(store.snapshot, lost).flows.values()) == {None}
        assert None not in plan(store.snapshot, kept).advertisements.values(), "control: the other pod is"
        state = leases.state()
        assert state is not None
        assert state.taken == {taken: "s99"}
        await store.discard(lost)
        await store.forget(lost)
        await until(lambda: not store.snapshot.taken, "nobody uses it here any more")


async def test_a_pod_gets_the_address_that_it_asks_for_unless_another_server_has_it(
    cluster: ControlPlane, settings: Settings
) -> None:
    wanted, elsewhere = ip_address("10.101.1.77"), ip_address("10.101.1.78")
    cluster.admin.post(ADDRESSES, address(str(elsewhere), node="s99", rack="leasing")).granted()
    async with composed(settings) as (store, _):
        pod = PodRef("shop", "fixed", "u1")
        attachment = await store.put(key(1), pod, "/run/netns/1", Wishes((wanted,)))
        assert attachment.addresses[0] == wanted
        with pytest.raises(AddressRefused, match=str(elsewhere)):
            await store.put(key(2), PodRef("shop", "late", "u2"), "/run/netns/2", Wishes((elsewhere,)))
        with pytest.raises(AddressRefused, match="holds it"):
            await store.put(key(3), PodRef("shop", "twice", "u3"), "/run/netns/3", Wishes((wanted,)))


async def let_go(store: Store, gone: AttachmentId) -> None:
    await store.discard(gone)
    await store.forget(gone)


async def come_back(store: Store, comer: AttachmentId, pod: PodRef) -> Attachment:
    """Attach a sticky pod as kubelet does: again and again."""
    deadline = time.monotonic() + 60
    while True:
        try:
            return await store.put(comer, pod, "/run/netns/web", Wishes(sticky=True))
        except TryAgainLater as error:
            reason = str(error)
        assert "waits for the address that it had before" in reason
        assert time.monotonic() < deadline, reason
        await asyncio.sleep(0.2)  # between two attempts


def kept_for(cluster: ControlPlane, name: str) -> set[str]:
    found = cluster.admin.get(ADDRESSES).granted()["items"]
    noted = ((item["spec"], item["metadata"].get("annotations") or {}) for item in found)
    return {spec["address"] for spec, notes in noted if notes.get("routed.dev/sticky") == name}


async def test_a_sticky_pod_comes_back_to_its_address_at_once_and_after_a_restart(
    cluster: ControlPlane, settings: Settings
) -> None:
    async with composed(settings) as (store, _):
        first = await come_back(store, key(1), PodRef("shop", "web-0", "u1"))
        await let_go(store, first.id)
        await until(lambda: kept_for(cluster, "shop/web-0") == set(map(str, first.addresses)), "the note")
        others = await asyncio.gather(*(add(store, number) for number in range(10, 30)))
        used = {one for other in others for one in store.snapshot.attachments[other].addresses}
        assert used.isdisjoint(first.addresses), "nobody else gets it"
        second = await store.put(key(2), PodRef("shop", "web-0", "u2"), "/run/netns/2", Wishes(sticky=True))
        assert second.addresses == first.addresses
        assert await come_back(store, second.id, second.pod) == second, "asked twice, answered once"
        await let_go(store, second.id)
        await until(lambda: not any(one.pod for one in leases_of(cluster, first.addresses)), "nobody uses it")
    async with composed(settings) as (store, _):
        late = await store.put(key(3), PodRef("shop", "web-0", "u3"), "/run/netns/3", Wishes(sticky=True))
        assert late.addresses == first.addresses


async def test_a_pod_that_is_not_sticky_does_not_come_back_to_its_address(
    cluster: ControlPlane, settings: Settings
) -> None:
    async with composed(settings) as (store, _):
        pod = PodRef("shop", "web-0", "u1")
        first = await store.put(key(1), pod, "/run/netns/1")
        await let_go(store, first.id)
        second = await come_back(store, key(2), replace(pod, uid="u2"))
        assert not set(second.addresses) & set(first.addresses), "they cool down"
        assert kept_for(cluster, "shop/web-0").isdisjoint(map(str, first.addresses))


async def test_a_sticky_pod_takes_its_address_along_to_another_server(
    cluster: ControlPlane, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = at_server(cluster, settings, tmp_path, "s12")
    async with composed(settings, cooldown_s=1) as (store, _), composed(elsewhere, "s12") as (other, _):
        first = await come_back(store, key(1), PodRef("shop", "web-0", "u1"))
        await until(lambda: kept_for(cluster, "shop/web-0") == set(map(str, first.addresses)), "the note")
        waiting = asyncio.create_task(come_back(other, key(2), PodRef("shop", "web-0", "u2")))
        await until(lambda: any(one.wanted for one in leases_of(cluster)), "it is asked for")
        assert {owners(cluster, "leasing")[one] for one in first.addresses} == {"s11"}, "while it is in use"
        await let_go(store, first.id)
        second = await waiting
        assert second.addresses == first.addresses
        assert {owners(cluster, "leasing")[one] for one in first.addresses} == {"s12"}
        await until(lambda: kept_for(cluster, "shop/web-0") == set(map(str, first.addresses)), "the note, anew")
        await until(lambda: not any(one.wanted for one in leases_of(cluster)), "nothing is asked for any more")


async def test_an_address_that_was_handed_over_is_kept_for_the_pod_that_waits_for_it(
    cluster: ControlPlane, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = at_server(cluster, settings, tmp_path, "s12")
    async with composed(settings, cooldown_s=0) as (store, _), composed(elsewhere, "s12") as (other, stock):
        first = await come_back(store, key(1), PodRef("shop", "web-0", "u1"))
        await until(lambda: kept_for(cluster, "shop/web-0") == set(map(str, first.addresses)), "the note")
        with pytest.raises(TryAgainLater):
            await other.put(key(2), PodRef("shop", "web-0", "u2"), "/run/netns/2", Wishes(sticky=True))
        await let_go(store, first.id)
        await until(lambda: set(map(host_network, first.addresses)) <= set(stock.source.owned()), "the hand-over")
        others = await asyncio.gather(*(add(other, number) for number in range(10, 30)))  # before it tries again
        used = {one for pod in others for one in other.snapshot.attachments[pod].addresses}
        assert used.isdisjoint(first.addresses), "nobody else gets it"
        second = await other.put(key(2), PodRef("shop", "web-0", "u2"), "/run/netns/2", Wishes(sticky=True))
        assert second.addresses == first.addresses


async def test_an_address_that_waits_for_a_name_is_given_to_a_pod_that_asks_for_it(
    cluster: ControlPlane, settings: Settings
) -> None:
    async with composed(settings, cooldown_s=0) as (store, _):
        first = await come_back(store, key(1), PodRef("shop", "web-0", "u1"))
        await until(lambda: kept_for(cluster, "shop/web-0") == set(map(str, first.addresses)), "the note")
        await let_go(store, first.id)
        await until(lambda: not any(one.pod for one in leases_of(cluster, first.addresses)), "nobody uses it")
        fixed = await store.put(key(2), PodRef("shop", "fixed", "u2"), "/run/netns/2", Wishes(first.addresses))
        assert fixed.addresses == first.addresses


async def test_an_address_in_another_servers_stock_is_given_up_for_a_pod_that_asks_for_it(
    cluster: ControlPlane, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = at_server(cluster, settings, tmp_path, "s12")
    async with composed(settings) as (store, _), composed(elsewhere, "s12") as (other, stock):
        await add(other, 1)
        (used,) = (one for one in other.snapshot.attachments[key(1)].addresses if one.version == 4)
        await until(lambda: any(owner == "s12" for owner in owners(cluster, "leasing").values()), "a stock")
        wanted = next(one.network_address for one in stock.source.owned() if one.version == 4 and used not in one)
        pod = PodRef("shop", "fixed", "u1")
        for _ in range(50):
            try:
                assert (await store.put(key(2), pod, "/run/netns/2", Wishes((wanted,)))).addresses[0] == wanted
                break
            except AddressRefused:
                await asyncio.sleep(0.2)  # between two attempts of a kubelet
        assert owners(cluster, "leasing")[wanted] == "s11"
        with pytest.raises(AddressRefused):
            await store.put(key(3), replace(pod, name="vain"), "/run/netns/3", Wishes((used,)))
        assert owners(cluster, "leasing")[used] == "s12", "control: that one is in use"


async def test_a_sticky_pod_that_has_waited_for_long_enough_starts_with_any_address(
    cluster: ControlPlane, settings: Settings, tmp_path: Path
) -> None:
    elsewhere = at_server(cluster, settings, tmp_path, "s12", sticky_wait_s=1)
    async with composed(settings) as (store, _):
        first = await come_back(store, key(1), PodRef("shop", "web-0", "u1"))
        await until(lambda: kept_for(cluster, "shop/web-0") == set(map(str, first.addresses)), "the note")
    async with composed(elsewhere, "s12") as (other, _):  # the first one is away for good
        second = await come_back(other, key(2), PodRef("shop", "web-0", "u2"))
        assert not set(second.addresses) & set(first.addresses)
        await until(lambda: all(one.pod and one.sticky for one in leases_of(cluster, second.addresses)), "it is told")
    async with composed(settings) as (store, _):
        await let_go(store, first.id)
        await until(lambda: kept_for(cluster, "shop/web-0") == set(map(str, second.addresses)), "the newer one holds")


def at_server(
    cluster: ControlPlane, settings: Settings, folder: Path, name: str, *, sticky_wait_s: float = 60
) -> Settings:
    """Return the settings of another server of the rack."""
    state = folder / name
    state.mkdir()
    kubeconfig = cluster.kubeconfig(agent_of(cluster, name), state / "kubeconfig")
    assert settings.kubernetes is not None
    kubernetes = settings.kubernetes.model_copy(update={"kubeconfig": kubeconfig, "sticky_wait_s": sticky_wait_s})
    paths = settings.paths.model_copy(update={"state": state})
    return settings.model_copy(update={"kubernetes": kubernetes, "paths": paths})


def leases_of(cluster: ControlPlane, addresses: Sequence[IPAddress] = ()) -> list[Lease]:
    """Return the leases as the API server has them, all or those of some addresses."""
    found = map(read, cluster.admin.get(ADDRESSES).granted()["items"])
    return [lease for lease in found if not addresses or lease.address in addresses]

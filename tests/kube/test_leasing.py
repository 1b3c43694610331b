"""The agent's own store on leases of a real API server, composed from a rack file as the agent does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
import yaml

from ipam.errors import AddressRefused
from ipam.ledger import Ledger
from routed import views
from routed.domain.intent import plan
from routed.domain.rack import Uplink
from routed.domain.workload import AttachmentId, PodRef
from routed.kube.client import connect
from routed.kube.cluster import Cluster
from routed.kube.events import Events
from routed.kube.racks import pools_of
from routed.leasing import Leasing, leasing
from routed.settings import Settings, load
from routed.store import Store
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, address, agent_of
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
    for item in cluster.admin.get(ADDRESSES).granted()["items"]:
        cluster.admin.delete(f"{ADDRESSES}/{item['metadata']['name']}")


@asynccontextmanager
async def composed(settings: Settings) -> AsyncIterator[tuple[Store, Leasing]]:
    """Compose what the agent has between the CNI socket and the planes."""
    pools = pools_of(settings)
    async with connect(settings.kubernetes.kubeconfig if settings.kubernetes else None) as api:
        rng = Random(1)  # noqa: S311 - spreads servers out
        leases = await leasing(settings, "s11", Cluster(api, "s11", Events(api, "s11"), rng), pools)
        with Ledger(settings.paths.state / "ledger.db", pools, leases.source, cooldown_s=60) as ledger:
            store = Store(
                ledger,
                rack=settings.domain_rack(),
                server=settings.domain_server("s11"),
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


async def add(store: Store, number: int) -> AttachmentId:
    key = AttachmentId(f"c{number}", "eth0")
    await store.put(key, PodRef("shop", f"cart-{number}", f"u{number}"), f"/run/netns/{number}")
    return key


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
        attachment = await store.put(AttachmentId("c1", "eth0"), pod, "/run/netns/1", (wanted,))
        assert attachment.addresses[0] == wanted
        with pytest.raises(AddressRefused, match=str(elsewhere)):
            await store.put(AttachmentId("c2", "eth0"), PodRef("shop", "late", "u2"), "/run/netns/2", (elsewhere,))
        with pytest.raises(AddressRefused, match="holds it"):
            await store.put(AttachmentId("c3", "eth0"), PodRef("shop", "twice", "u3"), "/run/netns/3", (wanted,))

"""Following the own Node and the Racks, and keeping a Rack's status, each as an agent with an agent's rights."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import pytest

from routed.kube.api import RACKS as RACK_OBJECTS
from routed.kube.api import Api
from routed.kube.client import connect
from routed.kube.following import followed
from routed.kube.nodes import Here, Site, Surroundings
from routed.kube.occupancy import RackStatus
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import (
    ACCOUNT,
    ADDRESSES,
    BINDING,
    NODES,
    NOWHERE,
    RACKS,
    add_node,
    address,
    agent_of,
    api_of,
    clear,
    eventually,
    rack,
    until,
)

NODE = "site-1"
LOCAL = {"bridge": {"members": ["etha", "ethb"]}}


@dataclass
class Watched:
    """An agent's surroundings, and all that it was told of them."""

    surroundings: Surroundings
    sites: list[Site] = field(default_factory=list)
    troubles: list[str | None] = field(default_factory=list)


@pytest.fixture
def cluster(cluster: ControlPlane) -> Iterator[ControlPlane]:
    """A cluster with one server and no Rack."""
    clear(cluster, RACKS, ADDRESSES)
    add_node(cluster, NODE)
    said = {"metadata": {"labels": {"routed.dev/rack": "r1"}, "annotations": {"routed.dev/addresses": "10.1.0.11"}}}
    cluster.admin.patch(f"{NODES}/{NODE}", said).granted()
    yield cluster
    clear(cluster, RACKS, ADDRESSES)
    cluster.admin.delete(f"{NODES}/{NODE}")  # which a test may have done


@asynccontextmanager
async def watching(api: Api, memory: Path) -> AsyncIterator[Watched]:
    watched = Watched(None)  # type: ignore[arg-type]  # in a moment
    here = Here(NODE, LOCAL, memory / "site.json")
    watched.surroundings = Surroundings(api, here, on_site=watched.sites.append, on_trouble=watched.troubles.append)
    task = asyncio.create_task(watched.surroundings.run())
    try:
        yield watched
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def writer(api: Api, watched: Watched, period_s: float = 60.0) -> RackStatus:
    rng = Random(1)  # noqa: S311 - the same in each run
    return RackStatus(api, watched.surroundings, rng, period_s=period_s)


def put_rack(cluster: ControlPlane, name: str = "r1", **spec: Any) -> dict[str, Any]:
    made = rack(name)
    made["spec"].update(spec)
    return cluster.admin.apply(made).granted()


@contextmanager
def without_rights(cluster: ControlPlane) -> Iterator[None]:
    cluster.admin.delete(f"/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/{ACCOUNT}").granted()
    try:
        yield
    finally:
        cluster.admin.apply(BINDING).granted()


async def test_a_server_finds_its_place_and_follows_what_is_edited(cluster: ControlPlane, tmp_path: Path) -> None:
    async with (
        api_of(cluster, agent_of(cluster, NODE), tmp_path) as api,
        watching(api, tmp_path) as watched,
    ):
        await until(lambda: watched.troubles != [])
        assert watched.troubles == ["no Rack selects Node site-1 (there are: none); label it routed.dev/rack=RACK"]
        put_rack(cluster)
        site = await watched.surroundings.first(patience_s=30)
        assert watched.troubles[1:] == [None]
        assert site.node_uid == cluster.admin.get(f"{NODES}/{NODE}").granted()["metadata"]["uid"]
        assert site.settings.rack == "r1"
        assert site.settings.domain_server(NODE).addresses == (ip_address("10.1.0.11"),)

        more = [*rack()["spec"]["pools"], {"prefix": "10.101.2.0/24", "gateway": "10.101.2.1"}]
        put_rack(cluster, pools=more)
        await until(lambda: len(watched.sites) == 2)
        assert len(watched.sites[1].settings.pools) == 4

        cluster.admin.patch(f"{NODES}/{NODE}", {"metadata": {"annotations": {"colour": "blue"}}}).granted()
        put_rack(cluster, "r2", nodeSelector={"row": "2"}, pools=[{"prefix": "10.102.0.0/24", "gateway": "10.102.0.1"}])
        cluster.admin.patch(
            f"{NODES}/{NODE}", {"metadata": {"labels": {"routed.dev/rack": None, "row": "2"}}}
        ).granted()
        await until(lambda: len(watched.sites) == 3)  # the blue one made no difference
        assert watched.sites[2].settings.rack == "r2"


async def test_a_node_that_registers_anew_is_another_one(cluster: ControlPlane, tmp_path: Path) -> None:
    put_rack(cluster)
    async with (
        api_of(cluster, agent_of(cluster, NODE), tmp_path) as api,
        watching(api, tmp_path) as watched,
    ):
        first = await watched.surroundings.first(patience_s=30)
        before = cluster.admin.get(f"{NODES}/{NODE}").granted()["metadata"]
        cluster.admin.delete(f"{NODES}/{NODE}").granted()
        await until(lambda: watched.troubles == ["Node site-1 does not exist"])
        assert watched.surroundings.site == first  # whoever deleted it may have been wrong
        add_node(cluster, NODE, **before["labels"])
        said = {"metadata": {"annotations": before["annotations"]}}
        cluster.admin.patch(f"{NODES}/{NODE}", said).granted()
        await until(lambda: len(watched.sites) == 2)
        await until(lambda: watched.troubles[-1] is None)
        assert watched.sites[1].settings == first.settings
        assert watched.sites[1].node_uid != first.node_uid


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"pools": [{"prefix": "10.101.0.0/24", "gateway": "10.101.0.255"}]}, "is the network or broadcast address"),
        ({"hosts": [{"prefix": "10.7.0.0/24", "gateway": "10.7.0.1"}]}, "is not all inside the rack's hosts"),
        ({"nodeSelector": {"row": "9"}}, "no Rack selects Node site-1"),
        ({"tors": rack()["spec"]["tors"][:1]}, "bridge.members must name one device per ToR"),
    ],
)
async def test_what_cannot_be_used_changes_nothing(
    cluster: ControlPlane, tmp_path: Path, wrong: dict[str, Any], complaint: str
) -> None:
    put_rack(cluster)
    async with (
        api_of(cluster, agent_of(cluster, NODE), tmp_path) as api,
        watching(api, tmp_path) as watched,
    ):
        await watched.surroundings.first(patience_s=30)
        put_rack(cluster, **wrong)
        await until(lambda: len(watched.troubles) == 1)
        assert complaint in str(watched.troubles[0])
        good = put_rack(cluster)
        cluster.admin.patch(f"{RACKS}/r1", {"spec": {"nodeSelector": None}}).granted()
        await until(lambda: watched.troubles[1:] == [None])
        assert good["metadata"]["name"] == "r1"
        assert len(watched.sites) == 1


async def test_an_agent_starts_without_the_api_server_where_it_was(cluster: ControlPlane, tmp_path: Path) -> None:
    put_rack(cluster)
    agent = agent_of(cluster, NODE)
    async with api_of(cluster, agent, tmp_path) as api, watching(api, tmp_path) as watched:
        known = await watched.surroundings.first(patience_s=30)
        assert watched.surroundings.recall() is None, "nobody has served there yet"
        watched.surroundings.remember(known)
    nowhere = tmp_path / "nowhere"
    nowhere.write_text(cluster.kubeconfig(agent, tmp_path / "k").read_text().replace(cluster.url, NOWHERE))
    async with connect(nowhere) as api, watching(api, tmp_path) as watched:
        assert await watched.surroundings.first(patience_s=0.1) == known
    (tmp_path / "site.json").unlink()
    async with connect(nowhere) as api, watching(api, tmp_path) as watched:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await watched.surroundings.first(patience_s=0.1)


async def test_the_servers_of_a_rack_keep_its_status(cluster: ControlPlane, tmp_path: Path) -> None:
    put_rack(cluster)
    cluster.admin.post(ADDRESSES, address("10.101.0.7", node=NODE)).granted()
    cluster.admin.post(ADDRESSES, address("10.101.1.9", node="another")).granted()
    cluster.admin.post(ADDRESSES, address("10.102.1.9", node="another", rack="r2")).granted()

    def shown() -> dict[str, Any]:
        (row,) = cluster.admin.table(RACKS)
        return {key: row[key] for key in row if key != "Age"}

    async with (
        api_of(cluster, agent_of(cluster, NODE), tmp_path) as api,
        watching(api, tmp_path) as one,
        watching(api, tmp_path) as other,
        asyncio.TaskGroup() as tasks,
    ):
        servers = [writer(api, each, period_s=0.5) for each in (one, other)]
        running = [tasks.create_task(server.run()) for server in servers]
        wanted = {"Name": "r1", "Accepted": "True", "Capacity": 506, "Leased": 2, "Free": 504}
        await until(lambda: shown() == wanted)
        cluster.admin.post(ADDRESSES, address("10.101.1.10", node="another")).granted()
        await until(lambda: shown() == wanted | {"Leased": 3, "Free": 503})
        settled = cluster.admin.get(f"{RACKS}/r1").granted()["metadata"]["resourceVersion"]
        await until(lambda: one.surroundings.rack["metadata"]["resourceVersion"] == settled)  # type: ignore[index]
        assert not await servers[0].write()  # nothing changed, so nobody writes
        assert cluster.admin.get(f"{RACKS}/r1").granted()["metadata"]["resourceVersion"] == settled
        put_rack(cluster, pools=[{"prefix": "10.101.0.0/24", "gateway": "10.101.0.255"}])
        await until(lambda: shown() == wanted | {"Accepted": "False", "Leased": 3, "Free": 503})
        (row,) = cluster.admin.table(RACKS, wide=True)
        assert "gateway 10.101.0.255 is the network or broadcast address" in row["Reason"]
        for task in running:
            task.cancel()


async def test_a_status_written_on_an_old_view_of_the_rack_is_given_up(cluster: ControlPlane, tmp_path: Path) -> None:
    put_rack(cluster)
    async with api_of(cluster, agent_of(cluster, NODE), tmp_path) as api:
        async with watching(api, tmp_path) as watched:
            await watched.surroundings.first(patience_s=30)
        put_rack(cluster, vlan=7)  # nobody watches any more
        assert not await writer(api, watched).write()
        assert "status" not in cluster.admin.get(f"{RACKS}/r1").granted()
        async with watching(api, tmp_path) as watched:
            await watched.surroundings.first(patience_s=30)
        assert await writer(api, watched).write()


async def test_rights_that_come_later_are_used(cluster: ControlPlane, tmp_path: Path) -> None:
    put_rack(cluster)
    agent = agent_of(cluster, NODE)
    with without_rights(cluster):
        eventually(lambda: agent.get(RACKS), lambda answer: answer.status == 403)
        async with api_of(cluster, agent, tmp_path) as api:
            looks = followed(api, RACK_OBJECTS, again_s=(0.1, 0.1))
            first = asyncio.create_task(anext(looks))
            await asyncio.wait([first], timeout=0.5)
            assert not first.done()
            cluster.admin.apply(BINDING).granted()
            assert [found["metadata"]["name"] for found in await first] == ["r1"]
            await looks.aclose()


async def test_an_api_server_that_was_away_is_followed_again(cluster: ControlPlane, tmp_path: Path) -> None:
    put_rack(cluster)
    async with (
        api_of(cluster, agent_of(cluster, NODE), tmp_path) as api,
        watching(api, tmp_path) as watched,
    ):
        first = await watched.surroundings.first(patience_s=30)
        cluster.stop()
        try:
            assert watched.surroundings.site == first
        finally:
            cluster.start()
            await asyncio.to_thread(cluster.wait_ready)
        put_rack(cluster, vlan=7)
        await until(lambda: watched.sites[-1].settings.vlan == 7)
        assert watched.troubles == []

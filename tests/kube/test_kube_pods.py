"""The own pods as a real API server tells of them, and events as it takes them; always with an agent's rights."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any

import pytest

from routed.domain.workload import Attachment, PodRef, Wishes
from routed.kube.annotations import IP
from routed.kube.api import Api
from routed.kube.client import connect
from routed.kube.errors import Malformed, Unreachable
from routed.kube.events import Events, News, Subject
from routed.kube.memory import Memory
from routed.kube.pods import Pods, PodUnknown
from tests.fixtures.attachments import attachment
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import NOWHERE, add_node, agent_of, api_of, until

NODE = "pods-1"
_NUMBERS = itertools.count()


@pytest.fixture
def namespace(cluster: ControlPlane) -> str:
    return _new_namespace(cluster)


@pytest.fixture
def other_namespace(cluster: ControlPlane) -> str:
    return _new_namespace(cluster)


def _new_namespace(cluster: ControlPlane) -> str:
    name = f"shop-{next(_NUMBERS)}"
    made = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    cluster.admin.post("/api/v1/namespaces", made).granted()
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}}
    cluster.admin.post(f"/api/v1/namespaces/{name}/serviceaccounts", account).granted()
    return name


def start(cluster: ControlPlane, namespace: str, name: str, node: str = NODE, **annotations: str) -> PodRef:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i"}]},
    }
    made = cluster.admin.post(f"/api/v1/namespaces/{namespace}/pods", pod).granted()
    return PodRef(namespace, name, made["metadata"]["uid"])


def stop(cluster: ControlPlane, pod: PodRef) -> None:
    path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
    cluster.admin.delete(f"{path}?gracePeriodSeconds=0").granted()
    assert cluster.admin.get(path).status == 404


NO_MEMORY = Path("/proc/none/pods.json")
"""Nothing can be written there."""


class Server:
    """What `Pods` needs of an agent."""

    def __init__(self, api: Api, *attached: Attachment, memory: Path = NO_MEMORY, grace_s: float = 3600) -> None:
        self.attached = {one.id: one for one in attached}
        self.alive: set[Attachment] = set()
        self.discarded: list[Attachment] = []
        self.pods = Pods(
            api,
            NODE,
            attachments=self.attached.values,
            discard=self._discard,
            is_alive=self.alive.__contains__,
            memory=Memory(memory),
            grace_s=grace_s,
            rng=Random(1),  # noqa: S311 - the same in each run
        )

    async def _discard(self, one: Attachment) -> None:
        del self.attached[one.id]
        self.discarded.append(one)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Pods]:
        task = asyncio.create_task(self.pods.run())
        try:
            yield self.pods
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@pytest.fixture
async def api(cluster: ControlPlane, tmp_path: Path) -> AsyncIterator[Api]:
    async with api_of(cluster, agent_of(cluster, NODE), tmp_path) as made:
        yield made


async def test_an_add_finds_what_its_pod_asks_for(cluster: ControlPlane, namespace: str, api: Api) -> None:
    early = start(cluster, namespace, "early", **{IP: "10.101.0.7"})
    async with Server(api).running() as pods:
        assert (await pods.wishes(early, patience_s=30)).addresses == (ip_address("10.101.0.7"),)
        asked = asyncio.create_task(pods.wishes(PodRef(namespace, "none", "6e0b4b0a-0000-4000-8000-000000000001"), 0.1))
        with pytest.raises(PodUnknown, match=f"has not told of pod {namespace}/none"):
            await asked
        late = start(cluster, namespace, "late", **{IP: "10.101.0.8"})
        assert (await pods.wishes(late, patience_s=30)).addresses == (ip_address("10.101.0.8"),)
        wrong = start(cluster, namespace, "wrong", **{IP: "ten"})
        with pytest.raises(Malformed, match=r"annotation routed.dev/ip: 'ten'"):
            await pods.wishes(wrong, patience_s=30)


async def test_a_pod_of_the_same_name_is_not_the_same_pod(cluster: ControlPlane, namespace: str, api: Api) -> None:
    first = start(cluster, namespace, "web-0", **{IP: "10.101.0.7"})
    async with Server(api).running() as pods:
        await pods.wishes(first, patience_s=30)
        stop(cluster, first)
        second = start(cluster, namespace, "web-0")
        assert await pods.wishes(second, patience_s=30) == Wishes()
        with pytest.raises(PodUnknown):
            await pods.wishes(first, patience_s=0)


async def test_pods_of_the_same_name_in_two_namespaces_are_two(
    cluster: ControlPlane, namespace: str, other_namespace: str, api: Api
) -> None:
    one = start(cluster, namespace, "web-0", **{IP: "10.101.0.7"})
    two = start(cluster, other_namespace, "web-0", **{IP: "10.101.0.8"})
    async with Server(api).running() as pods:
        found = [await pods.wishes(pod, patience_s=2) for pod in (one, two)]
    assert [one.addresses for one in found] == [(ip_address("10.101.0.7"),), (ip_address("10.101.0.8"),)]


async def test_a_static_pod_needs_no_object_and_nobody_waits_for_one(api: Api) -> None:
    async with asyncio.timeout(30):
        assert await Server(api).pods.wishes(PodRef("kube-system", "etcd", "5d1c7c8cd2e9f0a1"), 3600) == Wishes()


@pytest.mark.parametrize("uid", ["5d1c7c8cd2e9f0a1", "6e0b4b0a-0000-4000-8000-000000000009"])
async def test_a_static_pod_asks_for_nothing_whatever_its_mirror_says(
    cluster: ControlPlane, namespace: str, api: Api, tmp_path: Path, uid: str
) -> None:
    """A static pod has a UID with hyphens when its file says so."""
    memory = tmp_path / "pods.json"
    mirror = start(cluster, namespace, "etcd", **{IP: "10.101.0.7", "kubernetes.io/config.hash": uid})
    async with Server(api, memory=memory).running() as pods:
        assert (await pods.wishes(mirror, patience_s=30)).addresses == (ip_address("10.101.0.7"),)
        assert await pods.wishes(PodRef(namespace, "etcd", uid), patience_s=30) == Wishes()
        await until(lambda: mirror.uid in Memory(memory).pods)
        assert uid not in Memory(memory).pods


async def test_without_an_api_server_pods_ask_for_what_they_asked_for_before(
    cluster: ControlPlane, namespace: str, api: Api, tmp_path: Path
) -> None:
    memory = tmp_path / "pods.json"
    asking = start(cluster, namespace, "asking", **{IP: "10.101.0.7", "of.others": "x"})
    gone, silent = start(cluster, namespace, "gone", **{IP: "10.101.0.8"}), start(cluster, namespace, "silent")
    async with Server(api, memory=memory).running():
        await until(lambda: {asking.uid, gone.uid} <= Memory(memory).pods.keys())
        stop(cluster, gone)
        await until(lambda: gone.uid not in Memory(memory).pods)
    file = cluster.kubeconfig(cluster.admin, tmp_path / "kubeconfig")
    file.write_text(file.read_text().replace(cluster.url, NOWHERE))
    async with connect(file) as nobody, Server(nobody, memory=memory).running() as pods:
        assert (await pods.wishes(asking, 0)).addresses == (ip_address("10.101.0.7"),)
        assert await pods.wishes(gone, 0) == await pods.wishes(silent, 0) == Wishes()
    async with Server(api, memory=memory).running() as pods:
        await pods.wishes(asking, patience_s=30)
        with pytest.raises(PodUnknown):  # what the API server says counts from then on
            await pods.wishes(gone, 0)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"u": null}', '{"u": {}}', '{"u": {"metadata": null}}'])
def test_a_memory_that_is_torn_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "pods.json").write_text(text)
    assert Memory(tmp_path / "pods.json").pods == {}


async def test_without_an_api_server_pods_start_as_if_they_asked_for_nothing(
    cluster: ControlPlane, tmp_path: Path
) -> None:
    file = cluster.kubeconfig(cluster.admin, tmp_path / "kubeconfig")
    file.write_text(file.read_text().replace(cluster.url, NOWHERE))
    async with connect(file) as api:
        server = Server(api, attachment("6e0b4b0a-0000-4000-8000-000000000001"), grace_s=0)
        async with server.running() as pods:
            assert await pods.wishes(PodRef("shop", "web-0", "6e0b4b0a-0000-4000-8000-000000000001"), 0) == Wishes()
        for _ in range(2):
            with pytest.raises(Unreachable):
                await server.pods.sweep()
        assert server.discarded == []


async def test_a_pod_that_vanished_while_the_agent_was_down_is_found(
    cluster: ControlPlane, namespace: str, api: Api
) -> None:
    stays = attachment(start(cluster, namespace, "stays").uid)
    elsewhere = attachment(start(cluster, namespace, "moved", node=add_node(cluster, "pods-2")["metadata"]["name"]).uid)
    pod = start(cluster, namespace, "gone")
    gone, alive = attachment(pod.uid), attachment("6e0b4b0a-0000-4000-8000-000000000002")
    stop(cluster, pod)
    server = Server(api, stays, elsewhere, gone, alive, grace_s=0)
    server.alive.add(alive)
    await server.pods.sweep()
    assert server.discarded == []  # seen once
    await server.pods.sweep()
    assert server.discarded == [elsewhere, gone]
    server.alive.clear()
    await server.pods.sweep()
    assert alive in server.attached.values()  # its namespace went only now
    await server.pods.sweep()
    assert list(server.attached.values()) == [stays]


async def test_one_sighting_is_not_enough_before_the_grace_period_is_over(api: Api) -> None:
    server = Server(api, attachment("6e0b4b0a-0000-4000-8000-000000000003"), grace_s=3600)
    for _ in range(3):
        await server.pods.sweep()
    assert server.discarded == []


def told(cluster: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    return list(cluster.admin.get(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events").granted()["items"])


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def test_users_see_what_went_wrong_once_and_how_often(cluster: ControlPlane, namespace: str, api: Api) -> None:
    pod, clock = start(cluster, namespace, "web-0"), Clock()
    events = Events(api, NODE, now=lambda: datetime(2026, 11, 21, 8, tzinfo=UTC), clock=clock)
    news = News(Subject.pod(pod), "AddressTaken", "10.101.0.7 is leased by s12; restart this pod", "Announce")
    events.tell(news)
    await events.write()
    (event,) = told(cluster, namespace)
    assert (event["reason"], event["type"], event["action"]) == ("AddressTaken", "Warning", "Announce")
    assert (event["reportingController"], event["reportingInstance"]) == ("routed.dev/agent", NODE)
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "web-0",
        "namespace": namespace,
        "uid": pod.uid,
    }
    assert event["note"] == "10.101.0.7 is leased by s12; restart this pod"
    assert event.get("series") is None
    for _ in range(5):
        events.tell(news)
    await events.write()
    assert told(cluster, namespace) == [event]  # too soon
    clock.now_s = 40
    await events.write()
    (event,) = told(cluster, namespace)
    assert event["series"] == {"count": 6, "lastObservedTime": "2026-11-21T08:00:00.000000Z"}
    clock.now_s = 1000
    events.tell(news)
    await events.write()
    assert len(told(cluster, namespace)) == 2  # so much later it is news again


async def test_an_event_that_the_server_has_forgotten_is_told_anew(
    cluster: ControlPlane, namespace: str, api: Api
) -> None:
    clock = Clock()
    events = Events(api, NODE, clock=clock)
    news = News(Subject.pod(start(cluster, namespace, "web-0")), "BadAnnotation", "no", "Attach")
    events.tell(news)
    await events.write()
    (event,) = told(cluster, namespace)
    cluster.admin.delete(f"/apis/events.k8s.io/v1/namespaces/{namespace}/events/{event['metadata']['name']}").granted()
    events.tell(news)
    clock.now_s = 40
    await events.write()
    (event,) = told(cluster, namespace)
    assert event["series"]["count"] == 2


async def test_events_of_a_node_are_written_as_they_come(cluster: ControlPlane, api: Api) -> None:
    uid = add_node(cluster, NODE)["metadata"]["uid"]
    events = Events(api, NODE)
    task = asyncio.create_task(events.run())
    for number in range(3):
        events.tell(News(Subject.node(NODE, uid), "RackRejected", f"reason {number}", "FollowRack"))
    events.tell(News(Subject("Pod", "web-0", "u", "no-such-namespace"), "BadAnnotation", "no", "Attach"))
    wanted = {"reason 0", "reason 1", "reason 2"}
    await until(lambda: {event["note"] for event in told(cluster, "default")} >= wanted)
    events.tell(News(Subject.node(NODE, uid), "RackAccepted", "well again", "FollowRack", warning=False))
    await until(lambda: "well again" in {event["note"] for event in told(cluster, "default")})
    assert not task.done()  # what is refused ends nothing
    task.cancel()


async def test_news_waits_for_an_api_server_that_is_away(cluster: ControlPlane, namespace: str, tmp_path: Path) -> None:
    file = cluster.kubeconfig(cluster.admin, tmp_path / "kubeconfig")
    good = file.read_text()
    file.write_text(good.replace(cluster.url, NOWHERE))
    clock = Clock()
    news = News(Subject.pod(start(cluster, namespace, "web-0")), "AddressTaken", "no", "Announce")
    async with connect(file) as away:
        events = Events(away, NODE, clock=clock)
        events.tell(news)
        await events.write()
    assert told(cluster, namespace) == []
    file.write_text(good)
    async with connect(file) as back:
        events._api = back
        await events.write()
        assert told(cluster, namespace) == []  # not due yet
        clock.now_s = 20
        await events.write()
    assert [event["reason"] for event in told(cluster, namespace)] == ["AddressTaken"]

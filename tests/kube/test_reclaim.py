"""Leases of servers that are gone, on a real API server with the real access rules."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from random import Random

import pytest

from routed.kube.client import connect
from routed.kube.errors import Forbidden
from routed.kube.reclaim import Reclaim
from routed.kube.registry import Registry
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, NODES, add_node, address, agent_of

GRACE_S = 600.0


class Rack:
    """A rack with one agent that reclaims, and other servers that are no more than Nodes and leases."""

    def __init__(self, control: ControlPlane, registry: Registry, name: str) -> None:
        self.control, self.registry, self.name = control, registry, name
        self.reclaim = Reclaim(registry, Random(1), timedelta(seconds=GRACE_S))  # noqa: S311 - no secret

    def server(self, name: str) -> str:
        """Register a server; returns its UID."""
        return str(add_node(self.control, name)["metadata"]["uid"])

    def lease(self, text: str, node: str, uid: str) -> None:
        self.control.admin.post(ADDRESSES, address(text, node=node, rack=self.name, node_uid=uid)).granted()

    def remove(self, node: str) -> None:
        self.control.admin.delete(f"{NODES}/{node}").granted()

    def leased(self, text: str) -> bool:
        return self.control.admin.get(f"{ADDRESSES}/{text}").ok

    async def look(self, *at: float) -> int:
        """Let the agent look at these times; returns how many leases it has given back."""
        return sum([await self.reclaim.step(now) for now in at])


@pytest.fixture
async def rack(cluster: ControlPlane, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Rack]:
    name = f"reclaim-{abs(hash(request.node.name)) % 10**8}"
    agent = f"{name}-agent"
    async with connect(cluster.kubeconfig(agent_of(cluster, agent), tmp_path / "kubeconfig")) as api:
        yield Rack(cluster, Registry(api, name, agent, Random(1)), name)  # noqa: S311 - no secret
    for item in cluster.admin.get(ADDRESSES).granted()["items"]:
        cluster.admin.delete(f"{ADDRESSES}/{item['metadata']['name']}")


async def test_what_a_removed_server_leased_is_free_after_the_grace_period(rack: Rack) -> None:
    uid, other = rack.server("gone"), rack.server("here")
    rack.lease("10.6.0.5", "gone", uid)
    rack.lease("10.6.0.6", "gone", uid)
    rack.lease("10.6.0.7", "here", other)
    rack.remove("gone")
    assert await rack.look(0, 1, GRACE_S / 2) == 0, "one sighting is none, and neither are two at once"
    assert await rack.look(GRACE_S + 1, GRACE_S + 2) == 2
    assert not rack.leased("10.6.0.5")
    assert rack.leased("10.6.0.7"), "control: its server is there"


async def test_a_server_that_is_there_keeps_everything(rack: Rack) -> None:
    rack.lease("10.6.0.5", "here", rack.server("here"))
    assert await rack.look(0, GRACE_S + 1, 2 * GRACE_S + 2) == 0
    assert rack.leased("10.6.0.5")


async def test_a_node_of_the_same_name_is_another_server(rack: Rack) -> None:
    uid = rack.server("again")
    rack.lease("10.6.0.5", "again", uid)
    rack.remove("again")
    assert rack.server("again") != uid
    assert await rack.look(0, GRACE_S + 1) == 1


async def test_a_server_that_comes_back_within_the_grace_period_keeps_its_leases(rack: Rack) -> None:
    rack.lease("10.6.0.5", "back", rack.server("back"))
    rack.remove("back")
    assert await rack.look(0) == 0
    uid = rack.server("back")
    confirmed = {"spec": {"nodeUID": uid}}
    rack.control.admin.patch(f"{ADDRESSES}/10.6.0.5", confirmed).granted()
    assert await rack.look(GRACE_S + 1, 2 * GRACE_S + 2) == 0
    assert rack.leased("10.6.0.5")


async def test_leases_that_somebody_still_writes_start_the_grace_period_anew(rack: Rack) -> None:
    rack.lease("10.6.0.5", "alive", rack.server("alive"))
    rack.remove("alive")
    assert await rack.look(0) == 0
    said = {"status": {"pod": {"namespace": "default", "name": "web"}}}
    rack.control.admin.patch(f"{ADDRESSES}/10.6.0.5/status", said).granted()
    assert await rack.look(GRACE_S + 1, 2 * GRACE_S) == 0
    assert await rack.look(2 * GRACE_S + 2) == 1, "control: nobody writes it any more"


async def test_a_lease_taken_up_between_the_look_and_the_delete_stays(rack: Rack) -> None:
    """The delete names the version that was read; here the owner's confirmation comes just before it."""
    rack.lease("10.6.0.5", "late", rack.server("late"))
    rack.remove("late")
    assert await rack.look(0) == 0
    plain = rack.registry.uid_of

    async def uid_of(node: str) -> str | None:
        if node == rack.registry.node:  # the last question before the delete
            note = {"metadata": {"annotations": {"routed.dev/confirmed": "just now"}}}
            rack.control.admin.patch(f"{ADDRESSES}/10.6.0.5", note).granted()
        return await plain(node)

    rack.registry.uid_of = uid_of  # type: ignore[method-assign]  # an executing wrapper
    assert await rack.look(GRACE_S + 1) == 0
    assert rack.leased("10.6.0.5")


async def test_whoever_cannot_see_its_own_node_reclaims_nothing(rack: Rack) -> None:
    rack.lease("10.6.0.5", "gone", rack.server("gone"))
    rack.remove("gone")
    assert await rack.look(0) == 0
    rack.remove(rack.registry.node)
    assert await rack.look(GRACE_S + 1) == 0
    rack.server(rack.registry.node)
    assert await rack.look(GRACE_S + 2) == 1, "control: it sees it"


async def test_the_api_server_refuses_to_let_go_of_a_lease_whose_owner_is_there(rack: Rack) -> None:
    rack.lease("10.6.0.5", "here", rack.server("here"))
    leases, _ = await rack.registry.everything()
    with pytest.raises(Forbidden, match="whose Node still exists"):
        await rack.registry.release(next(iter(leases.values())))

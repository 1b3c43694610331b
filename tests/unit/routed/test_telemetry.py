"""Metrics say what is so, and nothing about what is not known."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

from routed.cni.protocol import Command
from routed.kube.leases import LeaseState
from tests.fakes.node import POOL, Node, call, key


async def test_a_pod_is_counted_where_it_is(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.planes["links"].refused[key(2)] = OSError("busy")
        await node.store.put(key(2), call(Command.ADD, 2).pod, "/run/netns/x")
        await node.until(lambda: node.loop.works()[key(2)].error is not None)
        samples = node.metrics()
        assert samples['routed_attachments{state="ready"}'] == 1
        assert samples['routed_attachments{state="failing"}'] == 1
        assert samples['routed_attachments{state="leaving"}'] == 0
        assert samples['routed_pool_addresses{pool="10.101.0.0/28",state="used"}'] == 2
        assert samples['routed_plane_objects{plane="advertisements"}'] == 2
        assert samples['routed_cni_seconds_count{command="ADD"}'] == 1


async def test_a_blind_plane_has_no_number_of_objects(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        assert node.metrics()['routed_plane_objects{plane="flows"}'] == 1
        node.planes["flows"].blind = ConnectionError("no switch")
        node.loop.look("flows")
        await node.until(lambda: node.loop.lanes["flows"].actual is None)
        samples = node.metrics()
        assert samples['routed_plane_known{plane="flows"}'] == 0
        assert 'routed_plane_objects{plane="flows"}' not in samples
        assert samples['routed_plane_known{plane="links"}'] == 1


async def test_drift_is_counted_once_per_owner(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.planes["advertisements"].held.clear()
        node.loop.look("advertisements")
        await node.until(lambda: len(node.planes["advertisements"].held) == 2)
        assert node.metrics()['routed_plane_drifts_total{plane="advertisements"}'] == 1


async def test_what_the_rack_has_is_told_where_the_api_server_grants_leases(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        assert not [name for name in node.metrics() if name.startswith(("routed_rack", "routed_lease"))]
        node.leases = LeaseState(True, 3, {POOL.prefix: 9}, {POOL.prefix: 13}, {ip_address("10.101.0.2"): "s12"})
        samples = node.metrics()
        assert samples['routed_rack_addresses{pool="10.101.0.0/28",rack="r1"}'] == 13
        assert samples['routed_rack_idle_addresses{pool="10.101.0.0/28",rack="r1"}'] == 9
        assert (samples["routed_leases_current"], samples["routed_addresses_taken"]) == (1, 1)

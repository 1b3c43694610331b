"""Agents' exports: there and back, other versions, and what an agent that sees nothing says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from bgp.model import NeighborStatus, SessionState
from routed import views
from routed.audit.compare import compare_server
from routed.audit.export import encode
from routed.audit.model import Announced, Holding, RackPlan, ServerView, SideView, Unobserved
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.agent import AgentByCommand, AgentByFile, read
from routed.audit.sources.command import Command
from routed.cni.protocol import Command as Verb
from routed.domain.sides import Health, Side
from routed.domain.snapshot import Place
from tests.fakes.node import POOL, RACK, SERVER, UPLINK, Node, call, key

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
POD = ip_address("10.101.0.2")
STATUSES = {
    tor.address: NeighborStatus(
        tor.name, tor.asn, state, 3600.0, 1, reason, 1, {4: 1, 6: 0}, frozenset({4}), end_of_rib=True
    )
    for tor, state, reason in zip(
        RACK.tors, (SessionState.UP, SessionState.DOWN), ("", "hold timer expired"), strict=True
    )
}


def seen(node: Node) -> ServerView:
    view = views.server_view(node.store.snapshot, node.loop, STATUSES, NOW)
    assert isinstance(view, ServerView)
    return view


async def test_an_agent_tells_what_it_holds_and_announces(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Verb.ADD))
        view = seen(node)
        assert view.holdings == (Holding(POD, "s11", "shop/cart-1"),)
        hop = ip_address("10.1.0.11")
        assert set(view.announced) == {Announced(ip_network("10.101.0.2/32"), tor, hop) for tor in ("r1a", "r1b")}
        assert view.sides == {
            "r1a": SideView(session_up=True, healthy=True, steers=False),
            "r1b": SideView(session_up=False, healthy=True, steers=False, reason="hold timer expired"),
        }
        port = view.ports[POD]
        assert (port.port, port.ofport, port.mac, port.state) == ("rt0", 1000, "0a:58:0a:65:00:02", "ready")
        assert port.flows
        assert read(json.dumps(encode(view)), "here", "s11") == view


async def test_sides_that_are_watched(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        sides = (Side("r1a", "etha"), Side("r1b", "ethb", Health.CUT, ("no carrier",)))
        place = Place(replace(RACK, steering="65000:911"), SERVER, UPLINK, sides)
        snapshot = replace(node.store.snapshot, place=place)
        view = views.server_view(snapshot, node.loop, STATUSES, NOW)
        assert isinstance(view, ServerView)
        assert view.sides["r1a"] == SideView(session_up=True, healthy=True, steers=True)
        assert view.sides["r1b"] == SideView(session_up=False, healthy=False, steers=False, reason="no carrier")


async def test_what_starts_leaves_or_drains_is_not_to_be_announced(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Verb.ADD))
        node.planes["links"].refused[key(2)] = OSError("busy")
        await node.store.put(key(2), call(Verb.ADD, 2).pod, "/run/netns/x")
        await node.until(lambda: node.loop.works()[key(2)].error is not None)
        assert [holding.announce for holding in seen(node).holdings] == [True, False]
        node.finishing.clear()
        await node.store.discard(key(1))
        assert [holding.announce for holding in seen(node).holdings] == [False, False]
        node.finishing.set()
        node.store.drain()
        assert seen(node).draining


async def test_a_pod_that_was_ready_stays_to_be_announced_while_it_fails(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Verb.ADD))
        node.planes["links"].refused[key(1)] = OSError("busy")
        node.planes["links"].held.clear()
        node.loop.look("links")
        await node.until(lambda: node.loop.works()[key(1)].error is not None)
        assert [holding.announce for holding in seen(node).holdings] == [True]


async def test_what_an_earlier_agent_announced_stays_to_be_announced(tmp_path: Path) -> None:
    """ExaBGP outlives an agent; the next one cannot mend this pod, and has never seen it ready."""
    async with Node(tmp_path).running() as earlier:
        await earlier.verbs.add(call(Verb.ADD))
    node = Node(tmp_path)
    for name in node.planes.keys() - {"links"}:
        node.planes[name].held.update(earlier.planes[name].held)
    node.planes["links"].refused[key(1)] = OSError("busy")
    async with node.running():
        assert node.loop.works()[key(1)].reached == 0
        assert [holding.announce for holding in seen(node).holdings] == [True]


async def test_an_agent_that_cannot_see_its_routes_says_so(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Verb.ADD))
        node.planes["advertisements"].blind = ConnectionError("no ExaBGP")
        node.loop.look("advertisements")
        await node.until(lambda: node.loop.lanes["advertisements"].actual is None)
        view = views.server_view(node.store.snapshot, node.loop, STATUSES, NOW)
        assert isinstance(view, Unobserved)
        with pytest.raises(CouldNotObserve, match="the agent answers: it cannot see what it announces"):
            read(json.dumps(encode(view)), "here", "s11")


PLAN = RackPlan(RACK, {SERVER.name: SERVER}, (POOL,))


async def test_what_an_agent_finds_about_its_own_server_is_a_metric(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Verb.ADD))
        healthy = node.metrics(findings=tuple(compare_server(PLAN, seen(node))))
        assert healthy['routed_findings{kind="unannounced"}'] == 0
        node.planes["advertisements"].refused.update(dict.fromkeys(node.planes["advertisements"].held, OSError("busy")))
        node.planes["advertisements"].held.clear()
        node.loop.look("advertisements")
        await node.until(lambda: node.loop.works()[key(1)].error is not None)
        found = node.metrics(findings=tuple(compare_server(PLAN, seen(node))))
        assert found['routed_findings{kind="unannounced"}'] == 2  # on each ToR
        blind = node.metrics(findings=Unobserved("no ExaBGP"))
        assert blind['routed_findings{kind="unobserved"}'] == 1
        assert 'routed_findings{kind="unannounced"}' not in blind


VIEW = ServerView("s11", "r1", NOW, (), (), {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "not the export of an agent"),
        ("{}", "not the export of an agent"),
        ('{"schema": "routed.audit.export/2"}', "version 'routed.audit.export/2'.*update routed"),
        ('{"schema": "routed.audit.export/1"}', "not as version 1 should be"),
        (json.dumps(encode(VIEW)).replace('"holdings": []', '"holdings": [{}]'), "holdings.0.address: Field required"),
        (json.dumps(encode(replace(VIEW, server="s12"))), "this is server s12, not s11"),
        (json.dumps(encode(replace(VIEW, at=NOW.replace(tzinfo=None)))), "names no time zone"),
    ],
)
async def test_what_is_no_export_could_not_be_observed(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "s11.json"
    path.write_text(text)
    for source in (AgentByFile("s11", path), AgentByCommand("s11", Command(("cat", str(path)), 5))):
        with pytest.raises(CouldNotObserve, match=message):
            await source.observe()


async def test_a_field_of_a_later_agent_is_ignored(tmp_path: Path) -> None:
    document = encode(VIEW)
    document["view"]["mood"] = "sunny"
    path = tmp_path / "s11.json"
    path.write_text(json.dumps(document))
    assert await AgentByFile("s11", path).observe() == VIEW
    with pytest.raises(CouldNotObserve, match="No such file"):
        await AgentByFile("s11", tmp_path / "none").observe()

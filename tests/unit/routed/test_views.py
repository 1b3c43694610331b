"""What `routed show` prints: never more than what is known."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from rich.console import Console

from bgp.model import NeighborStatus, SessionState
from routed import views
from routed.cli.show import table
from routed.cni.protocol import Command
from routed.domain.sides import Health, Side
from routed.domain.snapshot import DRAINED, Place, Snapshot
from tests.fakes.node import RACK, SERVER, UPLINK, Node, call, key


async def test_an_attachment_is_a_row_with_its_last_error(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        (row,) = views.attachments(node.store.snapshot, node.loop)
        assert (row["pod"], row["addresses"], row["state"]) == ("shop/cart-1", ["10.101.0.2"], "ready")
        assert (row["port"], row["ofport"], row["mac"]) == ("rt0", 1000, "0a:58:0a:65:00:02")
        node.planes["links"].refused[key(2)] = OSError("busy")
        await node.store.put(key(2), call(Command.ADD, 2).pod, "/run/netns/x")
        await node.until(lambda: node.loop.works()[key(2)].error is not None)
        _, failing = views.attachments(node.store.snapshot, node.loop)
        assert (failing["state"], failing["error"]) == ("failing", "busy")


async def test_a_route_is_announced_only_when_it_is(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        rows = views.routes(node.store.snapshot, node.loop)
        assert [(row["prefix"], row["tor"], row["next_hop"], row["state"]) for row in rows] == [
            ("10.101.0.2/32", "r1a", "10.1.0.11", "announced"),
            ("10.101.0.2/32", "r1b", "10.1.0.11", "announced"),
        ]
        node.planes["advertisements"].held.popitem()
        await node.loop.lanes["advertisements"].look()
        states = Counter(row["state"] for row in views.routes(node.store.snapshot, node.loop))
        assert states == {"announced": 1, "pending": 1}


async def test_a_route_that_is_gone_is_no_row(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.finishing.clear()
        await node.store.discard(key(1))
        assert {row["state"] for row in views.routes(node.store.snapshot, node.loop)} == {"withdrawing"}
        await node.until(lambda: node.planes["links"].held == {})
        assert views.routes(node.store.snapshot, node.loop) == []
        node.finishing.set()


async def test_a_drained_server_shows_no_route(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.store.drain()
        await node.loop.wait_for(key(1), deadline_s=5)
        assert views.routes(node.store.snapshot, node.loop) == []
        (row,) = views.attachments(node.store.snapshot, node.loop)
        assert (row["state"], row["error"]) == ("ready", DRAINED)


async def test_a_route_that_cannot_be_looked_at_is_unknown(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.planes["advertisements"].blind = ConnectionError("no ExaBGP")
        node.loop.look("advertisements")
        await node.until(lambda: node.loop.lanes["advertisements"].actual is None)
        assert {row["state"] for row in views.routes(node.store.snapshot, node.loop)} == {"unknown"}


async def test_flows_are_shown_by_owner(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.planes["flows"].held[0xBAD] = next(iter(node.planes["flows"].held.values()))
        await node.loop.lanes["flows"].look()
        assert {row["owner"] for row in views.flows(node.store.snapshot, node.loop)} == {"host", "shop/cart-1", "stray"}


async def test_leases_add_up(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        assert views.leases(node.store.usage()) == [
            {"pool": "10.101.0.0/28", "capacity": 13, "used": 1, "cooling": 0, "free": 12}
        ]


def test_a_neighbour_is_shown_with_the_time_in_its_state() -> None:
    place = Place(RACK, SERVER, UPLINK)
    down = NeighborStatus("r1a", 65011, SessionState.DOWN, 7.0, 1, "hold timer", 3, {4: 2}, frozenset(), False)
    (row,) = views.neighbors(Snapshot(1, place, 1), {ip_address("10.255.1.1"): down})
    assert (row["state"], row["for_s"], row["reason"]) == ("down", 7, "hold timer")
    assert (row["ipv4_routes"], row["ipv6_routes"]) == (2, 0)
    assert (row["side"], row["steers"]) == ("not watched", False)


def test_a_neighbour_is_shown_with_what_keeps_its_side_from_working_and_who_steers() -> None:
    up = NeighborStatus("", 65011, SessionState.UP, 0.0, 1, "", 3, {4: 2}, frozenset({4}), True)
    sides = (Side("r1a", "etha", Health.CUT, ("no carrier",)), Side("r1b", "ethb"))
    snapshot = Snapshot(1, Place(replace(RACK, steering="65000:911"), SERVER, UPLINK, sides), 1)
    statuses = {tor.address: replace(up, name=tor.name) for tor in RACK.tors}
    cut, good = views.neighbors(snapshot, statuses)
    assert (cut["member"], cut["side"], cut["side_reason"], cut["steers"]) == ("etha", "cut", "no carrier", False)
    assert (good["member"], good["side"], good["side_reason"], good["steers"]) == ("ethb", "good", None, True)
    assert good["defaults"] == ["IPv4"]


def test_a_table_shows_values_as_they_stand() -> None:
    row = {"mac": "0a:58:0a:ab:00:02", "error": "open [/run/netns/x]: [red]", "addresses": ["a", "b"], "up": False}
    console = Console(width=200)
    with console.capture() as printed:
        console.print(table("rows", [row, dict.fromkeys(row)]))
    assert "0a:58:0a:ab:00:02  open [/run/netns/x]: [red]  a b        no" in printed.get()

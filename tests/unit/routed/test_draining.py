"""A drained server stays out, whatever ends its agents, until somebody says otherwise."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from bgp.errors import UnavailableError
from routed.cni.protocol import Command
from routed.control import Refusal
from routed.draining import Drain
from tests.fakes.node import Node, call, key


def drain_of(node: Node, mark: Path, withdraw: Callable[[], Awaitable[None]] | None = None) -> tuple[Drain, list[str]]:
    """Return a node's drain, and what has happened; `withdraw` in place of a speaker that reaches both ToRs."""
    happened: list[str] = []

    async def told() -> None:
        assert mark.exists()
        assert node.store.snapshot.draining
        happened.append("told")

    return Drain(mark, node.store, withdraw or told, lambda: happened.append("dismissed")), happened


async def unheard() -> None:
    raise UnavailableError("not every neighbour was told")


async def test_the_mark_is_there_before_a_route_goes_and_the_agent_ends_last(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        drain, happened = drain_of(node, tmp_path / "drained")
        await drain.begin({})
        assert happened == ["told", "dismissed"]


@pytest.mark.parametrize("drained", [True, False], ids=["drained", "control"])
async def test_the_next_agent_announces_nothing_until_it_is_told_to(tmp_path: Path, drained: bool) -> None:
    mark = tmp_path / "drained"
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        if drained:
            with pytest.raises(Refusal, match="not every neighbour was told; the server is drained all the same"):
                await drain_of(node, mark, unheard)[0].begin({})  # and so may anything else happen after the mark
    successor = Node(tmp_path)
    drain, _ = drain_of(successor, mark)
    assert drain.resume() is drained
    async with successor.running() as node:
        announced = node.planes["advertisements"].held
        assert len(announced) == (0 if drained else 2), "to two ToRs"
        assert node.metrics()["routed_drained"] == drained
        assert set(node.planes["links"].held) == {key(1)}, "the pod keeps its network on this server"
        await drain.end({})
        await node.until(lambda: len(announced) == 2)
        assert node.metrics()["routed_drained"] == 0
        await node.verbs.add(call(Command.ADD, 2))
    assert not mark.exists(), "nor will the next one be drained"


async def test_an_agent_that_ends_takes_nothing_back(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        drain, _ = drain_of(node, tmp_path / "drained")
        await drain.begin({})
        with pytest.raises(Refusal, match="once the next one runs"):
            await drain.end({})
        assert drain.mark.exists()
        assert node.store.snapshot.draining


async def test_what_cannot_be_noted_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        drain, happened = drain_of(node, tmp_path / "state" / "drained")
        with pytest.raises(Refusal, match=r"state.*would not last"):
            await drain.begin({})
        assert (happened, node.store.snapshot.draining) == ([], False)


async def test_a_mark_that_cannot_be_taken_away_keeps_the_server_drained(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        drain, _ = drain_of(node, tmp_path / "drained")
        drain.mark.touch()
        assert drain.resume()
        drain.mark.unlink()
        drain.mark.mkdir()
        with pytest.raises(Refusal, match="stays drained"):
            await drain.end({})
        assert node.store.snapshot.draining

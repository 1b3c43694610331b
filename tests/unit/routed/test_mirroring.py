"""`routed mirror`: what it asks of the agent, and that no mirror outlives its pod."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from ovs_flows.errors import ForeignPort, PortError, Unreachable
from ovs_flows.model import Mirror
from routed.cli.client import AgentUnreachableError
from routed.cli.main import app
from routed.cni.protocol import Command
from routed.control import Refusal, serve_control
from routed.mirroring import Mirroring
from routed.settings import SettingsError
from tests.fakes.node import Node, call
from tests.fakes.plane import DictPlane

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
POD, OTHER = "shop/cart-1", "shop/cart-2"
TO = {"to": "lo", "direction": "both"}
"""A device that every machine has."""


@dataclass
class Copier:
    """A plane of the node, and what others have plugged; answers while `gate` is open."""

    plane: DictPlane
    plugged: frozenset[str] = frozenset()
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event | None = None

    async def observe(self) -> Mapping[str, Mirror]:
        return await self.plane.observe()

    async def number_for(self, device: str, numbers: Iterable[int]) -> int:
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if device == "their0":
            raise ForeignPort("their0 is a port of another bridge")
        return 0 if device in self.plugged else next(iter(numbers))


def mirroring(node: Node, *plugged: str) -> Mirroring:
    return Mirroring(node.store, node.loop, Copier(node.planes["mirrors"], frozenset(plugged)))


async def test_a_mirror_is_made_moved_listed_and_ended(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        [attachment] = node.store.snapshot.attachments
        mirrors, held = mirroring(node, "mon0"), node.planes["mirrors"].held
        row = await mirrors.start({"pod": POD, **TO})
        assert row == {"pod": POD, "port": "rt0", "to": "lo", "direction": "both", "error": None}
        assert held == {"rt0": Mirror("lo", 900, str(attachment))}
        await mirrors.start({"pod": "10.101.0.2", "to": "mon0", "direction": "out"})
        assert held == {"rt0": Mirror("mon0", 0, str(attachment), received=False)}, "plugged by somebody else"
        assert [row["to"] for row in mirrors.rows()] == ["mon0"]
        assert [row["pod"] for row in await mirrors.stop({"pod": POD})] == [POD]
        assert held == {}
        assert mirrors.rows() == await mirrors.stop({}) == []


async def test_a_mirror_goes_with_its_pod_before_its_slot_is_free(tmp_path: Path) -> None:
    node = Node(tmp_path)
    node.finishing.clear()
    async with node.running():
        await node.verbs.add(call(Command.ADD))
        await mirroring(node).start({"pod": POD, **TO})
        leaving = asyncio.create_task(node.verbs.delete(call(Command.DEL)))
        await node.until(lambda: not node.planes["mirrors"].held)
        assert [one.slot for one in node.store.snapshot.attachments.values()] == [0], "nobody else can have it yet"
        node.finishing.set()
        await leaving
        assert node.store.snapshot.mirrors == {}
        await node.verbs.add(call(Command.ADD, 2))
        assert node.planes["mirrors"].held == {}


@pytest.mark.parametrize("known", [True, False], ids=["its own", "somebody else's"])
async def test_an_agent_that_starts_takes_over_the_mirrors_of_its_pods_alone(tmp_path: Path, known: bool) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        [attachment] = node.store.snapshot.attachments
        mirror = Mirror("lo", 900, str(attachment) if known else "gone/eth0")
        node.planes["mirrors"].held["rt0"] = mirror
        await mirroring(node).adopt()
        node.loop.look("mirrors")
        if known:
            await node.loop.wait_for(attachment, deadline_s=5)
            assert mirroring(node).rows()[0]["pod"] == POD
        await node.until(lambda: node.planes["mirrors"].held == ({"rt0": mirror} if known else {}))


async def test_a_mirror_that_cannot_be_made_leaves_nothing_and_its_pod_alone(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.planes["mirrors"].refused["rt0"] = PortError("no such device")
        hasty = Mirroring(node.store, node.loop, Copier(node.planes["mirrors"]), deadline_s=0.05)
        with pytest.raises(PortError):
            await hasty.start({"pod": POD, **TO})
        assert node.store.snapshot.mirrors == {}
        await node.verbs.check(call(Command.CHECK))


async def test_one_that_cannot_be_made_holds_up_no_other(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        for number in (1, 2):
            await node.verbs.add(call(Command.ADD, number))
        mirrors, plane = mirroring(node, "mon0"), node.planes["mirrors"]
        await mirrors.start({"pod": POD, **TO})
        plane.refused["rt0"] = PortError("its device is gone")
        plane.held.clear()
        node.loop.look("mirrors")
        await node.until(lambda: mirrors.rows()[0]["error"] == "its device is gone")
        await mirrors.start({"pod": OTHER, "to": "mon0", "direction": "both"})
        assert [row["error"] for row in mirrors.rows()] == ["its device is gone", None]


@pytest.mark.parametrize("deleted", [True, False], ids=["deleted", "negative-control"])
async def test_a_pod_that_ends_while_its_mirror_begins_leaves_none(tmp_path: Path, deleted: bool) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        copier = Copier(node.planes["mirrors"], gate=asyncio.Event())
        mirrors = Mirroring(node.store, node.loop, copier)
        starting = asyncio.create_task(mirrors.start({"pod": POD, **TO}))
        await copier.asked.wait()
        if deleted:
            await node.verbs.delete(call(Command.DEL))
        assert copier.gate is not None
        copier.gate.set()
        if deleted:
            with pytest.raises(Refusal, match="no pod shop/cart-1"):
                await starting
        else:
            await starting
        assert len(mirrors.rows()) == len(await mirrors.stop({})) == len({POD} if not deleted else ())
        assert node.planes["mirrors"].held == {}


async def test_a_pod_that_ends_while_its_mirror_is_moved_leaves_none(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        mirrors, plane = mirroring(node, "mon0"), node.planes["mirrors"]
        await mirrors.start({"pod": POD, **TO})
        plane.gate.clear()
        moving = asyncio.create_task(mirrors.start({"pod": POD, "to": "mon0", "direction": "both"}))
        await node.until(lambda: plane.busy)
        leaving = asyncio.create_task(node.verbs.delete(call(Command.DEL)))
        await node.until(lambda: all(one.leaving for one in node.store.snapshot.attachments.values()))
        plane.gate.set()
        await leaving
        with pytest.raises(Refusal, match="no pod shop/cart-1"):
            await moving
        assert node.store.snapshot.mirrors == {}
        assert mirrors.rows() == []
        await node.until(lambda: plane.held == {})


async def test_two_that_start_at_once_do_not_share_a_device(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        for number in (1, 2):
            await node.verbs.add(call(Command.ADD, number))
        mirrors = mirroring(node)
        starts = (mirrors.start({"pod": pod, **TO}) for pod in (POD, OTHER))
        made, refused = await asyncio.gather(*starts, return_exceptions=True)
        assert isinstance(made, dict)
        assert isinstance(refused, Refusal)
        assert node.planes["mirrors"].held.keys() == {"rt0"}


async def test_all_are_ended_though_one_cannot_be_and_that_one_is_named(tmp_path: Path) -> None:
    node = Node(tmp_path)
    async with node.running():
        for number in (1, 2):
            await node.verbs.add(call(Command.ADD, number))
        plane = node.planes["mirrors"]
        mirrors = Mirroring(node.store, node.loop, Copier(plane, frozenset({"mon0"})), deadline_s=0.5)
        await mirrors.start({"pod": POD, **TO})
        await mirrors.start({"pod": OTHER, "to": "mon0", "direction": "both"})
        plane.kept["rt0"] = PortError("the switch minds")
        with pytest.raises(Refusal, match=r"shop/cart-1 \(the switch minds\)$"):
            await mirrors.stop({})
        assert plane.held.keys() == {"rt0"}
        plane.kept.clear()
        await node.until(lambda: plane.held == {})


async def test_an_agent_starts_though_nobody_can_tell_what_is_mirrored(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        node.planes["mirrors"].blind = Unreachable("the database does not answer")
        await mirroring(node).adopt()
        assert node.store.snapshot.mirrors == {}


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"pod": "shop/nobody", "to": "lo"}, "no pod shop/nobody"),
        ({"pod": POD, "to": "no-such-device"}, "make it first"),
        ({"pod": OTHER, "to": "lo"}, "another pod's packets"),
    ],
)
async def test_what_can_be_no_mirror_is_refused(tmp_path: Path, wanted: dict[str, str], reason: str) -> None:
    async with Node(tmp_path).running() as node:
        for number in (1, 2):
            await node.verbs.add(call(Command.ADD, number))
        mirrors = mirroring(node)
        await mirrors.start({"pod": POD, **TO})
        with pytest.raises(Refusal, match=reason):
            await mirrors.start({"direction": "both", **wanted})
        assert len(node.planes["mirrors"].held) == 1


async def test_there_is_nothing_to_end_and_nothing_to_mirror_with(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        with pytest.raises(Refusal, match="is not mirrored"):
            await mirroring(node).stop({"pod": POD})
        with pytest.raises(ForeignPort):
            await mirroring(node).start({"pod": POD, "to": "their0", "direction": "both"})
        blind = Mirroring(node.store, node.loop, None)
        await blind.adopt()
        with pytest.raises(Refusal, match="do not pass Open vSwitch"):
            await blind.start({"pod": POD, **TO})


# --- the command -----------------------------------------------------------------------------------------------------


async def command(folder: Path, *arguments: str, fails: Exception | None = None) -> tuple[Result, list[Any]]:
    asked: list[Any] = []
    row = {"pod": POD, "port": "rt0", "to": "tap0", "direction": "in", "error": None}

    async def start(body: Mapping[str, str]) -> object:
        asked.append(body)
        if fails is not None:
            raise fails
        return row

    async def stop(body: Mapping[str, str]) -> object:
        asked.append(body)
        return [row]

    document = yaml.safe_load(EXAMPLE.read_text())
    document["paths"]["run"] = str(folder)
    (folder / "rack.yaml").write_text(yaml.safe_dump(document))
    pages = {"mirrors": lambda: [row]}
    doors = serve_control(folder / "control.sock", pages=pages, changes={"mirror": start, "unmirror": stop})
    async with doors:
        line = ["mirror", *arguments, "--config", str(folder / "rack.yaml")]
        return await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, line), asked


@pytest.mark.parametrize("word", [(), ("start",)], ids=["short", "long"])
async def test_start_names_pod_port_and_direction(tmp_path: Path, word: tuple[str, ...]) -> None:
    done, asked = await command(tmp_path, *word, POD, "--to", "tap0", "--direction", "in")
    assert asked == [{"pod": POD, "to": "tap0", "direction": "in"}]
    assert done.exit_code == 0
    assert "tcpdump -nei tap0" in done.output
    assert "the kernel forwards this pod's packets" in done.output


async def test_list_and_stop(tmp_path: Path) -> None:
    listed, _ = await command(tmp_path, "list")
    assert all(word in listed.output for word in (POD, "rt0", "tap0", "in"))
    one, asked = await command(tmp_path, "stop", POD)
    assert asked == [{"pod": POD}]
    assert "nothing is copied to tap0 any more" in one.output
    _, asked = await command(tmp_path, "stop", "--all")
    assert asked == [{}]


@pytest.mark.parametrize("arguments", [("stop",), ("stop", POD, "--all")])
async def test_stop_wants_a_pod_or_all(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done, asked = await command(tmp_path, *arguments)
    assert isinstance(done.exception, SettingsError)
    assert asked == []


async def test_a_refusal_is_one_line(tmp_path: Path) -> None:
    done, _ = await command(tmp_path, POD, "--to", "tap0", fails=Refusal("there is no device tap0"))
    assert isinstance(done.exception, AgentUnreachableError)
    assert "the agent refused: there is no device tap0" in str(done.exception)

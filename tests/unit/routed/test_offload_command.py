"""`routed offload`: what the agent answers, for people and machines, and what a probe must show to be a proof."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner, Result

from ovs_flows.errors import Unreachable
from ovs_flows.offload import Layer, PortReport, Tally, parse, report
from routed import views
from routed.cli.client import AgentUnreachableError
from routed.cli.main import app
from routed.cni.protocol import Command
from routed.control import serve_control
from routed.offload import Verdict
from routed.settings import SettingsError
from tests.fakes.node import Node, call

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
LINE = (
    "ufid:1, recirc_id(0),in_port(rt0),eth(),eth_type(0x0800),ipv4(frag=no), packets:{}, bytes:9, used:1.0s, {}, "
    "actions:set(eth(src=02:10:00:00:01:0b)),bond0"
)


def reports(layer: str, packets: int = 7) -> dict[str, PortReport]:
    return dict(report(parse(LINE.format(packets, layer)), ["rt0"]))


Page = Callable[[], Awaitable[views.Rows]]


async def nothing() -> views.Rows:
    return []


async def command(folder: Path, page: Page, *arguments: str) -> Result:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["paths"]["run"] = str(folder)
    (folder / "rack.yaml").write_text(yaml.safe_dump(document))
    pages = {"offload": page, "attachments": nothing}
    async with serve_control(folder / "control.sock", pages=pages):
        own = ["--config", str(folder / "rack.yaml")]
        line = ["offload", *arguments, *own]
        return await asyncio.to_thread(CliRunner(env={"COLUMNS": "200"}).invoke, app, line)


async def rows(tmp_path: Path, layer: str) -> views.Rows:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        return views.offload(node.store.snapshot, reports(layer))


async def test_a_pod_is_a_row_with_its_slowest_layer_and_the_reason(tmp_path: Path) -> None:
    (row,) = await rows(tmp_path, "dp:tc")
    assert (row["pod"], row["port"], row["state"]) == ("shop/cart-1", "rt0", "tc-software")
    assert (row["hardware_packets"], row["tc-software_packets"], row["slow-path_packets"]) == (0, 7, 0)
    assert "not_in_hw" in row["reasons"][0]


async def test_a_pod_in_hardware_needs_no_reason(tmp_path: Path) -> None:
    (row,) = await rows(tmp_path, "offloaded:yes, dp:tc")
    assert (row["state"], row["hardware_packets"], row["reasons"]) == ("hardware", 7, [])


async def test_a_pod_without_megaflows_is_idle(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        (row,) = views.offload(node.store.snapshot, {})
        assert (row["state"], row["reasons"]) == ("idle", [])


@pytest.mark.parametrize(
    ("layer", "state"), [("dp:ovs", "slow-path"), ("dp:tc", "tc-software"), ("offloaded:yes, dp:tc", "hardware")]
)
async def test_the_metric_counts_pods_by_their_slowest_layer_and_names_none(
    tmp_path: Path, layer: str, state: str
) -> None:
    async with Node(tmp_path).running() as node:
        for number in (1, 2):
            await node.verbs.add(call(Command.ADD, number))
        counts = dict.fromkeys(("hardware", "tc-software", "slow-path", "idle"), 0) | {state: 1, "idle": 1}
        samples = node.metrics(offload=reports(layer))
    assert {name: value for name, value in samples.items() if name.startswith("routed_pods_offload")} == {
        f'routed_pods_offload{{state="{state}"}}': count for state, count in counts.items()
    }
    assert [name for name in samples if "10.101.0.2" in name or "cart" in name] == []


@pytest.mark.parametrize(("layer", "short"), [("dp:ovs", 1), ("dp:tc", 0)])
async def test_pods_slower_than_asked_for_are_counted(tmp_path: Path, layer: str, short: int) -> None:
    async with Node(tmp_path).running() as node:
        for number in (1, 2):
            await node.verbs.add(call(Command.ADD, number))
        samples = node.metrics(offload=reports(layer), wanted=Layer.TC_SOFTWARE)
    assert samples["routed_pods_offload_short"] == short, "and the idle one is not slow"


async def test_what_is_not_known_of_offload_is_no_number(tmp_path: Path) -> None:
    async with Node(tmp_path).running() as node:
        await node.verbs.add(call(Command.ADD))
        assert [name for name in node.metrics() if "offload" in name] == []


async def test_rows_are_printed_for_people_and_machines(tmp_path: Path) -> None:
    found = await rows(tmp_path, "dp:tc")

    async def page() -> views.Rows:
        return found

    table = await command(tmp_path, page)
    assert "shop/cart-1" in table.stdout
    assert "tc-software" in table.stdout
    assert json.loads((await command(tmp_path, page, "-o", "json")).stdout) == found


async def test_a_switch_that_does_not_answer_is_said_so(tmp_path: Path) -> None:
    async def page() -> views.Rows:
        raise Unreachable("no ovs-vswitchd answers")

    done = await command(tmp_path, page)
    assert isinstance(done.exception, AgentUnreachableError)
    assert "no ovs-vswitchd answers" in str(done.exception)


async def test_a_pod_that_is_not_here_cannot_be_verified(tmp_path: Path) -> None:
    done = await command(tmp_path, nothing, "verify", "shop/cart-9")
    assert isinstance(done.exception, SettingsError)
    assert "shop/cart-9" in str(done.exception)


ALL = {Layer.HARDWARE: Tally(1, 40)}


@pytest.mark.parametrize(
    ("answered", "sent", "received", "proven"),
    [
        (40, ALL, ALL, True),
        (39, ALL, ALL, False),
        (40, ALL, {}, False),
        (40, {Layer.HARDWARE: Tally(1, 39)}, ALL, False),
        (40, ALL, {**ALL, Layer.TC_SOFTWARE: Tally(1, 1)}, False),
        (40, {}, {}, False),
    ],
)
def test_a_proof_is_all_answered_and_all_in_hardware_both_ways(
    answered: int, sent: dict[Layer, Tally], received: dict[Layer, Tally], proven: bool
) -> None:
    assert Verdict(40, answered, PortReport(sent, received)).proven is proven

"""The agent's doors, and what the command line makes of what comes through them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from ipaddress import IPv4Address
from pathlib import Path

import aiohttp
import pytest
import yaml

from routed.cli.client import AgentUnreachableError, request
from routed.control import Change, Refusal, serve_control, serve_health

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"


@pytest.fixture
def rack(tmp_path: Path) -> Path:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["paths"]["run"] = str(tmp_path)
    file = tmp_path / "rack.yaml"
    file.write_text(yaml.safe_dump(document))
    return file


async def ask(rack: Path, method: str, what: str, **changes: Change) -> object:
    pages = {"leases": lambda: [{"pool": "10.0.0.0/24"}]}
    async with serve_control(rack.with_name("control.sock"), pages=pages, changes=changes):
        return await asyncio.to_thread(request, method, what, rack, body={} if changes else None)


async def test_a_page_is_what_the_agent_holds(rack: Path) -> None:
    assert await ask(rack, "GET", "leases") == [{"pool": "10.0.0.0/24"}]


async def test_the_socket_is_root_s_alone(rack: Path) -> None:
    path = rack.with_name("control.sock")
    async with serve_control(path, pages={}):
        assert path.stat().st_mode & 0o777 == 0o600


async def test_a_drain_that_did_not_end_in_time_is_one_line(rack: Path) -> None:
    async def drain(_: Mapping[str, str]) -> None:
        raise Refusal("not every neighbour was told")

    with pytest.raises(AgentUnreachableError, match="the agent refused: not every neighbour was told"):
        await ask(rack, "POST", "drain", drain=drain)


async def test_an_answer_that_is_no_json_is_one_line(rack: Path) -> None:
    with pytest.raises(AgentUnreachableError, match=r"no agent answers on .*control.sock \(404 Not Found\)"):
        await ask(rack, "GET", "nothing-of-ours")


async def test_an_agent_that_hangs_up_is_one_line(rack: Path) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_unix_server(hang_up, rack.with_name("control.sock"))
    async with server:
        with pytest.raises(AgentUnreachableError):
            await asyncio.to_thread(request, "POST", "drain", rack)


def test_an_agent_that_does_not_answer_in_time_is_one_line(rack: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(rack.with_name("control.sock")))
        silent.listen()
        with pytest.raises(AgentUnreachableError, match=r"no agent answers on .*control.sock \(timed out\)"):
            request("GET", "leases", rack, timeout_s=0.05)


def test_no_agent_is_one_line(rack: Path) -> None:
    with pytest.raises(AgentUnreachableError, match=r"\(No such file or directory\); is `routed agent` running"):
        request("GET", "leases", rack)


# ---- health


async def test_readiness_and_a_start_are_asked_apart() -> None:
    ailments = {"/readyz": "no bridge", "/startupz": "no ToR"}

    async def metrics() -> bytes:
        return b"routed_build_info 1\n"

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with (
        serve_health(
            IPv4Address("127.0.0.1"),
            port,
            metrics=metrics,
            ready=lambda: ailments.get("/readyz"),
            started=lambda: ailments.get("/startupz"),
        ),
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        for page in ("/readyz", "/startupz"):
            async with client.get(page) as answer:
                assert (answer.status, await answer.text()) == (503, f"{ailments.pop(page)}\n")
            async with client.get(page) as answer:
                assert (answer.status, await answer.text()) == (200, "ok\n")
        async with client.get("/healthz") as answer:
            assert answer.status == 200
        async with client.get("/metrics") as answer:
            assert await answer.text() == "routed_build_info 1\n"

"""The server behind the shim: who may listen, how much is taken on, what is logged."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from routed.cni.errors import Code, InvalidNetns
from routed.cni.protocol import SIZE_LIMIT, Command
from routed.cni.queue import DeletionQueue
from routed.cni.server import AddressInUseError, Limits, Server
from routed.domain.workload import AttachmentId
from tests.fakes.cni_handler import FakeHandler, serving, until

pytestmark = pytest.mark.system

CONFIG = b'{"cniVersion":"1.1.0","name":"pods"}'


def call(command: str, container_id: str = "one", config: bytes = CONFIG) -> bytes:
    head = f"CNI_COMMAND={command}\0CNI_CONTAINERID={container_id}\0CNI_IFNAME=eth0\0CNI_NETNS=/run/netns/pod\0\0"
    return head.encode() + config


async def ask(path: Path, request: bytes, *, finish: bool = True) -> tuple[int, Any]:
    """Send bytes as the shim would; return the exit status and the document of the answer."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        if finish:
            writer.write_eof()
        head = await reader.readline()
        status, length = (int(number) for number in head.split())
        body = await reader.readexactly(length)
    finally:
        writer.close()
    return status, json.loads(body) if body else None


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "cni.sock"


@pytest.fixture
def queue(tmp_path: Path) -> Path:
    return tmp_path / "queue"


@pytest.fixture
def logs() -> Iterator[list[Any]]:
    with structlog.testing.capture_logs() as captured:
        yield captured


async def test_one_line_per_call(path: Path, handler: FakeHandler, queue: Path, logs: list[Any]) -> None:
    async with serving(path, handler, queue):
        await ask(path, call("ADD"))
        await ask(path, call("DEL"))
        await ask(path, call("STATUS"))
        await ask(path, call("GC", config=b'{"cniVersion":"1.1.0","name":"pods","cni.dev/valid-attachments":[]}'))
        await ask(path, b"junk")
        await until(lambda: len(logs) == 5)
    assert [line["event"] for line in logs] == ["cni.add", "cni.del", "cni.status", "cni.gc", "cni.invalid"]
    assert [line["log_level"] for line in logs] == ["info"] * 4 + ["warning"]
    assert all(line["duration_s"] >= 0 and line["delivered"] for line in logs)
    assert (logs[0]["container_id"], logs[0]["ifname"]) == ("one", "eth0")
    assert logs[4]["code"] == Code.DECODE


async def test_a_known_failure_has_its_code_and_no_traceback(
    path: Path, handler: FakeHandler, queue: Path, logs: list[Any]
) -> None:
    handler.failure = InvalidNetns("/run/netns/pod is gone")
    async with serving(path, handler, queue):
        status, answer = await ask(path, call("ADD"))
        await until(lambda: len(logs) == 1)
    assert (status, answer) == (1, {"cniVersion": "1.1.0", "code": 8, "msg": "/run/netns/pod is gone"})
    assert (logs[0]["code"], logs[0]["log_level"]) == (8, "warning")
    assert "exc_info" not in logs[0]


async def test_a_bug_has_its_traceback_once(path: Path, handler: FakeHandler, queue: Path, logs: list[Any]) -> None:
    handler.failure = bug = KeyError("slot")
    async with serving(path, handler, queue):
        status, answer = await ask(path, call("ADD"))
        await until(lambda: len(logs) == 1)
    assert (status, answer["code"], answer["details"]) == (1, 999, "KeyError: 'slot'")
    assert (logs[0]["exc_info"], logs[0]["log_level"]) == (bug, "error")


async def test_a_second_agent_stops_and_the_first_goes_on(path: Path, handler: FakeHandler, queue: Path) -> None:
    async with serving(path, handler, queue):
        with pytest.raises(AddressInUseError, match="another agent"):
            async with serving(path, FakeHandler(), queue):
                pytest.fail("two agents on one socket")
        assert (await ask(path, call("STATUS")))[0] == 0


async def test_what_a_dead_agent_left_gives_way(path: Path, handler: FakeHandler, queue: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with pytest.raises(ConnectionRefusedError):
        await ask(path, call("STATUS"))
    async with serving(path, handler, queue):
        assert (await ask(path, call("STATUS")))[0] == 0


async def test_what_is_no_socket_is_never_removed(path: Path, handler: FakeHandler, queue: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(AddressInUseError, match="no socket"):
        async with serving(path, handler, queue):
            pytest.fail("listens on a file")
    assert path.read_text() == "precious"


async def test_no_more_calls_run_than_allowed_and_all_are_answered(
    path: Path, handler: FakeHandler, queue: Path
) -> None:
    handler.gate.clear()
    async with serving(path, handler, queue, Limits(calls=3)):
        calls = [asyncio.create_task(ask(path, call("ADD", f"pod-{number}"))) for number in range(9)]
        await until(lambda: handler.running == 3)
        handler.gate.set()
        assert [status for status, _ in await asyncio.gather(*calls)] == [0] * 9
    assert handler.most_running == 3


async def test_a_request_that_does_not_end_is_refused(path: Path, handler: FakeHandler, queue: Path) -> None:
    async with serving(path, handler, queue, Limits(transfer_s=0.1)):
        status, answer = await ask(path, call("ADD"), finish=False)
        assert (status, answer["code"]) == (1, Code.DECODE)
        assert (await ask(path, call("ADD")))[0] == 0
    assert len(handler.requests) == 1


async def test_a_request_that_is_too_long_is_refused(path: Path, handler: FakeHandler, queue: Path) -> None:
    async with serving(path, handler, queue):
        status, answer = await ask(path, call("ADD", config=b" " * SIZE_LIMIT), finish=False)
    assert (status, answer["code"]) == (1, Code.DECODE)
    assert handler.requests == []


async def test_a_caller_that_goes_away_before_asking_is_harmless(
    path: Path, handler: FakeHandler, queue: Path, logs: list[Any]
) -> None:
    async with serving(path, handler, queue):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()
        await until(lambda: len(logs) == 1)
        assert (await ask(path, call("STATUS")))[0] == 0
    assert logs[0]["event"] == "cni.invalid"


async def test_an_add_never_overtakes_a_queued_deletion_of_its_attachment(
    path: Path, handler: FakeHandler, queue: Path
) -> None:
    async with serving(path, handler, queue):
        await ask(path, call("ADD"))
        (queue / "one:eth0").write_bytes(call("DEL"))
        (queue / "two:eth0").write_bytes(call("DEL", "two"))
        assert (await ask(path, call("ADD")))[0] == 0
        assert sorted(file.name for file in queue.iterdir()) == ["two:eth0"]
    assert [request.command for request in handler.requests] == [Command.ADD, Command.DEL, Command.ADD]
    assert handler.attached.keys() == {AttachmentId("one", "eth0")}


async def test_a_deletion_that_arrives_makes_the_queued_one_needless(
    path: Path, handler: FakeHandler, queue: Path
) -> None:
    async with serving(path, handler, queue):
        (queue / "one:eth0").write_bytes(call("DEL"))
        assert await ask(path, call("DEL")) == (0, None)
        assert list(queue.iterdir()) == []
    assert handler.deleted == [AttachmentId("one", "eth0")]


async def test_calls_wait_until_the_queue_is_replayed(path: Path, handler: FakeHandler, queue: Path) -> None:
    queue.mkdir()
    (queue / "one:eth0").write_bytes(call("DEL"))
    (queue / "bad:eth0").write_bytes(b"junk")
    handler.gate.clear()
    server = Server(path, handler, DeletionQueue(queue))
    serve = asyncio.create_task(server.serve())
    try:
        await until(lambda: handler.running == 1)
        with socket.socket(socket.AF_UNIX) as early:
            early.connect(str(path))
            early.sendall(call("ADD", "two"))
            early.shutdown(socket.SHUT_WR)
            for _ in range(100):  # turns of the loop; a server that answers would take the call in a few
                await asyncio.sleep(0)
            assert [request.command for request in handler.requests] == [Command.DEL]
            assert not server.ready.is_set()
            handler.gate.set()
            await server.ready.wait()
            assert (await asyncio.to_thread(early.recv, 2)) == b"0 "
    finally:
        serve.cancel()
        await asyncio.gather(serve, return_exceptions=True)
    assert [request.command for request in handler.requests] == [Command.DEL, Command.ADD]


async def test_a_queue_that_cannot_be_looked_at_for_a_while_ends_nothing(
    path: Path, handler: FakeHandler, queue: Path, logs: list[Any]
) -> None:
    async with serving(path, handler, queue, Limits(replay_s=0.02)):
        queue.rmdir()
        queue.touch()
        await until(lambda: len(logs) > 1)
        assert {(line["event"], line["file"]) for line in logs} == {("cni.queue.unreadable", str(queue))}
        assert (await ask(path, call("STATUS")))[0] == 0
        queue.unlink()
        queue.mkdir()
        (queue / "one:eth0").write_bytes(call("DEL"))
        await until(lambda: handler.deleted == [AttachmentId("one", "eth0")])


async def test_an_agent_that_stops_leaves_its_callers_without_an_answer(
    path: Path, handler: FakeHandler, queue: Path
) -> None:
    handler.gate.clear()
    async with serving(path, handler, queue):
        waiting = asyncio.create_task(ask(path, call("ADD")))
        await until(lambda: handler.running == 1)
    with pytest.raises((ValueError, ConnectionError)):
        await waiting
    assert handler.running == 0


async def test_no_descriptor_is_left_behind(path: Path, handler: FakeHandler, queue: Path) -> None:
    async with serving(path, handler, queue):
        await ask(path, call("ADD"))
        before = descriptors()
        for _ in range(5):
            await ask(path, call("ADD"))
        await until(lambda: descriptors() == before)

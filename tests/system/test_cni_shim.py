"""The compiled shim, plain and under sanitizers, against the real server; and alone, when there is no agent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from routed.cni.errors import Code, TryAgainLater
from routed.cni.protocol import SIZE_LIMIT, VERSIONS, AttachmentRequest
from routed.cni.server import Limits
from routed.domain.workload import AttachmentId
from tests.fakes.cni_handler import FakeHandler, serving, until

pytestmark = pytest.mark.system

SOURCE = Path(__file__).parents[2] / "deploy" / "cni" / "shim.c"
BUILDS = {
    "static": ["-Os", "-static", "-Wall", "-Wextra", "-Werror"],
    "sanitized": ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}
NOBODY = 65534
ONE = AttachmentId("one", "eth0")


@dataclass(frozen=True)
class Outcome:
    status: int
    answer: Any
    """The JSON on standard output; None when there was none."""


class Shim:
    """The program with a socket and a queue of its own, in a folder that other users may enter."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.program = program
        self.socket = folder / "run" / "cni.sock"
        self.queue = folder / "queue"

    async def __call__(
        self,
        command: str,
        container_id: str = "one",
        *,
        body: bytes | None = None,
        deadline_ms: int = 20_000,
        user: int | None = None,
        ifname: str = "eth0",
        **config: Any,
    ) -> Outcome:
        process = await self.start(command, container_id, deadline_ms=deadline_ms, user=user, ifname=ifname)
        document = {"cniVersion": "1.1.0", "name": "pods", "type": "routed-cni", **config}
        output, complaints = await process.communicate(json.dumps(document).encode() if body is None else body)
        assert complaints == b""
        return Outcome(process.returncode or 0, json.loads(output) if output else None)

    async def start(
        self,
        command: str,
        container_id: str = "one",
        *,
        deadline_ms: int = 20_000,
        user: int | None = None,
        ifname: str = "eth0",
    ) -> asyncio.subprocess.Process:
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container_id,
            "CNI_NETNS": "/run/netns/pod",
            "CNI_IFNAME": ifname,
            "CNI_ARGS": "K8S_POD_NAME=cart-0;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop",
            "CNI_PATH": "/opt/cni/bin",
            "ROUTED_CNI_SOCKET": str(self.socket),
            "ROUTED_CNI_QUEUE": str(self.queue),
            "ROUTED_CNI_DEADLINE_MS": str(deadline_ms),
            "ASAN_OPTIONS": "detect_leaks=0",  # a process that lives for one call frees nothing
        }
        pipe = subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            self.program, env=environment, stdin=pipe, stdout=pipe, stderr=pipe, user=user, umask=0
        )


@pytest.fixture(scope="module", params=BUILDS)
def program(request: pytest.FixtureRequest) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="routed-shim-") as folder:
        Path(folder).chmod(0o755)
        built = Path(folder) / "routed-cni"
        subprocess.run(["cc", "-std=c11", *BUILDS[request.param], "-o", built, SOURCE], check=True)
        yield built


@pytest.fixture
def shim(program: Path) -> Iterator[Shim]:
    with tempfile.TemporaryDirectory(prefix="routed-shim-") as folder:
        Path(folder).chmod(0o755)
        yield Shim(program, Path(folder))


@pytest.fixture
def handler() -> FakeHandler:
    return FakeHandler()


@contextlib.asynccontextmanager
async def answering(path: Path, reply: bytes | None) -> AsyncIterator[None]:
    """An agent that reads a request, says these bytes and is gone; with None it says nothing and stays."""
    closing = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        if reply is None:
            await closing.wait()
        else:
            writer.write(reply)
        with contextlib.suppress(ConnectionError):
            writer.close()
            await writer.wait_closed()

    path.parent.mkdir(exist_ok=True)
    server = await asyncio.start_unix_server(serve, path)
    try:
        yield
    finally:
        closing.set()
        server.close()
        await server.wait_closed()


def queued(shim: Shim) -> list[str]:
    return sorted(path.name for path in shim.queue.iterdir()) if shim.queue.exists() else []


async def test_version_needs_no_agent(shim: Shim) -> None:
    assert await shim("VERSION") == Outcome(0, {"cniVersion": "1.1.0", "supportedVersions": list(VERSIONS)})


@pytest.mark.parametrize("version", VERSIONS)
async def test_a_pod_comes_and_goes(shim: Shim, handler: FakeHandler, version: str) -> None:
    async with serving(shim.socket, handler, shim.queue):
        added = await shim("ADD", cniVersion=version)
        assert added.status == 0
        assert added.answer["cniVersion"] == version
        assert added.answer["ips"][0]["address"] == "10.101.0.2/32"
        assert await shim("DEL", cniVersion=version, prevResult=added.answer) == Outcome(0, None)
        assert await shim("DEL", cniVersion=version) == Outcome(0, None)
    assert handler.attached == {}
    request = handler.requests[0]
    assert isinstance(request, AttachmentRequest)
    assert (request.attachment, request.netns, str(request.pod)) == (ONE, "/run/netns/pod", "shop/cart-0")


async def test_check_compares_with_what_add_said(shim: Shim, handler: FakeHandler) -> None:
    async with serving(shim.socket, handler, shim.queue):
        added = (await shim("ADD")).answer
        assert await shim("CHECK", prevResult=added) == Outcome(0, None)
        handler.attached.clear()
        failed = await shim("CHECK", prevResult=added)
    assert (failed.status, failed.answer["code"]) == (1, Code.INVALID_CONFIG)


async def test_gc_keeps_what_is_valid(shim: Shim, handler: FakeHandler) -> None:
    async with serving(shim.socket, handler, shim.queue):
        for name in ("one", "two", "three"):
            await shim("ADD", name)
        config: dict[str, Any] = {"cni.dev/valid-attachments": [{"containerID": "two", "ifname": "eth0"}]}
        assert await shim("GC", "", ifname="", **config) == Outcome(0, None)
        assert handler.attached.keys() == {AttachmentId("two", "eth0")}
        assert (await shim("GC", "", ifname="")).answer["code"] == Code.INVALID_CONFIG
    assert handler.attached.keys() == {AttachmentId("two", "eth0")}


async def test_status_follows_the_agent(shim: Shim, handler: FakeHandler) -> None:
    async with serving(shim.socket, handler, shim.queue):
        assert await shim("STATUS", "", ifname="") == Outcome(0, None)
        handler.healthy = False
        failed = await shim("STATUS", "", ifname="")
    assert failed == Outcome(1, {"cniVersion": "1.1.0", "code": Code.UNAVAILABLE, "msg": "the bridge is gone"})


async def test_thirty_pods_at_once(shim: Shim, handler: FakeHandler) -> None:
    handler.gate.clear()
    async with serving(shim.socket, handler, shim.queue):
        calls = asyncio.gather(*(shim("ADD", f"pod-{number}") for number in range(30)))
        await until(lambda: handler.running == 30)
        handler.gate.set()
        outcomes = await calls
    assert [outcome.status for outcome in outcomes] == [0] * 30
    assert len({outcome.answer["ips"][0]["address"] for outcome in outcomes}) == 30


@pytest.mark.parametrize("command", ["ADD", "CHECK", "GC"])
async def test_without_an_agent_the_runtime_is_told_to_try_again(shim: Shim, command: str) -> None:
    outcome = await shim(command)
    assert (outcome.status, outcome.answer["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert outcome.answer["details"] == "No such file or directory"
    assert queued(shim) == []


async def test_without_an_agent_status_says_unavailable(shim: Shim) -> None:
    outcome = await shim("STATUS", "")
    assert (outcome.status, outcome.answer["code"]) == (1, Code.UNAVAILABLE)


async def test_a_deletion_without_an_agent_is_kept_and_made_good(shim: Shim, handler: FakeHandler) -> None:
    async with serving(shim.socket, handler, shim.queue):
        for name in ("one", "two", "three"):
            await shim("ADD", name)
    for name in ("one", "two", "one"):
        assert await shim("DEL", name, prevResult={"a": 1}) == Outcome(0, None)
    assert queued(shim) == ["one:eth0", "two:eth0"]
    async with serving(shim.socket, handler, shim.queue):
        assert sorted(str(name) for name in handler.deleted) == ["one/eth0", "two/eth0"]
        assert queued(shim) == []
    assert handler.attached.keys() == {AttachmentId("three", "eth0")}


async def test_a_queued_deletion_is_the_request_that_the_agent_would_have_got(shim: Shim) -> None:
    await shim("DEL", body=b'{"name": "pods"}')
    kept = (shim.queue / "one:eth0").read_bytes()
    assert kept.endswith(b'\0\0{"name": "pods"}')
    assert b"CNI_CONTAINERID=one\0" in kept
    assert b"ROUTED" not in kept


async def test_what_is_queued_is_for_root_alone_whatever_the_callers_umask(shim: Shim) -> None:
    await shim("DEL")
    for path, mode in ((shim.queue, 0o700), (shim.queue / "one:eth0", 0o600)):
        found = path.stat()
        assert (found.st_mode & 0o777, found.st_uid, found.st_gid) == (mode, 0, 0)


async def test_a_deletion_that_fails_in_replay_stays_queued(shim: Shim, handler: FakeHandler) -> None:
    await shim("DEL")
    handler.failure = TryAgainLater("not yet")
    async with serving(shim.socket, handler, shim.queue, Limits(replay_s=0.02)):
        assert queued(shim) == ["one:eth0"]
        assert (await shim("ADD")).answer["code"] == Code.TRY_AGAIN_LATER
        handler.failure = None
        await until(lambda: queued(shim) == [])
    assert ONE in handler.deleted


async def test_an_agent_that_hangs_is_not_waited_for(shim: Shim, handler: FakeHandler) -> None:
    handler.gate.clear()
    async with serving(shim.socket, handler, shim.queue, Limits(replay_s=0.02)):
        outcome = await shim("ADD", "two", deadline_ms=300)
        assert (outcome.status, outcome.answer["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert outcome.answer["details"] == "Connection timed out"
        assert await shim("DEL", deadline_ms=300) == Outcome(0, None)
        assert queued(shim) == ["one:eth0"]
        handler.gate.set()
        await until(lambda: queued(shim) == [])
    assert ONE in handler.deleted


async def test_an_agent_with_a_full_backlog_counts_as_none(shim: Shim) -> None:
    shim.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, contextlib.ExitStack() as stack:
        listener.bind(str(shim.socket))
        listener.listen(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                waiting = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
                waiting.connect(str(shim.socket))
        assert (await shim("ADD")).answer["code"] == Code.TRY_AGAIN_LATER
        assert await shim("DEL") == Outcome(0, None)
    assert queued(shim) == ["one:eth0"]


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"0",
        b"0 2",
        b"0 2\n",
        b"0 2\n{",
        b"0 2\n{}x",
        b"\n",
        b"{}",
        b"0\n",
        b"0 2 \n{}",
        b"0 4194304\n{}",
        b"0 2\n" + b"x" * SIZE_LIMIT,
    ],
    ids=lambda reply: repr(reply[:12]),
)
async def test_an_agent_that_dies_in_its_answer_has_given_none(shim: Shim, reply: bytes) -> None:
    async with answering(shim.socket, reply):
        outcome = await shim("ADD")
        assert (outcome.status, outcome.answer["code"]) == (1, Code.TRY_AGAIN_LATER)
        assert await shim("DEL") == Outcome(0, None)
    assert queued(shim) == ["one:eth0"]


@pytest.mark.parametrize(("reply", "expected"), [(b"0 2\n{}", Outcome(0, {})), (b"7 0\n", Outcome(7, None))])
async def test_a_whole_answer_is_passed_on(shim: Shim, reply: bytes, expected: Outcome) -> None:
    async with answering(shim.socket, reply):
        assert await shim("DEL") == expected
    assert queued(shim) == []


async def test_a_full_queue_refuses_new_deletions_and_takes_repeated_ones(shim: Shim) -> None:
    await shim("DEL")
    for number in range(1023):
        (shim.queue / f"other-{number}:eth0").touch()
    (shim.queue / ".draft").touch()
    refused = await shim("DEL", "two")
    assert (refused.status, refused.answer["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert await shim("DEL") == Outcome(0, None)
    (shim.queue / "other-0:eth0").unlink()
    assert await shim("DEL", "two") == Outcome(0, None)


@pytest.mark.parametrize("running", [False, True])
@pytest.mark.parametrize(
    ("container_id", "ifname"),
    [
        ("../escaped", "eth0"),
        ("..", "eth0"),
        ("/etc/escaped", "eth0"),
        (".hidden", "eth0"),
        ("a/b", "eth0"),
        ("a:b", "eth0"),
        ("a\nb", "eth0"),
        ('a"b', "eth0"),
        ("", "eth0"),
        ("a" * 129, "eth0"),
        ("one", ""),
        ("one", "../escaped"),
        ("one", "eth%d"),
        ("one", "x" * 16),
        ("one", "eth 0"),
    ],
)
async def test_a_hostile_name_is_refused_by_shim_and_agent_alike(
    shim: Shim, handler: FakeHandler, container_id: str, ifname: str, *, running: bool
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        if running:
            await stack.enter_async_context(serving(shim.socket, handler, shim.queue))
        outcome = await shim("DEL", container_id, ifname=ifname)
    assert (outcome.status, outcome.answer["code"]) == (1, Code.INVALID_ENVIRONMENT)
    assert handler.requests == []
    assert queued(shim) == []
    assert not [path for path in shim.queue.parent.rglob("*") if "escaped" in path.name]


async def test_the_longest_names_are_queued_and_understood(shim: Shim, handler: FakeHandler) -> None:
    assert await shim("DEL", "a" * 128, ifname="x" * 15) == Outcome(0, None)
    async with serving(shim.socket, handler, shim.queue):
        assert handler.deleted == [AttachmentId("a" * 128, "x" * 15)]


async def test_a_huge_configuration_is_refused_and_a_large_one_is_not(shim: Shim, handler: FakeHandler) -> None:
    async with serving(shim.socket, handler, shim.queue):
        refused = await shim("ADD", pad="x" * SIZE_LIMIT)
        assert (refused.status, refused.answer["code"]) == (1, Code.DECODE)
        assert (await shim("ADD", pad="x" * (SIZE_LIMIT - 4096))).status == 0
    assert len(handler.requests) == 1


async def test_a_configuration_that_never_ends_is_not_waited_for(shim: Shim) -> None:
    process = await shim.start("ADD", deadline_ms=200)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"{")
    answer = json.loads(await process.stdout.read())
    assert await process.wait() == 1
    assert (answer["code"], answer["details"]) == (5, "Connection timed out")
    process.stdin.close()


async def test_a_call_without_a_command_is_refused(shim: Shim) -> None:
    assert (await shim("")).answer["code"] == Code.INVALID_ENVIRONMENT


async def test_only_root_is_served(shim: Shim, handler: FakeHandler) -> None:
    async with serving(shim.socket, handler, shim.queue):
        assert (shim.socket.stat().st_mode & 0o777, shim.socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
        outcome = await shim("ADD", user=NOBODY)
        assert (outcome.answer["code"], outcome.answer["details"]) == (Code.TRY_AGAIN_LATER, "Permission denied")
        refused = await shim("DEL", user=NOBODY)
        assert (refused.status, refused.answer["code"]) == (1, Code.TRY_AGAIN_LATER)

        shim.socket.parent.chmod(0o755)
        shim.socket.chmod(0o666)
        with structlog.testing.capture_logs() as logs:
            outcome = await shim("ADD", user=NOBODY)
        assert outcome.answer["code"] == Code.TRY_AGAIN_LATER
        assert [(line["event"], line["uid"]) for line in logs] == [("cni.refused", NOBODY)]
        assert handler.requests == []
        assert (await shim("ADD")).status == 0
    assert queued(shim) == []


async def test_a_shim_that_is_killed_leaves_the_agent_alone(shim: Shim, handler: FakeHandler) -> None:
    handler.gate.clear()
    with structlog.testing.capture_logs() as logs:
        async with serving(shim.socket, handler, shim.queue):
            process = await shim.start("ADD")
            assert process.stdin is not None
            process.stdin.write(b'{"cniVersion":"1.0.0","name":"pods"}')
            process.stdin.close()
            await until(lambda: handler.running == 1)
            process.kill()
            await process.wait()
            handler.gate.set()
            await until(lambda: len(logs) == 1)
            assert (await shim("STATUS", "")).status == 0
    assert (logs[0]["event"], logs[0]["delivered"]) == ("cni.add", False)


async def test_a_queue_that_cannot_be_made_is_an_error(shim: Shim) -> None:
    shim.queue.touch()
    outcome = await shim("DEL")
    assert (outcome.status, outcome.answer["code"]) == (1, Code.TRY_AGAIN_LATER)
    assert outcome.answer["details"] == "Not a directory"

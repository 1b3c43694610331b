"""The connection's manners, against a peer that misbehaves on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from ovs_flows import messages
from ovs_flows.connection import Connection
from ovs_flows.errors import Unreachable
from ovs_flows.messages import Message, pack, unpack_header


class Peer:
    """One accepted connection, spoken to message by message."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def receive(self) -> tuple[int, int, bytes]:
        """Return type, transaction number and body of the next message."""
        head = await self.reader.readexactly(messages.HEADER_SIZE)
        _, kind, length, xid = unpack_header(head)
        return kind, xid, await self.reader.readexactly(length - messages.HEADER_SIZE)

    def send(self, kind: int, body: bytes = b"", xid: int = 0) -> None:
        self.writer.write(pack(Message(kind, body), xid))

    async def greet(self) -> None:
        assert (await self.receive())[0] == messages.HELLO
        self.send(messages.HELLO)


@contextlib.asynccontextmanager
async def listening(tmp_path: Path) -> AsyncIterator[tuple[Path, asyncio.Queue[Peer]]]:
    accepted: asyncio.Queue[Peer] = asyncio.Queue()
    path = tmp_path / "br0.mgmt"
    server = await asyncio.start_unix_server(lambda r, w: accepted.put_nowait(Peer(r, w)), str(path))
    try:
        yield path, accepted
    finally:
        server.close()
        while not accepted.empty():
            accepted.get_nowait().writer.close()


@contextlib.asynccontextmanager
async def connected(
    tmp_path: Path, on_change: Callable[[], None] = lambda: None, probe_s: float = 60
) -> AsyncIterator[tuple[Connection, Peer]]:
    async with asyncio.timeout(10), listening(tmp_path) as (path, accepted):
        opening = asyncio.create_task(Connection.open(path, on_change, probe_s))
        peer = await accepted.get()
        await peer.greet()
        connection = await opening
        try:
            yield connection, peer
        finally:
            connection.close()
            peer.writer.close()


async def test_greets_with_version_14_only(tmp_path: Path) -> None:
    async with asyncio.timeout(10), listening(tmp_path) as (path, accepted):
        opening = asyncio.create_task(Connection.open(path, lambda: None))
        peer = await accepted.get()
        kind, _, body = await peer.receive()
        assert (kind, body) == (messages.HELLO, struct.pack("!HHI", 1, 8, 1 << 5))
        peer.writer.write(struct.pack("!BBHI", 4, messages.HELLO, 8, 0))
        with pytest.raises(Unreachable, match=r"1\.4"):
            await opening
        peer.writer.close()


async def test_peer_that_hangs_up_before_greeting_is_unreachable(tmp_path: Path) -> None:
    async with asyncio.timeout(10), listening(tmp_path) as (path, accepted):
        opening = asyncio.create_task(Connection.open(path, lambda: None))
        (await accepted.get()).writer.close()
        with pytest.raises(Unreachable):
            await opening


async def test_transaction_numbers_start_again_before_they_overflow(tmp_path: Path) -> None:
    async with connected(tmp_path) as (connection, peer):
        connection._xid = 0xF000_0001
        asking = asyncio.create_task(connection.exchange([messages.dump_flows()]))
        assert [(await peer.receive())[1] for _ in range(2)] == [1, 2]
        peer.send(messages.BARRIER_REPLY, xid=2)
        await asking


async def test_echo_is_answered(tmp_path: Path) -> None:
    async with connected(tmp_path) as (_, peer):
        peer.send(messages.ECHO_REQUEST, b"still there?", 4711)
        assert await peer.receive() == (messages.ECHO_REPLY, 4711, b"still there?")


async def test_answers_are_sorted_to_their_questions_even_when_torn(tmp_path: Path) -> None:
    async with connected(tmp_path) as (connection, peer):
        asking = asyncio.create_task(connection.exchange([messages.dump_flows(), messages.dump_groups()]))
        xids = [(await peer.receive())[1] for _ in range(3)]
        flows, groups = struct.pack("!HH4x", 1, 0), struct.pack("!HH4x", 7, 0)
        stream = b"".join(
            pack(Message(kind, body), xid)
            for kind, body, xid in (
                (messages.MULTIPART_REPLY, flows + b"one", xids[0]),
                (messages.MULTIPART_REPLY, flows + b"two", xids[0]),
                (messages.MULTIPART_REPLY, groups + b"three", xids[1]),
                (messages.ERROR, struct.pack("!HH", 5, 1), xids[1]),
                (messages.BARRIER_REPLY, b"", xids[2]),
            )
        )
        for position in range(len(stream)):
            peer.writer.write(stream[position : position + 1])
            await peer.writer.drain()
        answer = await asking
        assert answer.parts == {xids[0]: [b"one", b"two"], xids[1]: [b"three"]}
        assert list(answer.errors) == [xids[1]]
        assert "flow mod failed" in str(answer.errors[xids[1]])


async def test_lost_connection_fails_the_running_and_all_later_exchanges(tmp_path: Path) -> None:
    async with connected(tmp_path) as (connection, peer):
        asking = asyncio.create_task(connection.exchange([messages.dump_flows()]))
        await peer.receive()
        peer.writer.close()
        with pytest.raises(Unreachable):
            await asking
        await connection.closed.wait()
        with pytest.raises(Unreachable):
            await connection.exchange([])


async def test_message_with_an_impossible_length_ends_the_connection(tmp_path: Path) -> None:
    async with connected(tmp_path) as (connection, peer):
        peer.writer.write(struct.pack("!BBHI", 5, messages.BARRIER_REPLY, 3, 1))
        await connection.closed.wait()


async def test_idle_connection_is_probed_and_given_up_when_silent(tmp_path: Path) -> None:
    async with connected(tmp_path, probe_s=0.2) as (connection, peer):
        for _ in range(3):  # as long as it answers it stays
            kind, xid, body = await peer.receive()
            assert kind == messages.ECHO_REQUEST
            peer.send(messages.ECHO_REPLY, body, xid)
        assert not connection.closed.is_set()
        await connection.closed.wait()


async def test_changes_of_others_are_passed_on_and_our_own_are_not(tmp_path: Path) -> None:
    changed = asyncio.Event()
    async with connected(tmp_path, changed.set) as (connection, peer):
        monitor = struct.pack("!HH4x", messages.PART_MONITOR, 0)
        peer.send(messages.MULTIPART_REPLY, monitor + struct.pack("!HHI", 8, 4, 1))
        exchange = asyncio.create_task(connection.exchange([]))
        peer.send(messages.BARRIER_REPLY, xid=(await peer.receive())[1])
        await exchange
        assert not changed.is_set()
        peer.send(messages.MULTIPART_REPLY, monitor + struct.pack("!HHI", 8, 2, 1))
        await changed.wait()

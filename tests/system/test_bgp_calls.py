"""ExaBGP and a switch that call each other at once (RFC 4271 6.8); the switch says what the test makes it say."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from bgp import config
from containerlab.netns import socket_in
from tests.fixtures import patient_exabgp
from tests.fixtures.speakers import EXABGP, BareExabgp, speaker_config, wired_rack
from tests.fixtures.tors import HOST_V4, Rack, Tor, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

pytestmark = pytest.mark.system

PATIENT = (sys.executable, "-P", str(Path(patient_exabgp.__file__)))
UNMENDED = (str(Path(sys.executable).with_name("exabgp")),)
PORT = 179
OPEN, NOTIFICATION, KEEPALIVE = 1, 3, 4
COLLISION = bytes([6, 7])  # RFC 4486
LOOK_S = 10.0


class Call:
    """One connection, as the switch sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._connection.setblocking(False)

    async def tell(self, kind: int, body: bytes = b"") -> None:
        """Send a message."""
        message = b"\xff" * 16 + (19 + len(body)).to_bytes(2) + bytes([kind]) + body
        await asyncio.get_running_loop().sock_sendall(self._connection, message)

    async def hear(self, kind: int) -> None:
        """Wait for a message of this kind."""
        header = await self._read(19)
        await self._read(int.from_bytes(header[16:18]) - 19)
        assert header[18] == kind

    async def end(self) -> None:
        """Wait until ExaBGP has hung up, whatever it says before, and whether or not it listened."""
        with contextlib.suppress(ConnectionResetError):
            async with asyncio.timeout(LOOK_S):
                while await asyncio.get_running_loop().sock_recv(self._connection, 4096):
                    pass

    async def _read(self, size: int) -> bytes:
        found = b""
        async with asyncio.timeout(LOOK_S):
            while len(found) < size:
                data = await asyncio.get_running_loop().sock_recv(self._connection, size - len(found))
                assert data, "ExaBGP has hung up"
                found += data
        return found


class Switch:
    """A switch without routes."""

    def __init__(self, tor: Tor) -> None:
        self._tor = tor
        self._open = bytes([4, *tor.asn.to_bytes(2), 0, tor.hold_time_s, *tor.address.packed, 0])
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._socket = self._own()
        self._socket.bind((str(self._tor.address), PORT))
        self._socket.listen()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _own(self) -> socket.socket:
        found = self._stack.enter_context(
            socket_in(Path("/run/netns", self._tor.netns), socket.AF_INET, socket.SOCK_STREAM)
        )
        found.setblocking(False)
        return found

    async def called(self) -> Call:
        """Wait for a call from ExaBGP."""
        async with asyncio.timeout(LOOK_S):
            connection, _ = await asyncio.get_running_loop().sock_accept(self._socket)
        return Call(self._stack.enter_context(connection))

    async def call(self) -> Call:
        """Call ExaBGP, and tell it who calls."""
        connection = self._own()
        connection.bind((str(self._tor.address), 0))
        async with asyncio.timeout(LOOK_S):
            await asyncio.get_running_loop().sock_connect(connection, (HOST_V4, PORT))
        call = Call(connection)
        await call.tell(OPEN, self._open)
        return call

    async def taken(self) -> Call:
        """Wait for a call from ExaBGP and talk until only this switch's consent is missing."""
        call = await self.called()
        await call.tell(OPEN, self._open)
        await call.hear(OPEN)
        await call.hear(KEEPALIVE)
        return call


@pytest.fixture
async def rack() -> AsyncIterator[Rack]:
    async with wired_rack() as rack:
        yield rack


def _exabgp(rack: Rack, command: Sequence[str] = PATIENT) -> BareExabgp:
    """Return an ExaBGP that speaks to the first switch only, whose BGP identifier is the higher of the two."""
    return BareExabgp(rack, list(config.sections(speaker_config(rack)).values())[:1], command)


async def _looked(exabgp: BareExabgp) -> None:
    """Wait until ExaBGP has looked at its sockets several times: it answers one of these per turn."""
    for number in range(1, 6):
        exabgp.write(["version"])
        await eventually(lambda number=number: len(exabgp.answers()) == number, "an answer")


def _went_down(exabgp: BareExabgp) -> bool:
    return any('"state": "down"' in line for line in exabgp.lines)


async def test_a_call_that_the_switch_has_taken_is_not_dropped_for_another(rack: Rack) -> None:
    with Switch(rack.tors[0]) as switch:
        async with _exabgp(rack) as exabgp:
            ours = await switch.taken()
            theirs = await switch.call()
            await _looked(exabgp)
            await ours.tell(KEEPALIVE)
            await eventually(lambda: exabgp.ups() == 1, "the session")
            await theirs.end()
            assert not _went_down(exabgp)


async def test_exabgp_by_itself_drops_the_call_that_the_switch_has_taken(rack: Rack) -> None:
    with Switch(rack.tors[0]) as switch:
        async with _exabgp(rack, UNMENDED) as exabgp:
            ours = await switch.taken()
            await switch.call()
            await ours.end()
            await eventually(lambda: _went_down(exabgp), "the word of it")


async def test_a_switch_that_insists_on_its_own_call_is_answered(rack: Rack) -> None:
    with Switch(rack.tors[0]) as switch:
        async with _exabgp(rack) as exabgp:
            ours = await switch.taken()
            theirs = await switch.call()
            await _looked(exabgp)
            await ours.tell(NOTIFICATION, COLLISION)
            await theirs.hear(OPEN)
            await theirs.hear(KEEPALIVE)
            await theirs.tell(KEEPALIVE)
            await eventually(lambda: exabgp.ups() == 1, "the session")


async def test_a_switch_that_forgot_our_call_is_answered_all_the_same(rack: Rack) -> None:
    with Switch(rack.tors[0]) as switch:
        async with _exabgp(rack, EXABGP):
            ours = await switch.called()
            theirs = await switch.call()
            await theirs.hear(OPEN)
            await ours.end()

"""One OpenFlow 1.4 connection to a bridge's management socket.

Owns framing, transaction numbers, hello, echo and the request timeout. Knows no flow policy. The one way to ask is
`Connection.exchange`: messages and a barrier behind them; all that OVS said of them is there when the barrier's reply
arrives (OpenFlow 1.4 6.2: a barrier is answered after everything before it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from ovs_flows import messages
from ovs_flows.errors import Refused, Unreachable
from ovs_flows.messages import Message

TIMEOUT_S = 10.0
"""Longest wait for a barrier; vswitchd reconfiguring hundreds of ports takes about a second."""
PROBE_S = 5.0
"""An idle connection is probed this often, and given up when one more such time brings no answer."""
_LAST_XID = 0xF000_0000
"""Numbers start again here; no exchange is long enough to reach 32 bits from there."""
_ERROR_TYPES = {
    1: "bad request",
    2: "bad action",
    3: "bad instruction",
    4: "bad match",
    5: "flow mod failed",
    6: "group mod failed",
    12: "meter mod failed",
    13: "multipart request failed",
    17: "bundle failed",
    0xFFFF: "Open vSwitch's own",
}


@dataclass(slots=True)
class Answer:
    """What OVS said about one exchange."""

    first: int
    """Transaction number of the first message; the others follow."""
    done: asyncio.Future[None]
    last: int
    """Transaction number of the barrier."""
    errors: dict[int, Refused] = field(default_factory=dict)
    """By transaction number of the message that was refused."""
    parts: dict[int, list[bytes]] = field(default_factory=dict)
    """Contents of multipart replies, by transaction number of the request."""


class Connection(asyncio.Protocol):
    """A connected switch. One exchange at a time per caller; exchanges of several callers do not mix."""

    def __init__(self, on_foreign_change: Callable[[], None], probe_s: float = PROBE_S) -> None:
        loop = asyncio.get_running_loop()
        self.closed = asyncio.Event()
        """Set when the connection is gone, for whatever reason."""
        self._greeted: asyncio.Future[int] = loop.create_future()
        self._on_foreign_change = on_foreign_change
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._pending: list[Answer] = []
        self._xid = 0
        self._heard = True
        self._probe_s = probe_s
        self._probe = loop.call_later(probe_s, self._probe_peer)

    @classmethod
    async def open(cls, path: Path, on_foreign_change: Callable[[], None], probe_s: float = PROBE_S) -> Self:
        """Connect and greet; Unreachable when nobody answers or the peer does not speak OpenFlow 1.4.

        ``on_foreign_change`` is called when a flow monitor (`messages.monitor_flows`) reports somebody else's change.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, connection = await loop.create_unix_connection(lambda: cls(on_foreign_change, probe_s), str(path))
                version = await connection._greeting()  # noqa: SLF001 - its own class
        except (OSError, TimeoutError) as error:
            raise Unreachable(f"no switch answers on {path}: {str(error) or 'no greeting'}") from error
        if version < messages.VERSION:
            connection.close()
            raise Unreachable(f"the switch on {path} speaks OpenFlow version {version} at most, 1.4 (5) is needed")
        return connection

    async def _greeting(self) -> int:
        """Return the OpenFlow version that the switch greets with."""
        try:
            return await self._greeted
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close; the callers of running exchanges get Unreachable."""
        if self._transport is not None:
            self._transport.abort()

    def next_xid(self) -> int:
        """Return the transaction number that the first message of the next exchange will carry."""
        if self._xid > _LAST_XID:
            self._xid = 0
        return self._xid + 1

    async def exchange(self, wanted: Sequence[Message]) -> Answer:
        """Send messages and a barrier and return all that came back; errors are returned, not raised.

        Raises Unreachable when the connection is lost or the barrier not answered in time.
        """
        if self._transport is None or self.closed.is_set():
            raise Unreachable("the connection to the switch is closed")
        first = self.next_xid()
        self._xid = first + len(wanted)
        pending = Answer(first, asyncio.get_running_loop().create_future(), self._xid)
        self._pending.append(pending)
        numbered = [*wanted, Message(messages.BARRIER_REQUEST)]
        self._transport.write(b"".join(messages.pack(message, first + i) for i, message in enumerate(numbered)))
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await pending.done
        except TimeoutError:
            self.close()
            raise Unreachable(f"the switch did not answer within {TIMEOUT_S:g} s") from None
        return pending

    # --- asyncio.Protocol --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet at once."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - a unix stream; narrows the type
        self._transport = transport
        transport.write(messages.pack(messages.hello(), 0))

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits."""
        self._probe.cancel()
        gone = Unreachable(f"the connection to the switch was lost: {exc or 'closed by the switch'}")
        for pending in self._pending:
            if not pending.done.done():
                pending.done.set_exception(gone)
        self._pending.clear()
        if not self._greeted.done():
            self._greeted.set_exception(ConnectionResetError("closed before hello"))
        self.closed.set()

    def data_received(self, data: bytes) -> None:
        """Cut the stream into messages."""
        self._heard = True
        buffer = self._buffer
        buffer += data
        offset, size = 0, len(buffer)
        while size - offset >= messages.HEADER_SIZE:
            version, kind, length, xid = messages.unpack_header(buffer, offset)
            if length < messages.HEADER_SIZE:
                self.close()
                return
            if size - offset < length:
                break
            self._receive(version, kind, xid, bytes(buffer[offset + messages.HEADER_SIZE : offset + length]))
            offset += length
        del buffer[:offset]

    def _receive(self, version: int, kind: int, xid: int, body: bytes) -> None:
        match kind:
            case messages.HELLO:
                if not self._greeted.done():
                    self._greeted.set_result(version)
            case messages.ECHO_REQUEST:
                self._send(Message(messages.ECHO_REPLY, body), xid)
            case messages.ERROR:
                self._refused(xid, body)
            case messages.MULTIPART_REPLY:
                self._part(xid, body)
            case messages.BARRIER_REPLY:
                self._settle(xid)
            case _:
                pass  # replies that say nothing which the barrier does not say; asynchronous messages

    def _send(self, message: Message, xid: int) -> None:
        if self._transport is not None:
            self._transport.write(messages.pack(message, xid))

    def _exchange_of(self, xid: int) -> Answer | None:
        return next((pending for pending in self._pending if pending.first <= xid <= pending.last), None)

    def _refused(self, xid: int, body: bytes) -> None:
        kind, code = int.from_bytes(body[:2], "big"), int.from_bytes(body[2:4], "big")
        # A failing commit names the message that went into the bundle in an earlier exchange.
        pending = self._exchange_of(xid) or (self._pending[-1] if self._pending else None)
        if pending is not None:
            what = _ERROR_TYPES.get(kind, "error")
            error = Refused(f"OVS refused it: {what} (OpenFlow error type {kind}, code {code})", (kind, code))
            pending.errors.setdefault(xid, error)

    def _part(self, xid: int, body: bytes) -> None:
        kind, content = messages.parse_part(body)
        if kind == messages.PART_MONITOR:
            if messages.is_foreign_change(content):
                self._on_foreign_change()
            return
        pending = self._exchange_of(xid)
        if pending is not None:
            pending.parts.setdefault(xid, []).append(content)

    def _settle(self, xid: int) -> None:
        pending = self._exchange_of(xid)
        if pending is not None and xid == pending.last:
            self._pending.remove(pending)
            if not pending.done.done():
                pending.done.set_result(None)

    def _probe_peer(self) -> None:
        if not self._heard:
            self.close()
            return
        self._heard = False
        self._send(Message(messages.ECHO_REQUEST), 0)
        self._probe = asyncio.get_running_loop().call_later(self._probe_s, self._probe_peer)

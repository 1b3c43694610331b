"""One connection to one ExaBGP, through its relay: commands out, answers and events in.

ExaBGP answers each command with ``done`` or ``error``, in order, but for one thing: an ``error`` found while the line
is parsed overtakes the answers of routes that still wait in its queue. So well-formed routes are pipelined, and every
other command is asked alone, with nothing else on its way.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from bgp import events
from bgp.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

LINE_LIMIT = 4 << 20
"""Bytes of the longest line: an UPDATE with all its prefixes as JSON."""


class Channel:
    """The line of commands and answers. Owned by one task; `receive` runs in another of the same loop."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        on_event: Callable[[events.Event], None],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._on_event = on_event
        self._answers: deque[Callable[[bool], None]] = deque()
        self._lines: list[str] = []
        self._idle = asyncio.Event()
        self._idle.set()
        self._buffer: list[str] = []
        self.exabgp = 0
        """Process id of the ExaBGP behind the relay; 0 until `greet` returned."""
        self.heard = 0
        """Counts the lines that came in: a sign of life."""

    async def greet(self) -> None:
        """Wait for the relay's first line. ProtocolError when it is another one, ConnectionError when none comes."""
        hello = events.parse(await self._line())
        if not isinstance(hello, events.RelayConnected):
            raise ProtocolError(f"the relay did not introduce itself: {hello}")
        self.exabgp = hello.exabgp
        for _ in range(hello.owed):
            self._expect(lambda _ok: None)

    @property
    def waiting(self) -> int:
        """How many commands wait for their answer."""
        return len(self._answers)

    def give(self, line: str, on_answer: Callable[[bool], None]) -> None:
        """Queue an announce or a withdraw; `flush` writes it. ``on_answer`` gets whether ExaBGP said ``done``."""
        self._buffer.append(line + "\n")
        self._expect(on_answer)

    def flush(self) -> None:
        """Write what was given."""
        if self._buffer:
            self._writer.write("".join(self._buffer).encode("ascii"))
            self._buffer.clear()

    async def ask(self, line: str) -> list[str] | None:
        """Give any command with nothing else on its way; return the lines before its ``done``, None for ``error``."""
        await self._idle.wait()
        answered: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._lines = []
        self.give(line, lambda ok: None if answered.done() else answered.set_result(ok))
        self.flush()
        return self._lines if await answered else None

    async def receive(self) -> None:
        """Dispatch what comes in until the connection ends, which raises ConnectionError."""
        while True:
            line = await self._line()
            self.heard += 1
            if line in (b"done", b"error"):
                self._answer(ok=line == b"done")
            elif line.startswith(b'{ "exabgp"'):
                event = events.parse(line)
                if event is not None:
                    self._on_event(event)
            else:
                self._lines.append(line.decode("ascii", "replace"))

    def close(self) -> None:
        """Close the connection; ExaBGP and its relay go on."""
        self._writer.close()

    def _expect(self, on_answer: Callable[[bool], None]) -> None:
        self._answers.append(on_answer)
        self._idle.clear()

    def _answer(self, *, ok: bool) -> None:
        if not self._answers:
            raise ProtocolError("ExaBGP answered more often than it was asked")
        on_answer = self._answers.popleft()
        if not self._answers:
            self._idle.set()
        on_answer(ok)

    async def _line(self) -> bytes:
        try:
            line = await self._reader.readline()
        except ValueError as error:
            raise ProtocolError("a line of ExaBGP is longer than any should be") from error
        if not line.endswith(b"\n"):
            raise ConnectionResetError("ExaBGP or its relay is gone")
        return line[:-1]

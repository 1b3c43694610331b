"""The only process that ExaBGP runs: carries lines between ExaBGP and the socket on which the speaker listens.

Runs as a program, in ExaBGP's user, with the socket's path as its argument; standard library only, so that it starts in
milliseconds. Three promises:

- ExaBGP's pipe is always read. ExaBGP writes to it without a timeout and stops sending keepalives when it is full, so
  what nobody wants to hear is thrown away.
- It never ends while ExaBGP lives. ExaBGP gives up after six deaths of a helper within a minute, and takes a session
  down when it cannot write to a helper. Speakers come and go; the relay looks for the next one.
- Half a line is never passed on, in neither direction: what a dead speaker did not finish would be glued to its
  successor's first command.

ExaBGP gives one answer to each command, in no way marked. So the first line to a new speaker says how many answers are
still *owed* to its predecessor, besides ExaBGP's process id.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys

BACKLOG = 8 << 20
"""Bytes that one direction may hold. Beyond it a speaker that does not read is cut off; commands wait in the socket."""
RETRY_MS = 50
CHUNK = 1 << 16
ANSWERS = frozenset({b"done", b"error"})


class Relay:
    """One ExaBGP on two file descriptors, at most one speaker on a socket."""

    def __init__(self, path: str, from_exabgp: int, to_exabgp: int) -> None:
        self._path = path
        self._in = from_exabgp
        self._out = to_exabgp
        self._speaker: socket.socket | None = None
        self._events = bytearray()
        self._commands = bytearray()
        self._half_command = bytearray()
        self._half_event = bytearray()
        self._owed = 0
        os.set_blocking(from_exabgp, False)
        os.set_blocking(to_exabgp, False)

    def run(self) -> None:
        """Carry until ExaBGP closes its end."""
        while self._turn():
            pass

    def _turn(self) -> bool:
        if self._speaker is None:
            self._connect()
        poller = select.poll()
        poller.register(self._in, select.POLLIN)
        if self._commands:
            poller.register(self._out, select.POLLOUT)
        if self._speaker is not None:
            wanted = select.POLLIN if len(self._commands) < BACKLOG else 0
            poller.register(self._speaker, wanted | (select.POLLOUT if self._events else 0))
        ready = dict(poller.poll(RETRY_MS if self._speaker is None else None))
        if self._in in ready and not self._hear():
            return False
        if self._speaker is not None and ready.get(self._speaker.fileno(), 0) & ~select.POLLOUT:
            self._listen()
        if self._events and self._speaker is not None:
            self._tell()
        if self._commands:
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                del self._commands[: os.write(self._out, self._commands)]
        return True

    def _connect(self) -> None:
        speaker = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        speaker.setblocking(False)  # a listener that is stopped lets a queue of connections fill up, and then blocks
        try:
            speaker.connect(self._path)
        except OSError:
            speaker.close()
            return
        self._speaker = speaker
        hello = {"type": "relay", "exabgp": os.getppid(), "owed": self._owed}
        self._events = bytearray(json.dumps(hello).encode() + b"\n")

    def _disconnect(self) -> None:
        if self._speaker is not None:
            self._speaker.close()
        self._speaker = None
        self._events.clear()
        self._half_command.clear()

    def _hear(self) -> bool:
        """Read what ExaBGP says; False when it is gone."""
        try:
            data = os.read(self._in, CHUNK)
        except BlockingIOError:
            return True
        self._half_event += data
        end = self._half_event.rfind(b"\n") + 1
        lines = bytes(self._half_event[:end])
        del self._half_event[:end]
        self._owed -= sum(line in ANSWERS for line in lines.split(b"\n"))
        if self._speaker is not None:
            self._events += lines
            if len(self._events) > BACKLOG:
                self._disconnect()
        return bool(data)

    def _listen(self) -> None:
        """Read the speaker's commands; only whole lines go on."""
        try:
            data = self._speaker.recv(CHUNK) if self._speaker is not None else b""
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._disconnect()
            return
        self._half_command += data
        end = self._half_command.rfind(b"\n") + 1
        self._commands += self._half_command[:end]
        self._owed += self._half_command.count(b"\n", 0, end)
        del self._half_command[:end]

    def _tell(self) -> None:
        try:
            if self._speaker is not None:
                del self._events[: self._speaker.send(self._events)]
        except BlockingIOError:
            pass
        except OSError:
            self._disconnect()


if __name__ == "__main__":
    Relay(sys.argv[1], sys.stdin.fileno(), sys.stdout.fileno()).run()

"""Runs a command to its end: here, in a container, or on another host over ssh. Knows nothing of what it asks.

There is no shell on this side. ssh hands what follows the host to a shell over there, so those words are quoted for
it; it is told never to ask for a password (ssh_config(5), BatchMode): nobody sits at dozens of prompts at once. It
may use a connection that is shared already, but leaves none behind (ControlMaster): that could keep our pipes open.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import PurePath

from routed.audit.sources import CouldNotObserve

_SSH_QUIET = ("-o", "BatchMode=yes", "-o", "ControlMaster=no")
_SSH_FAILED = 255
"""ssh's own exit status, whatever the command's would have been (ssh(1))."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_REAP_S = 1.0
ANSWER_LIMIT = 256 * 2**20
"""Bytes that an answer may have; a ToR with 10,000 routes needs less than 20 MiB."""
_CHUNK = 2**16
_LONGEST = 200
"""Characters of a program's message that are shown."""


class _TooMuchError(Exception):
    """An answer is longer than anybody wants to keep."""


@dataclass(frozen=True, slots=True)
class Command:
    """A prefix such as ``("ssh", "r1a", "sudo", "vtysh")``, to which each question adds its words."""

    prefix: tuple[str, ...]
    timeout_s: float
    limit: int = ANSWER_LIMIT
    """Bytes; what answers more is not read to its end."""
    called: str = ""
    """What people call it; empty: its words."""

    @property
    def is_ssh(self) -> bool:
        """Whether the words go through a shell on another host."""
        return PurePath(self.prefix[0]).name == "ssh"

    def words(self, *more: str) -> tuple[str, ...]:
        """Return what is run, word for word."""
        if self.is_ssh:
            return (self.prefix[0], *_SSH_QUIET, *self.prefix[1:], *map(shlex.quote, more))
        return (*self.prefix, *more)

    async def run(self, *more: str) -> str:
        """Return what the command prints; CouldNotObserve unless it ends with status 0 within time and limit.

        It runs in a session of its own: it has no terminal to ask at, and all of it can be killed.
        """
        process = await self._started(self.words(*more))
        try:
            async with asyncio.timeout(self.timeout_s):
                printed, complained = await asyncio.gather(*map(self._read, (process.stdout, process.stderr)))
                await process.wait()
        except asyncio.CancelledError:
            await _kill(process)
            raise
        except _TooMuchError:
            await _kill(process)
            raise CouldNotObserve(
                f"{self}: its answer has more than {self.limit / 2**20:g} MiB and was not read to its end; "
                "is this the right command?"
            ) from None
        except TimeoutError:
            await _kill(process)
            raise CouldNotObserve(
                f"{self}: no answer within {self.timeout_s:g} s; is it reachable? raise timeout_s if it is only slow"
            ) from None
        if process.returncode != 0:
            raise CouldNotObserve(self._failure(process.returncode, complained, printed))
        return printed.decode(errors="replace")

    async def _read(self, stream: asyncio.StreamReader | None) -> bytes:
        """Return everything up to the end; _TooMuchError beyond the limit."""
        chunks = bytearray()
        while stream is not None and (chunk := await stream.read(_CHUNK)):
            chunks += chunk
            if len(chunks) > self.limit:
                raise _TooMuchError
        return bytes(chunks)

    async def _started(self, words: tuple[str, ...]) -> asyncio.subprocess.Process:
        starting = asyncio.create_task(
            asyncio.create_subprocess_exec(
                *words,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,
            )
        )
        try:
            return await asyncio.shield(starting)  # Python 3.11 hangs when this is cancelled half-way
        except asyncio.CancelledError:
            await _kill(await starting)
            raise
        except (OSError, ValueError) as error:  # ValueError: a null byte
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise CouldNotObserve(f"{self}: cannot be run: {reason}; is {words[0]} installed here?") from error

    def _failure(self, status: int | None, *outputs: bytes) -> str:
        text = next((last for output in outputs if (last := _last_line(output))), "it said nothing")
        how = f"was killed by signal {-status}" if status is not None and status < 0 else f"exit status {status}"
        if self.is_ssh and status == _SSH_FAILED:
            how = "ssh failed"
            if "ermission denied" in text or "erification failed" in text:
                text += f" (it never asks here: make `{shlex.join(self.words())}` work, by key, agent, known host)"
        return f"{self}: {how}: {text}"

    def __str__(self) -> str:
        """Return its name, or the prefix as one would type it."""
        return self.called or shlex.join(self.prefix)


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill a command and what it started in its session."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(TimeoutError):  # Python 3.11 also waits for who else has its output, such as a daemon
        async with asyncio.timeout(_REAP_S):
            await process.wait()


def filled(template: Sequence[str], values: Mapping[str, str]) -> tuple[str, ...]:
    """Return a command with ``{key}`` replaced in every word; other braces stay as they are.

    CouldNotObserve for a value that is used and is more than a name: whoever may name a ToR must not choose ssh's
    options, a file, or what a shell over there runs.
    """
    words = list(template)
    for key, value in values.items():
        if not _NAME.fullmatch(value) and any(f"{{{key}}}" in word for word in words):
            raise CouldNotObserve(f"{value!r} is no name that can stand in a command or path")
        words = [word.replace(f"{{{key}}}", value) for word in words]
    return tuple(words)


def _last_line(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else ""

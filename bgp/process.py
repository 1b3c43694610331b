"""The ExaBGP process: written configuration, spawned, found again, killed. Knows nothing of routes.

It is always ended by SIGKILL. ExaBGP sends a NOTIFICATION for no way of ending it, so that a kill loses nothing with
graceful restart, and SIGTERM is ignored by an ExaBGP that hangs. It runs in a session of its own: what ends the agent
(a terminal, a service manager that signals the group) does not end the routes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bgp import config, launch, relay
from bgp.errors import UnavailableError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from bgp.model import IPAddress

_T = TypeVar("_T")
ENVIRONMENT = {
    "exabgp_api_ack": "true",
    "exabgp_api_chunk": "1",
    "exabgp_api_cli": "false",  # no named pipes: the relay is the only way in
    "exabgp_api_respawn": "true",  # without it the first state change after the relay's death is a crash
    "exabgp_daemon_daemonize": "false",
    "exabgp_log_destination": "stderr",
    "exabgp_log_level": "WARNING",  # INFO is a line per route
    "exabgp_tcp_bind": "",  # listening is each neighbour's own setting
}
LOG_LIMIT = 8 << 20
"""Bytes of log beyond which a new one is begun; one older one is kept."""


class Process:
    """ExaBGP's place on this server: one run directory, at most one process."""

    def __init__(
        self, run_dir: Path, python: str = sys.executable, exabgp: str | None = None, user: str = "root"
    ) -> None:
        self._run_dir = run_dir
        self._python = python
        self._command = (exabgp,) if exabgp else (python, "-P", str(Path(launch.__file__).resolve()))
        self._user = user
        self.pid: int | None = None
        self.socket = run_dir / "relay.sock"
        self.configuration = run_dir / "exabgp.conf"
        self._pidfile = run_dir / "exabgp.pid"
        self._log = run_dir / "exabgp.log"

    def running(self) -> bool:
        """Tell whether an ExaBGP of this run directory is alive, whoever started it; note its pid."""
        with contextlib.suppress(OSError, ValueError):
            pid = int(self._pidfile.read_text())
            if str(self.configuration).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                self.pid = pid
                return True
        return False

    def write(self, sections: Iterable[str]) -> None:
        """Write the configuration, readable by nobody but ExaBGP: passwords are in it in clear.

        ExaBGP reads it as root first, as its user when it reloads. Its group is root, which may lack CAP_DAC_OVERRIDE.
        """
        relay_command = (self._python, str(Path(relay.__file__).resolve()), str(self.socket))
        new = self.configuration.with_suffix(".new")
        new.unlink(missing_ok=True)
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(config.render(sections, relay_command))
        self.own(new, 0o640)
        new.replace(self.configuration)

    def own(self, path: Path, mode: int) -> None:
        """Make a file ExaBGP's user's, of root's group; `mode` must leave out all others."""
        path.chmod(mode)
        shutil.chown(path, self._user)

    def spawn(self) -> None:
        """Start ExaBGP on the written configuration."""
        if self._log.exists() and self._log.stat().st_size > LOG_LIMIT:
            self._log.replace(self._log.with_suffix(".log.1"))
        environment = {name: value for name, value in os.environ.items() if not name.lower().startswith("exabgp")}
        environment |= ENVIRONMENT | {"exabgp_daemon_user": self._user, "PYTHONUNBUFFERED": "1"}
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            self.pid = os.posix_spawn(
                self._command[0],
                [*self._command, "server", str(self.configuration)],
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(log)
        self._pidfile.write_text(f"{self.pid}\n")

    def reload(self) -> None:
        """Ask ExaBGP to read its configuration again. It forgets that silently while any route waits to be sent."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGUSR1)

    def unsent(self, neighbor: IPAddress) -> int:
        """Return how many bytes wait for the acknowledgement of the neighbour's TCP; 0 without a session."""
        table = Path(f"/proc/{self.pid}/net/tcp{6 if neighbor.version == 6 else ''}")
        peer = _kernel_hex(neighbor)
        with contextlib.suppress(OSError):
            rows = [line.split() for line in table.read_text().splitlines()[1:]]
            return sum(int(row[4].split(":")[0], 16) for row in rows if row[2].startswith(peer) and row[3] == "01")
        return 0

    async def ended(self) -> None:
        """Wait until ExaBGP has ended by itself; OSError when that cannot be told."""
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                await _ended(pidfd)
            finally:
                os.close(pidfd)

    async def outlives(self, waited: Awaitable[_T]) -> _T:
        """Return what is waited for, which ExaBGP brings about; UnavailableError when it ends by itself before."""
        waiting, ended = asyncio.ensure_future(waited), asyncio.create_task(self.ended())
        try:
            await asyncio.wait((waiting, ended), return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done():
                raise UnavailableError("ExaBGP has ended before it could be asked anything")
            return waiting.result()
        finally:
            waiting.cancel()
            ended.cancel()

    async def kill(self) -> None:
        """End ExaBGP, whatever it does, and wait until it is gone."""
        if self.pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            pidfd = os.pidfd_open(self.pid)
            try:
                os.kill(self.pid, signal.SIGKILL)
                await _ended(pidfd)
            finally:
                os.close(pidfd)
        with contextlib.suppress(ChildProcessError):  # an adopted one is no child of ours
            os.waitpid(self.pid, 0)  # noqa: ASYNC222  it has ended: this only takes its status
        self.pid = None
        self._pidfile.unlink(missing_ok=True)


def _kernel_hex(address: IPAddress) -> str:
    """Return an address as ``/proc/net/tcp`` shows it: 32-bit words in the byte order of the machine."""
    packed = address.packed
    words = (int.from_bytes(packed[at : at + 4], sys.byteorder) for at in range(0, len(packed), 4))
    return "".join(f"{word:08X}" for word in words) + ":"


async def _ended(pidfd: int) -> None:
    """Wait until the process behind a descriptor of it has ended."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        if not select.select([pidfd], [], [], 0)[0]:
            await ended.wait()
    finally:
        loop.remove_reader(pidfd)

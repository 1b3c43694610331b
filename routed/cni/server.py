"""The agent's end of the CNI socket: takes calls from the shim, hands them to the handler, says how they ended.

Owns the socket, who may use it, how many at once and for how long, and when a queued deletion is made good. It decides
nothing about pods: that is the handler's. One call per connection; the wire form is `routed.cni.protocol`'s.

Order of things: the address is taken first (a second agent stops there; calls wait), then the queue is replayed, then
calls are answered. A deletion may also be queued later, by a shim that found a busy agent or lost the race with its
start: so the queue is looked at again and again, and an ADD first makes good what waits for the very same attachment.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import stat
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from routed.cni.errors import Code, DecodeError, Failure, code_for
from routed.cni.protocol import SIZE_LIMIT, VERSIONS, AttachmentRequest, Command, GcRequest, Request, answer, parse
from routed.threads import whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from routed.cni.queue import DeletionQueue
    from routed.cni.result import Result
    from routed.domain.workload import AttachmentId

log = structlog.get_logger(__name__)

_EVENTS = {
    Command.ADD: "cni.add",
    Command.DEL: "cni.del",
    Command.CHECK: "cni.check",
    Command.GC: "cni.gc",
    Command.STATUS: "cni.status",
}
_ROOT = 0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


class Handler(Protocol):
    """What the agent does about a call. Raises what `routed.cni.errors.CODES` knows; anything else is a bug."""

    async def add(self, request: AttachmentRequest) -> Result:
        """Attach the pod, or confirm that it is attached; return all that there is now, prevResult included."""

    async def delete(self, request: AttachmentRequest) -> None:
        """Make the attachment not exist; one that is not known is no failure."""

    async def check(self, request: AttachmentRequest) -> None:
        """Raise unless the attachment is as ``request.config.previous`` says, and works."""

    async def gc(self, request: GcRequest) -> None:
        """Make every attachment of this network not exist that ``request.valid`` does not hold."""

    async def status(self, request: Request) -> None:
        """Raise unless an ADD could be served."""


class AddressInUseError(Exception):
    """Another process serves this socket, or the path holds something that is no socket."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much the server takes on."""

    calls: int = 256
    """At once; further ones wait in the kernel."""
    transfer_s: float = 10.0
    """For the request to arrive whole, and for the answer to be taken."""
    replay_s: float = 30.0
    """Between two looks at the queue."""
    replayed: int = 16
    """Queued deletions at once."""


class Server:
    """Serves a handler on a unix socket."""

    def __init__(self, path: Path, handler: Handler, queue: DeletionQueue, limits: Limits | None = None) -> None:
        self._path = path
        self._handler = handler
        self._queue = queue
        self._limits = limits or Limits()
        self._replaying = asyncio.Lock()
        self.ready = asyncio.Event()
        """Set once calls are answered."""

    async def serve(self) -> None:
        """Replay the queue, then answer calls until cancelled; calls in progress are cancelled, too.

        Raises AddressInUseError when somebody else does.
        """
        with _listening(self._path) as listener:
            await self._replay()
            self.ready.set()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._keep_replaying())
                slots = asyncio.Semaphore(self._limits.calls)
                while True:
                    await slots.acquire()
                    connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                    group.create_task(self._serve(connection)).add_done_callback(lambda _: slots.release())

    async def _serve(self, connection: socket.socket) -> None:
        """Take one call, answer it, and log how it went when nobody waits any more: the shim reads up to the end."""
        with connection:
            uid = _peer_uid(connection)
            if uid != _ROOT:
                log.warning("cni.refused", uid=uid)
                return
            started = time.monotonic()
            request: Request | None = None
            outcome: Result | Failure | None
            bug: Exception | None
            try:
                request = parse(await self._receive(connection))
                outcome, bug = await self._dispatch(request), None
            except Exception as error:  # noqa: BLE001 - the boundary where every failure gets its number
                outcome, bug = _failed(error)
            version = request.config.version if request else VERSIONS[-1]
            delivered = await self._send(connection, answer(version, outcome))
        _report(request, outcome, bug, duration_s=time.monotonic() - started, delivered=delivered)

    async def _receive(self, connection: socket.socket) -> bytes:
        loop, received = asyncio.get_running_loop(), bytearray()
        try:
            async with asyncio.timeout(self._limits.transfer_s):
                while chunk := await loop.sock_recv(connection, 1 << 16):
                    received += chunk
                    if len(received) > SIZE_LIMIT:
                        break
        except (TimeoutError, ConnectionError) as error:
            raise DecodeError("the request did not arrive whole") from error
        return bytes(received)

    async def _send(self, connection: socket.socket, message: bytes) -> bool:
        """Send the answer; False when nobody takes it (the runtime then repeats the call, or deletes)."""
        try:
            with contextlib.suppress(BlockingIOError):
                message = message[connection.send(message) :]
            if message:
                async with asyncio.timeout(self._limits.transfer_s):
                    await asyncio.get_running_loop().sock_sendall(connection, message)
        except (TimeoutError, ConnectionError):
            return False
        return True

    async def _dispatch(self, request: Request) -> Result | None:
        match request:
            case AttachmentRequest(command=Command.ADD, attachment=attachment):
                if self._queue.holds(attachment):
                    await self._replay(attachment)
                return await self._handler.add(request)
            case AttachmentRequest(command=Command.DEL, attachment=attachment):
                await self._handler.delete(request)
                await whole(asyncio.to_thread(self._queue.discard, attachment))  # many pods may end at once
            case AttachmentRequest():
                await self._handler.check(request)
            case GcRequest():
                await self._handler.gc(request)
            case _:
                await self._handler.status(request)
        return None

    async def _keep_replaying(self) -> None:
        while True:
            await asyncio.sleep(self._limits.replay_s)
            try:
                await self._replay()
            except OSError as error:  # of the folder itself, which may be well again at the next look
                log.error("cni.queue.unreadable", file=error.filename, reason=error.strerror)  # noqa: TRY400 - says it

    async def _replay(self, only: AttachmentId | None = None) -> None:
        """Make queued deletions good, one round at a time: an ADD must not overtake what is queued for its attachment.

        One that fails stays queued, and fails the ADD that waits for it.
        """
        async with self._replaying:
            pending, slots = self._queue.pending(), asyncio.Semaphore(self._limits.replayed)
            async with asyncio.TaskGroup() as group:
                for request in pending:
                    if only is None or request.attachment == only:
                        group.create_task(self._make_good(request, slots))
        if only is not None and self._queue.holds(only):
            raise TimeoutError(f"an earlier deletion of {only} is not done yet")

    async def _make_good(self, request: AttachmentRequest, slots: asyncio.Semaphore) -> None:
        async with slots:
            started = time.monotonic()
            outcome: Failure | None = None
            bug: Exception | None = None
            try:
                await self._dispatch(request)
            except Exception as error:  # noqa: BLE001 - one deletion that fails must not keep the others, or the agent
                outcome, bug = _failed(error)
            _report(request, outcome, bug, duration_s=time.monotonic() - started, queued=True)


def _peer_uid(connection: socket.socket) -> int:
    """Return the user on the other end, as the kernel recorded it (unix(7), SO_PEERCRED)."""
    _, uid, _ = _CREDENTIALS.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def _failed(error: Exception) -> tuple[Failure, Exception | None]:
    """Return what the runtime is told, and the error itself when it is a bug."""
    failure = code_for(error)
    return failure, error if failure.code is Code.BUG else None


def _report(
    request: Request | None, outcome: Result | Failure | None, bug: Exception | None, **fields: float | bool
) -> None:
    """Log one call; a traceback only for a bug."""
    event = _EVENTS[request.command] if request else "cni.invalid"
    fields["duration_s"] = round(fields["duration_s"], 6)
    whose: dict[str, str] = {}
    if isinstance(request, AttachmentRequest):
        container_id, ifname = request.attachment.container_id, request.attachment.ifname
        whose = {"container_id": container_id, "ifname": ifname, "pod": str(request.pod)}
    if not isinstance(outcome, Failure):
        log.info(event, **fields, **whose)
    elif bug is None:
        log.warning(event, code=int(outcome.code), error=outcome.msg, details=outcome.details, **fields, **whose)
    else:
        log.error(event, code=int(outcome.code), exc_info=bug, **fields, **whose)


@contextlib.contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Listen for root alone; what a dead agent left at the path gives way, a living one does not."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as listener:
        _clear(path)
        listener.bind(str(path))
        path.chmod(0o600)  # nobody can have connected before the next line
        listener.listen(socket.SOMAXCONN)
        yield listener


def _clear(path: Path) -> None:
    """Remove a socket that nobody listens on."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise AddressInUseError(f"{path} is no socket; move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except BlockingIOError as error:
            raise AddressInUseError(f"{path}: another agent serves it, and is busy") from error
        else:
            raise AddressInUseError(f"{path}: another agent serves it")

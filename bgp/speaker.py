"""The advertisements plane: keeps one ExaBGP alive and its neighbours told exactly what is desired.

Owns the ExaBGP of one run directory. Never sends a NOTIFICATION, never withdraws what it was not asked to, never lets
an End-of-RIB out before everything desired is on the wire (RFC 4724 section 4.1: it would make the neighbours drop
the rest).

Unlike other planes it remembers what it was asked for: an ExaBGP that crashed or hangs is replaced and given
everything again within the hold time, faster than a pass of the loop. An agent that restarts leaves ExaBGP alone; the
next one finds it by the relay's connection, sessions untouched, and learns from adj-rib-out what is announced. See
`bgp.adjacency` for the order of commands, `bgp.conversation` for who may speak when, `bgp.rollout` for changes of the
configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING

import structlog

from bgp import config, rollout, text
from bgp.channel import LINE_LIMIT
from bgp.conversation import Conversation
from bgp.errors import BgpError, InvalidRouteError, RejectedError, UnavailableError
from bgp.model import Attributes, IPAddress, NeighborStatus, RouteKey, SpeakerConfig
from bgp.process import Process
from bgp.session import Session

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

PATIENCE_S = 10.0
"""How long a call waits for an ExaBGP that takes it."""
CONNECT_S = 5.0
"""How long the relay of an ExaBGP that is adopted may take to connect: it tries every 50 ms."""
START_S = 60.0
"""How long one that is started may take. It may have sessions before it has a relay: to end it then is a second restart
in a row, at which neighbours drop what they kept over the first one (RFC 4724 section 4.2)."""
LONGEST_PAUSE_S = 5.0
"""Between two ExaBGPs that die young, and between two tries to end one."""
STABLE_S = 30.0
"""An ExaBGP that lived so long did not die of what it was given."""

log = structlog.get_logger()


class Speaker:
    """ExaBGP as a plane: `RouteKey` to `Attributes`."""

    name = "advertisements"
    streams = False

    def __init__(  # noqa: PLR0913  the executables and the user are for images and tests
        self,
        configuration: SpeakerConfig,
        run_dir: Path,
        wake: Callable[[], None],
        *,
        python: str = sys.executable,
        exabgp: str | None = None,
        user: str = "root",
    ) -> None:
        self._config = configuration
        self._run_dir = run_dir
        self._wake = wake
        self._process = Process(run_dir, python, exabgp, user)
        self._sessions = {neighbor.address: Session(neighbor) for neighbor in configuration.neighbors}
        self._connections: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self._conversation: Conversation | None = None
        self._ready = asyncio.Event()
        self._waiting: list[tuple[set[RouteKey], asyncio.Event]] = []
        self._authoritative = False
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id of the ExaBGP at work, None while there is none."""
        return self._process.pid

    async def start(self) -> None:
        """Begin: adopt the ExaBGP that runs, or start one. Returns at once; the other calls wait for it."""
        self._run_dir.mkdir(mode=0o711, parents=True, exist_ok=True)
        self._process.socket.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(
            lambda reader, writer: self._connections.put_nowait((reader, writer)),
            self._process.socket,
            limit=LINE_LIMIT,
        )
        self._process.own(self._process.socket, 0o600)
        self._task = asyncio.create_task(self._supervise(), name="bgp-speaker")

    async def ended(self) -> None:
        """Wait until this speaker was stopped; raises what ended it by itself, which is a mistake of ours.

        Somebody has to wait: calls fail from then on, and an ExaBGP that dies is not replaced.
        """
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled():
                self._task.result()

    async def stop(self) -> None:
        """End this speaker and leave ExaBGP, its sessions and all routes alone: for a restart of the agent."""
        if self._server is not None:
            self._server.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        while not self._connections.empty():
            self._connections.get_nowait()[1].close()

    async def drain(self, timeout_s: float = 30.0) -> None:
        """Withdraw everything, wait until every neighbour with a session was told, then end ExaBGP and this speaker.

        Told means: written, and acknowledged by the neighbour's TCP. UnavailableError when that takes longer; ExaBGP
        and this speaker then go on, with nothing desired.
        """
        try:
            async with asyncio.timeout(timeout_s):
                conversation = await self._attached()
                for session in self._sessions.values():
                    session.adjacency.want_nothing()
                conversation.kick()
                while not all(self._drained(session) for session in self._sessions.values()):
                    conversation = await self._attached()
                    with contextlib.suppress(UnavailableError):  # replaced meanwhile: look again
                        await conversation.ask(text.HEARTBEAT)
        except TimeoutError as error:
            raise UnavailableError(
                f"not every neighbour was told within {timeout_s} s that all routes are gone"
            ) from error
        await self.stop()
        await self._kill()

    def _drained(self, session: Session) -> bool:
        adjacency = session.adjacency
        if adjacency.held or not adjacency.complete():
            return False
        return not session.established or not (adjacency.wire or self._process.unsent(session.neighbor.address))

    def authoritative(self) -> None:
        """Declare that what was asked for so far is everything: from now on End-of-RIB may leave."""
        self._authoritative = True
        if self._conversation is not None:
            self._conversation.authoritative = True
            self._conversation.kick()

    def neighbors(self) -> Mapping[IPAddress, NeighborStatus]:
        """Return the state of every session."""
        return {address: session.status() for address, session in self._sessions.items()}

    async def observe(self) -> Mapping[RouteKey, Attributes]:
        """Return ExaBGP's adj-rib-out. UnavailableError when no ExaBGP answers in time."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                rows = await (await self._attached()).ask(text.SHOW_ROUTES)
        except TimeoutError as error:
            raise UnavailableError("ExaBGP does not answer") from error
        if rows is None:
            raise UnavailableError("ExaBGP does not show its routes")
        routes = map(text.parse_route, rows)
        return {RouteKey(address, prefix): value for address, prefix, value in routes if address in self._sessions}

    async def upsert(self, items: Mapping[RouteKey, Attributes]) -> Mapping[RouteKey, Exception]:
        """Announce these routes with these attributes; returns when ExaBGP has taken them.

        They stay desired when that takes too long (UnavailableError) and are sent as soon as there is an ExaBGP. They
        do not when they are refused: InvalidRouteError for a next hop of the other family or an unknown neighbour,
        RejectedError when ExaBGP says no.
        """
        failures: dict[RouteKey, Exception] = {}
        for key, attributes in items.items():
            if key.neighbor not in self._sessions:
                failures[key] = InvalidRouteError(f"{key}: no such neighbour is configured")
            elif key.prefix.version != attributes.next_hop.version:
                failures[key] = InvalidRouteError(f"{key}: next hop {attributes.next_hop} is of the other family")
        failures |= await self._want({key: value for key, value in items.items() if key not in failures})
        return _unless_all(failures, len(items))

    async def remove(self, keys: Collection[RouteKey]) -> Mapping[RouteKey, Exception]:
        """Withdraw these routes; returns when ExaBGP has taken it. One that is not there is no failure."""
        return _unless_all(await self._want({key: None for key in keys if key.neighbor in self._sessions}), len(keys))

    async def _want(self, items: Mapping[RouteKey, Attributes | None]) -> dict[RouteKey, Exception]:
        """Set what is desired and wait until ExaBGP took it or said no."""
        for key, attributes in items.items():
            self._sessions[key.neighbor].adjacency.want(key.prefix, attributes)
        waiting = {key for key in items if not self._sessions[key.neighbor].adjacency.settled(key.prefix)}
        settled = asyncio.Event()
        entry = (waiting, settled)
        self._waiting.append(entry)
        try:
            if self._conversation is not None:
                self._conversation.kick()
            if waiting:
                async with asyncio.timeout(PATIENCE_S):
                    await settled.wait()
        except TimeoutError:
            return {key: UnavailableError(f"{key}: no ExaBGP took it in time") for key in waiting}
        finally:
            self._waiting.remove(entry)
        refused = (key for key in items if self._sessions[key.neighbor].adjacency.is_refused(key.prefix))
        return {key: RejectedError(f"{key}: ExaBGP refuses {items[key]}") for key in refused}

    async def _connected(self) -> Conversation:
        """Wait for the relay of the ExaBGP that is meant; one that dies with its ExaBGP may have knocked once more."""
        while True:
            conversation = Conversation(
                self._sessions, await self._connections.get(), self._on_settled, on_session=self._wake
            )
            try:
                if await conversation.greet() == self._process.pid:
                    return conversation
            except (BgpError, OSError) as error:
                log.debug("relay.refused", reason=str(error))
            conversation.close()

    def _on_settled(self, key: RouteKey) -> None:
        for waiting, settled in self._waiting:
            waiting.discard(key)
            if not waiting:
                settled.set()

    async def _attached(self) -> Conversation:
        """Wait for an ExaBGP that can be asked."""
        while True:
            await self._ready.wait()
            if self._conversation is not None:
                return self._conversation

    async def _supervise(self) -> None:
        """Keep an ExaBGP: first the one that runs, then one after the other."""
        loop = asyncio.get_running_loop()
        pause = 0.0
        adopt = self._process.running()
        while True:
            began = loop.time()
            try:
                await self._serve(adopt=adopt)
            except* (BgpError, OSError) as lost:
                log.warning("exabgp.lost", pid=self._process.pid, reasons=[repr(error) for error in _leaves(lost)])
            await self._kill()
            for session in self._sessions.values():
                session.forget("ExaBGP was lost")
            self._wake()
            adopt = False
            pause = 0.0 if loop.time() - began > STABLE_S else pause
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE_S, pause * 2 or 0.1)

    async def _kill(self) -> None:
        """End ExaBGP, try after try: the next one beside it would fight it for the sessions."""
        while True:
            try:
                return await self._process.kill()
            except OSError as error:
                log.error("exabgp.stays", pid=self._process.pid, error=str(error))  # noqa: TRY400 - the error says it
            await asyncio.sleep(LONGEST_PAUSE_S)

    async def _serve(self, *, adopt: bool) -> None:
        """Work with one ExaBGP until it is lost, which raises."""
        sections = config.sections(self._config)
        if not adopt:
            self._process.write(sections.values())
            self._process.spawn()
        async with asyncio.timeout(CONNECT_S if adopt else START_S):
            conversation = await self._process.outlives(self._connected())
        log.info("exabgp.adopted" if adopt else "exabgp.spawned", pid=self._process.pid)
        conversation.authoritative = self._authoritative
        self._conversation = conversation
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(conversation.run(self._config.hold_time_s))
                await conversation.ready.wait()
                self._ready.set()
                if adopt:
                    group.create_task(rollout.roll(sections, self._process, self._sessions, conversation.ask))
        finally:
            self._ready.clear()
            self._conversation = None


def _unless_all(failures: dict[RouteKey, Exception], asked: int) -> dict[RouteKey, Exception]:
    """Return the failures; raise the first one when nothing but failures came of it."""
    if failures and len(failures) == asked:
        raise next(iter(failures.values()))
    return failures


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    """Return the plain exceptions in a group of groups."""
    return [
        leaf
        for error in group.exceptions
        for leaf in (_leaves(error) if isinstance(error, BaseExceptionGroup) else [error])
    ]

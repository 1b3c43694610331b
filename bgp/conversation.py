"""The work with one ExaBGP, from the relay's first line until it is lost: routes given, questions asked, life watched.

One task does all the asking. Routes flow as long as nobody asks a question; a question waits until all routes on their
way are answered and then has ExaBGP for itself. An End-of-RIB is such a question, and the least urgent one: it leaves
when everything desired is on the wire and nothing else is to be done.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from functools import partial
from itertools import groupby, islice
from typing import TYPE_CHECKING

import structlog

from bgp import events, text
from bgp.channel import Channel
from bgp.errors import UnavailableError
from bgp.model import Attributes, IPAddress, IPNetwork, RouteKey

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bgp.adjacency import Command
    from bgp.session import Session

WINDOW = 200
"""Routes on their way at once; ExaBGP takes quadratic time over a longer queue."""

_Given = list[tuple["Session", list["Command"]]]
"""What one line told: commands, by the session of the neighbour that they are for."""

log = structlog.get_logger()


class Conversation:
    """One ExaBGP's lifetime on one connection. The sessions outlive it, and are told of all that happens."""

    def __init__(
        self,
        sessions: Mapping[IPAddress, Session],
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        on_settled: Callable[[RouteKey], None],
        on_session: Callable[[], None],
    ) -> None:
        self._sessions = sessions
        self._channel = Channel(*connection, self._on_event)
        self._on_settled = on_settled
        self._on_session = on_session
        self._kick = asyncio.Event()
        self._questions: deque[tuple[str, asyncio.Future[list[str] | None]]] = deque()
        self._closed = False
        self._doubt = False
        self._cautious = 0
        self._on_their_way = 0
        self.authoritative = False
        """Whether all that is desired is known, so that an End-of-RIB would be true."""
        self.ready = asyncio.Event()
        """Set once it is known what ExaBGP holds."""

    async def greet(self) -> int:
        """Wait for the relay; return the process id of the ExaBGP that runs it."""
        await self._channel.greet()
        return self._channel.exabgp

    async def run(self, hold_time_s: float) -> None:
        """Work until ExaBGP is lost, which raises: OSError when it ended, UnavailableError when it hangs."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._channel.receive())
                group.create_task(self._watch(hold_time_s / 9))
                await self._introduce()
                self.ready.set()
                group.create_task(self._work())
        finally:
            self.close()

    def close(self) -> None:
        """End the conversation; what was asked and is asked from now on stays without an answer."""
        self.ready.clear()
        self._closed = True
        self._channel.close()
        for _line, answer in self._questions:
            answer.cancel()

    def kick(self) -> None:
        """Say that there may be something to do."""
        self._kick.set()

    async def ask(self, line: str) -> list[str] | None:
        """Ask ExaBGP something between the routes; None when it answers ``error``, UnavailableError when it is lost."""
        answer = self._enqueue(line)
        await asyncio.wait([answer])
        if answer.cancelled():
            raise UnavailableError("ExaBGP was lost while it was asked")
        return answer.result()

    def _enqueue(self, line: str) -> asyncio.Future[list[str] | None]:
        answer: asyncio.Future[list[str] | None] = asyncio.get_running_loop().create_future()
        self._questions.append((line, answer))
        self._kick.set()
        if self._closed:
            answer.cancel()
        return answer

    async def _introduce(self) -> None:
        """Learn what this ExaBGP runs and holds."""
        generations = text.parse_generations(await self._channel.ask(text.SHOW_CONFIGURATION) or [])
        for state in events.parse_sessions(await self._channel.ask(text.SHOW_SESSIONS) or []):
            session = self._sessions.get(state.neighbor)
            if session is not None and state.established and not session.established:
                session.negotiated(state.versions)
                session.up(state.age_s)
        for address, prefix in map(text.parse_received, await self._channel.ask(text.SHOW_RECEIVED) or ()):
            session = self._sessions.get(address)
            if session is not None and session.established and not prefix.prefixlen:
                session.received(frozenset({prefix.version}), frozenset())
        self._on_session()
        for address, session in self._sessions.items():
            session.configured = address in generations
        await self._reread(foreign=True)

    async def _reread(self, *, foreign: bool) -> None:
        held: dict[IPAddress, dict[IPNetwork, Attributes]] = {address: {} for address in self._sessions}
        for address, prefix, attributes in map(text.parse_route, await self._channel.ask(text.SHOW_ROUTES) or ()):
            if address in held:
                held[address][prefix] = attributes
        for address, session in self._sessions.items():
            session.adjacency.reread(held[address], foreign=foreign)
            for prefix in session.adjacency.wanted:
                if session.adjacency.settled(prefix):
                    self._on_settled(RouteKey(address, prefix))

    async def _work(self) -> None:
        """Give routes as long as nobody asks; ask when all routes are answered."""
        while True:
            self._kick.clear()
            if not self._questions and not self._doubt:
                self._give()
            if self._channel.waiting or not await self._one_question():
                await self._kick.wait()

    def _give(self) -> None:
        """Give what is due; neighbours that are to be told the same are told in one line, which ExaBGP parses once."""
        window = 1 if self._cautious else WINDOW
        lines: defaultdict[tuple[bool, Attributes, tuple[IPNetwork, ...]], _Given] = defaultdict(list)
        for session in self._sessions.values():
            if session.configured:
                due = list(islice(iter(session.adjacency.next, None), window - self._on_their_way))
                for (announces, attributes), alike in groupby(due, lambda one: (one.announces, one.attributes)):
                    commands = list(alike)
                    prefixes = tuple(command.prefix for command in commands)
                    lines[announces, attributes, prefixes].append((session, commands))
                self._on_their_way += len(due)
        for (announces, attributes, prefixes), given in lines.items():
            verb = text.announce if announces else text.withdraw
            line = verb([session.neighbor.address for session, _ in given], prefixes, attributes)
            self._channel.give(line, partial(self._on_answer, given))
        self._channel.flush()

    async def _one_question(self) -> bool:
        """Ask ExaBGP the most urgent thing that is not a route; tell whether there was one."""
        if self._doubt:
            self._doubt = False
            await self._reread(foreign=False)
        elif self._questions:
            line, answer = self._questions[0]
            result = await self._channel.ask(line)
            self._questions.popleft()
            if not answer.done():
                answer.set_result(result)
        elif self.authoritative:
            due = [
                (address, version) for address, session in self._sessions.items() for version in session.end_of_rib()
            ]
            for address, version in due:
                await self._channel.ask(text.end_of_rib(address, version))
            return bool(due)
        else:
            return False
        return True

    def _on_answer(self, given: _Given, ok: bool) -> None:
        """Note an answer to commands that were given in one line.

        An ``error`` may belong to any of the lines on their way. So adj-rib-out is read again once all are answered,
        and what is missing then is tried one by one, where an ``error`` is about the one.
        """
        answered = [(session, command) for session, commands in given for command in commands]
        self._on_their_way -= len(answered)
        if ok:
            for session, command in answered:
                session.adjacency.taken(command)
        elif self._cautious and not self._doubt:
            ((session, command),) = answered
            log.error("route.rejected", neighbor=session.neighbor.name, prefix=str(command.prefix))
            session.adjacency.refused(command.prefix)
        else:
            self._doubt = True
            self._cautious = 2 * WINDOW
        self._cautious = max(0, self._cautious - len(answered))
        for session, command in () if self._doubt else answered:
            if session.adjacency.settled(command.prefix):
                self._on_settled(RouteKey(session.neighbor.address, command.prefix))
        self._kick.set()

    def _on_event(self, event: events.Event) -> None:
        session = None if isinstance(event, events.RelayConnected) else self._sessions.get(event.neighbor)
        if session is None:
            return
        match event:
            case events.UpdateSent(announced=announced, withdrawn=withdrawn):
                session.updates_sent += 1
                session.adjacency.sent(announced, withdrawn)
            case events.DefaultsReceived(given=given, taken=taken):
                if session.received(given, taken):
                    self._on_session()
            case events.EndOfRibSent(version=version):
                session.ended(version)
                log.info("end_of_rib.sent", neighbor=session.neighbor.name, family=f"ipv{version}")
            case events.Negotiated(versions=versions):
                session.negotiated(versions)
            case events.SessionUp():
                session.up()
                log.info("session.up", neighbor=session.neighbor.name)
                self._on_session()
            case events.SessionDown(reason=reason):
                if session.down(reason):
                    log.warning("session.down", neighbor=session.neighbor.name, reason=reason)
                    self._on_session()
        self._kick.set()

    async def _watch(self, interval_s: float) -> None:
        """Raise UnavailableError when ExaBGP is silent for three intervals, whatever the reason."""
        silent = 0
        while silent < 3:
            heard = self._channel.heard
            if not self._channel.waiting and not self._questions:
                self._enqueue(text.HEARTBEAT)
            await asyncio.sleep(interval_s)
            silent = silent + 1 if self._channel.heard == heard else 0
            for session in self._sessions.values():
                session.adjacency.tick()
            self._kick.set()
        raise UnavailableError(f"ExaBGP did not answer for {3 * interval_s:.1f} s")

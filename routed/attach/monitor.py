"""Tells who wants to know that devices or neighbours changed in this server's namespace.

Events are hints: a subscriber that hears ``None`` has missed some and must look for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Self

import structlog

from routed.attach.answers import Event
from routed.attach.errors import KernelError
from routed.attach.kernel import RtnlEvents

_log = structlog.get_logger()


class Monitor:
    """One socket, any number of subscribers; listens while its context is entered."""

    def __init__(self) -> None:
        self._subscribers: list[Callable[[Event | None], None]] = []
        self._events: RtnlEvents | None = None

    def subscribe(self, callback: Callable[[Event | None], None]) -> None:
        """Call back in the event loop for every event, and with None when events were lost."""
        self._subscribers.append(callback)

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._close()

    def _open(self) -> None:
        self._events = RtnlEvents()
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._readable, self._events)

    def _close(self) -> None:
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()
            self._events = None

    def _readable(self, source: RtnlEvents) -> None:
        try:
            events: list[Event | None] = list(source.read())
        except KernelError as error:
            _log.warning("netlink.events_lost", error=str(error))
            self._close()
            self._open()
            events = [None]
        for event in events:
            for subscriber in self._subscribers:
                subscriber(event)

"""An executing plane: a dictionary that can be cut off, damaged and made to refuse keys."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any


class DictPlane:
    def __init__(self, name: str, log: list[tuple[str, str, Any]] | None = None) -> None:
        self.name = name
        self.streams = False
        self.held: dict[Any, Any] = {}
        self.refused: dict[Any, Exception] = {}
        self.kept: dict[Any, Exception] = {}
        """Keys that cannot be removed."""
        self.blind: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.batches: list[frozenset[Any]] = []
        self.log = log if log is not None else []
        self.busy = False

    async def observe(self) -> Mapping[Any, Any]:
        async with self._call():
            if self.blind:
                raise self.blind
            return dict(self.held)

    async def upsert(self, items: Mapping[Any, Any]) -> Mapping[Any, Exception]:
        self.batches.append(frozenset(items))
        failures = {}
        async with self._call():
            for key, value in items.items():
                if key in self.refused:
                    failures[key] = self.refused[key]
                else:
                    self.held[key] = value
                    self.log.append(("upsert", self.name, key))
        return failures

    async def remove(self, keys: Collection[Any]) -> Mapping[Any, Exception]:
        async with self._call():
            for key in [key for key in keys if key not in self.kept]:
                self.held.pop(key, None)
                self.log.append(("remove", self.name, key))
        return {key: self.kept[key] for key in keys if key in self.kept}

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[None]:
        assert not self.busy, "a plane is called by one task at a time"
        self.busy = True
        try:
            await self.gate.wait()
            yield
        finally:
            self.busy = False

"""Agents' own exports: asked by a command that ends in ``routed audit export``, or from files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from routed.audit.export import ExportError, decode
from routed.audit.model import ServerView, Unobserved
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.command import Command


@dataclass(frozen=True, slots=True)
class AgentByCommand:
    """The agent of one server, asked where it runs."""

    name: str
    command: Command

    async def observe(self) -> ServerView:
        """Return what it exports; CouldNotObserve."""
        return read(await self.command.run(), str(self.command), self.name)


@dataclass(frozen=True, slots=True)
class AgentByFile:
    """What the agent of one server exported at some time, in a file."""

    name: str
    path: Path

    async def observe(self) -> ServerView:
        """Return what the file says; CouldNotObserve."""
        try:
            text = self.path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CouldNotObserve(f"{self.path}: {error}") from error
        return read(text, str(self.path), self.name)


def read(text: str, where: str, server: str) -> ServerView:
    """Return what an export says; CouldNotObserve unless it is one, of this server, and the agent could tell."""
    try:
        view = decode(json.loads(text))
    except ValueError as error:
        raise CouldNotObserve(f"{where}: not JSON: {error}") from error
    except ExportError as error:
        raise CouldNotObserve(f"{where}: {error}") from error
    if isinstance(view, Unobserved):
        raise CouldNotObserve(f"{where}: the agent answers: {view.reason}")
    if view.server != server:
        raise CouldNotObserve(f"{where}: this is server {view.server}, not {server}; check the command")
    return view

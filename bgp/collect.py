"""Asks one switch for its routes by peering with it: everything it sends until End-of-RIB, then the session ends.

A speaker of its own, in a folder of its own, that announces nothing and only connects outwards: whoever else peers from
this host is not disturbed. The whole table is known when the switch has sent End-of-RIB for every family that was asked
for (RFC 4724 section 2; that is why graceful restart is offered); before that nothing is returned.
"""

from __future__ import annotations

import asyncio
import json
import os
import pwd
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bgp import config, events
from bgp.channel import LINE_LIMIT
from bgp.errors import ProtocolError, UnavailableError
from bgp.process import Process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from bgp.model import IPAddress, IPNetwork, SpeakerConfig

_EOR_VERSIONS = {"ipv4": 4, "ipv6": 6}


@dataclass(frozen=True, slots=True)
class Received:
    """What a switch said of one prefix: its best path."""

    next_hops: tuple[IPAddress, ...]
    as_path: tuple[int, ...]
    communities: frozenset[str]
    """``a:b`` and ``a:b:c``."""


async def collect(speaker: SpeakerConfig, versions: frozenset[int], *, timeout_s: float) -> dict[IPNetwork, Received]:
    """Return what the only neighbour of this configuration sends, of these IP versions; it must listen.

    UnavailableError unless it has sent all of it in time, ProtocolError when it cannot be understood.
    """
    table = _Table(versions)
    try:
        async with asyncio.timeout(timeout_s), _running(speaker) as lines:
            while not table.complete:
                line = await lines.readline()
                if not line:
                    raise UnavailableError("ExaBGP has ended")
                table.hear(line)
    except TimeoutError:
        raise UnavailableError(f"{table.lack()} within {timeout_s:g} s") from None
    except OSError as error:
        raise UnavailableError(f"ExaBGP cannot be run: {error}") from error
    except ValueError as error:  # a line beyond the limit
        raise ProtocolError(f"not an event: {error}") from error
    return table.routes


class _Table:
    """What has arrived of a neighbour's table."""

    def __init__(self, versions: frozenset[int]) -> None:
        self.routes: dict[IPNetwork, Received] = {}
        self._wanted = versions
        self._ended: set[int] = set()
        self._up = False
        self._reason = ""

    @property
    def complete(self) -> bool:
        return self._up and self._ended >= self._wanted

    def lack(self) -> str:
        """Return what has not come, for people."""
        if not self._up:
            return f"no session{f' ({self._reason})' if self._reason else ''}"
        missing = " and ".join(f"IPv{version}" for version in sorted(self._wanted - self._ended))
        return f"no End-of-RIB for {missing} unicast"

    def hear(self, line: bytes) -> None:
        """Take note of one event."""
        event = events.parse(line)
        if isinstance(event, events.Negotiated) and not event.versions >= self._wanted:
            lacking = " and ".join(f"IPv{version}" for version in sorted(self._wanted - event.versions))
            raise UnavailableError(f"the switch does not speak {lacking} unicast in this session")
        if isinstance(event, events.SessionUp):
            self._up = True
        elif isinstance(event, events.SessionDown):  # what came so far is void
            self._up, self._reason = False, event.reason
            self.routes.clear()
            self._ended.clear()
        else:
            self._take(json.loads(line))

    def _take(self, document: Mapping[str, Any]) -> None:
        body = document.get("neighbor", {})
        if document["type"] != "update" or body.get("direction") != "receive":
            return
        try:
            message = body["message"]
            if "eor" in message:
                self._ended.add(_EOR_VERSIONS[message["eor"]["afi"]])
            else:
                self._update(message["update"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ProtocolError(f"not an UPDATE: {document!r:.500}") from error

    def _update(self, update: Mapping[str, Any]) -> None:
        for gone in update.get("withdraw", {}).values():
            for route in gone:
                self.routes.pop(ip_network(route["nlri"]), None)
        said = update.get("attribute", {})
        path = tuple(number for _, part in sorted(said.get("as-path", {}).items()) for number in part["value"])
        communities = frozenset(
            ":".join(map(str, numbers)) for kind in ("community", "large-community") for numbers in said.get(kind, ())
        )
        for hops in update.get("announce", {}).values():
            for hop, routes in hops.items():
                received = Received((ip_address(hop),), path, communities)
                self.routes.update((ip_network(route["nlri"]), received) for route in routes)


@asynccontextmanager
async def _running(speaker: SpeakerConfig) -> AsyncIterator[asyncio.StreamReader]:
    """Run ExaBGP, yield the events that it tells, and leave nothing of it."""
    heard: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not heard.done():
            heard.set_result((reader, writer))

    with TemporaryDirectory(prefix="collect-") as folder:
        process = Process(Path(folder), user=pwd.getpwuid(os.geteuid()).pw_name)
        server = await asyncio.start_unix_server(connected, process.socket, limit=LINE_LIMIT)
        process.write(config.sections(replace(speaker, listen_port=None)).values())
        try:
            process.spawn()
            reader, writer = await process.outlives(heard)
            try:
                yield reader
            finally:
                writer.close()
        finally:
            await process.kill()
            server.close()

"""A connection to the Open vSwitch database for somebody who looks once, and does not wait for long."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ovs_flows.ovsdb import Ovsdb
from routed.doctor.facts import Unseen

_PATIENCE_S = 3.0


@asynccontextmanager
async def database(socket: Path, bridge: str, uplink: str) -> AsyncIterator[Ovsdb | Unseen]:
    """Connect; Unseen when nothing listens or answers."""
    try:
        _, writer = await asyncio.open_unix_connection(socket)
    except OSError as error:
        yield Unseen(f"{socket}: {error.strerror}")
        return
    writer.close()
    await writer.wait_closed()
    connected = asyncio.Event()
    ovsdb = Ovsdb(socket, bridge, uplink, connected.set)
    connection = asyncio.create_task(ovsdb.run())
    try:
        try:
            await asyncio.wait_for(connected.wait(), _PATIENCE_S)
        except TimeoutError:
            yield Unseen(f"the database at {socket} does not answer")
        else:
            yield ovsdb
    finally:
        connection.cancel()
        await asyncio.wait((connection,))

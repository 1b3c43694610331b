"""A changed configuration, brought to a running ExaBGP neighbour by neighbour.

A restart would be simpler and, with graceful restart, harmless, but it resets every session at once, and not every switch
helps a restarting speaker. A reload (SIGUSR1) resets exactly the sessions whose section changed. So the file is changed
one section at a time, and the next one waits until the neighbour before it is back and was told everything: a change that
a neighbour does not survive never reaches the second. Neighbours that are down go first: they have nothing to lose, and
the change may be their cure.

ExaBGP forgets a reload silently while any route waits to be sent, to any neighbour. So it is asked again until it shows
the new generation. With a dead neighbour that can take until its next failed attempt to connect.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from bgp import config, text

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from bgp.model import IPAddress
    from bgp.process import Process
    from bgp.session import Session

RETRY_S = 0.1

log = structlog.get_logger()


async def roll(
    wanted: Mapping[IPAddress, str],
    process: Process,
    sessions: Mapping[IPAddress, Session],
    ask: Callable[[str], Awaitable[list[str] | None]],
) -> None:
    """Bring every neighbour to the wanted section; returns at once when all run it already."""
    written = config.split(process.configuration.read_text("ascii"))
    running = text.parse_generations(await ask(text.SHOW_CONFIGURATION) or [])
    outdated = [
        address
        for address in {**written, **dict.fromkeys(running, ""), **wanted}
        if running.get(address, "") != config.generation(wanted.get(address, ""))
    ]
    for address in sorted(outdated, key=lambda address: address in sessions and sessions[address].established):
        old = written.pop(address, "")
        if address in wanted:
            written[address] = wanted[address]
        process.write(written.values())
        if address in wanted:
            await _change(sessions[address], old, wanted[address], process, ask)
        else:
            await _apply(address, "", process, ask)
        log.info("neighbor.reconfigured", neighbor=str(address))


async def _change(
    session: Session, old: str, new: str, process: Process, ask: Callable[[str], Awaitable[list[str] | None]]
) -> None:
    """Apply one neighbour's section and, when that resets its session, wait until it was told everything again."""
    resets = session.established and config.digest(old) != config.digest(new)
    ups = session.ups
    session.configured = False
    await _apply(session.neighbor.address, config.generation(new), process, ask)
    if config.identity(old) != config.identity(new):
        session.forget("its configuration changed")
    session.configured = True
    while resets and not (session.ups > ups and session.told_everything):
        await asyncio.sleep(RETRY_S)


async def _apply(
    address: IPAddress, generation: str, process: Process, ask: Callable[[str], Awaitable[list[str] | None]]
) -> None:
    """Reload until ExaBGP shows this generation for the neighbour, empty for none."""
    while True:
        await ask(text.HEARTBEAT)  # nothing given to this neighbour is without an answer now
        process.reload()
        await asyncio.sleep(RETRY_S)
        if text.parse_generations(await ask(text.SHOW_CONFIGURATION) or []).get(address, "") == generation:
            return

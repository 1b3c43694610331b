"""A changed configuration, brought to a running ExaBGP neighbour by neighbour.

A restart would be simpler and, with graceful restart, harmless, but it resets every session at once, and not every
switch helps a restarting speaker. A reload (SIGUSR1) resets exactly the sessions whose section changed. So the file
is changed one section at a time, and the next one waits until the neighbour before it is back and was told
everything: a change that a neighbour does not survive never reaches the second. Neighbours that are down go first:
they have nothing to lose, and the change may be their cure.

ExaBGP forgets a reload silently while any route waits to be sent, to any neighbour. So it is asked again until it
shows the new generation. With a neighbour that is dead that takes until its attempt to connect has failed, two
minutes at most with Linux's defaults.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog

from bgp import config, text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bgp.model import IPAddress
    from bgp.process import Process
    from bgp.session import Session

RETRY_S = 0.1

Ask = Callable[[str], Awaitable[list[str] | None]]

log = structlog.get_logger()


async def roll(
    wanted: Mapping[IPAddress, str],
    process: Process,
    sessions: Mapping[IPAddress, Session],
    ask: Ask,
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
            while not await _apply(address, "", process, ask):
                continue
        log.info("neighbor.reconfigured", neighbor=str(address))


async def _change(session: Session, old: str, new: str, process: Process, ask: Ask) -> None:
    """Apply one neighbour's section and, when that resets its session, wait until it was told everything again."""
    resets = session.established and config.digest(old) != config.digest(new)
    renamed = config.identity(old) != config.identity(new)
    known = session.configured
    ups = session.ups
    applied = False
    while not applied:
        session.configured = False
        await ask(text.HEARTBEAT)  # nothing given to this neighbour is without an answer now
        held = session.adjacency.held
        if renamed:
            session.adjacency.reread({}, foreign=False)
        applied = await _apply(session.neighbor.address, config.generation(new), process, ask)
        if renamed and not applied:
            session.adjacency.reread(held, foreign=False)
        session.configured = known or applied
    while resets and not (session.ups > ups and session.told_everything):  # noqa: ASYNC110  rare, and of no hurry
        await asyncio.sleep(RETRY_S)


async def _apply(address: IPAddress, generation: str, process: Process, ask: Ask) -> bool:
    """Ask for a reload; tell whether ExaBGP then shows this generation for the neighbour, empty for none."""
    process.reload()
    await asyncio.sleep(RETRY_S)
    return text.parse_generations(await ask(text.SHOW_CONFIGURATION) or []).get(address, "") == generation

"""Out of the fabric, until somebody says otherwise.

Owns the mark of a drained server: a file among the agent's state, where the next agent finds it, whoever starts that
one and why (a kubelet, an upgrade, a reboot). Never touches a route: those follow the snapshot.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from bgp.errors import BgpError
from routed.control import Refusal
from routed.files import put, remove
from routed.store import Store

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Drain:
    """Whether this server is drained, and how that begins and ends."""

    mark: Path
    store: Store
    withdraw: Callable[[], Awaitable[None]]
    """Withdraws every route, waits until both ToRs were told, then ends ExaBGP; BgpError."""
    dismiss: Callable[[], None]
    """Lets the agent end."""
    _done: bool = False
    """Nobody is left to announce anything: ExaBGP has ended, the agent is about to."""

    def resume(self) -> bool:
        """Announce nothing if the server was drained before this agent began; tell whether it was."""
        if not self.mark.exists():
            return False
        self.store.drain()
        log.warning("server.drained", mark=str(self.mark))
        return True

    async def begin(self, _: Mapping[str, str]) -> None:
        """Take the server out of the fabric, then let the agent end; Refusal.

        The mark comes first: whatever happens from then on, the next agent goes on with it.
        """
        try:
            put(self.mark, b"", mode=0o600)
        except OSError as error:
            raise Refusal(f"{self.mark}: {error.strerror}; a drain that cannot be noted would not last") from error
        log.info("server.drains")
        self.store.drain()
        try:
            await self.withdraw()
        except BgpError as error:
            raise Refusal(
                f"{error}; the server is drained all the same: try `routed drain` once more, or `routed undrain`"
            ) from error
        self._done = True
        self.dismiss()

    async def end(self, _: Mapping[str, str]) -> None:
        """Announce again from now on; Refusal."""
        if self._done:
            raise Refusal("the agent is ending; `routed undrain` once the next one runs")
        try:
            remove(self.mark)
        except OSError as error:
            raise Refusal(f"{self.mark}: {error.strerror}; the server stays drained") from error
        self.store.undrain()
        log.info("server.undrained")

"""Starts ExaBGP 5.0, mended in the two places that no setting of its reaches.

*The server's name.* ExaBGP calls `socket.getfqdn` while it is being imported, for a capability that it does not send.
Where no name server answers, and on a server that boots none can before routes are announced, that blocks for the
resolver's whole timeout.

*Two calls at once* (RFC 4271 6.8). ExaBGP drops a call of its own, which the switch may already have taken for
established, when the switch's call comes in meanwhile. Such a switch sees its neighbour restart for the second time
without an End-of-RIB, and deletes the routes that graceful restart had kept (RFC 4724 4.2). Here the switch's call
waits, in the kernel's queue, until ours has come to an end: then ours is established, or the switch has closed it in
favour of its own. A call of ours that a switch leaves without an answer is waited for so long and no longer.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

PATIENCE_S = 2.0
"""How long a switch's call waits for one of ours: a switch that restarts in the middle of ours never ends it."""
TURN_S = 0.25
"""What one turn of the reactor takes off that, at most: ExaBGP must have had turns in which to read the answer."""


class Patience:
    """How long each call of ours has been waited for; one that is never answered costs the others nothing."""

    def __init__(self, patience_s: float) -> None:
        self._patience_s = patience_s
        self._waited_s: dict[Hashable, float] = {}
        self._before = 0.0

    def is_over(self, calls: Iterable[Hashable], now: float) -> bool:
        """Tell whether none of our calls is to be waited for any longer; to be asked once in every turn."""
        turn_s = min(now - self._before, TURN_S)
        self._before = now
        self._waited_s = {call: self._waited_s[call] + turn_s if call in self._waited_s else 0.0 for call in calls}
        return all(waited_s >= self._patience_s for waited_s in self._waited_s.values())


def in_turn(
    accept: Callable[[Any], bool],
    queue: Callable[[], Any],
    patience_s: float = PATIENCE_S,
    clock: Callable[[], float] = time.monotonic,
) -> Callable[[Any], bool]:
    """Return ExaBGP's ``Listener.incoming``, given the original: no call is accepted while one of ours is waited for.

    What it accepts it also answers, by a `queue` of its own: an ``ASYNC``, which logs whatever goes wrong and lives on.
    The original leaves that to the reactor's, behind all commands that wait there; by then ours may have begun.
    """
    patience = Patience(patience_s)

    def incoming(listener: Any) -> bool:
        peers = listener._reactor._peers.values()  # noqa: SLF001 - no other way in
        calls = [peer.proto.connection for peer in peers if is_calling(peer)]
        if patience.is_over(calls, clock()) and accept(listener):
            answers = queue()
            answers.schedule("launch", "answering a call", listener.new_connections())
            answers.run()
        return False

    return incoming


def is_calling(peer: Any) -> bool:
    """Tell whether the switch has taken up a call of ours to this ``Peer``, and the session is not established."""
    connection = peer.proto and peer.proto.connection
    return bool(connection) and connection.direction == "outgoing" and not peer.established()


def main(patience_s: float = PATIENCE_S) -> int:
    """Run ExaBGP with this process's arguments."""
    socket.getfqdn = lambda name="": name or socket.gethostname()
    from exabgp.application.main import main as exabgp  # noqa: PLC0415 - must be imported after the line above
    from exabgp.reactor.asynchronous import ASYNC  # noqa: PLC0415 - as well
    from exabgp.reactor.listener import Listener  # noqa: PLC0415 - as well

    Listener.incoming = in_turn(Listener.incoming, ASYNC, patience_s)
    return int(exabgp() or 0)


if __name__ == "__main__":
    sys.exit(main())

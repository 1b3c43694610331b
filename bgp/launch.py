"""Starts ExaBGP without asking the resolver for this server's name.

ExaBGP 5.0 calls `socket.getfqdn` while it is being imported, for a capability that it does not send. Where no name
server answers, and on a server that boots none can before routes are announced, that blocks for the resolver's whole
timeout.
"""

from __future__ import annotations

import socket
import sys


def main() -> int:
    """Run ExaBGP with this process's arguments."""
    socket.getfqdn = lambda name="": name or socket.gethostname()
    from exabgp.application.main import main as exabgp  # noqa: PLC0415 - must be imported after the line above

    return int(exabgp() or 0)


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Health of a node, asked from inside it: healthy.py spine|tor|other-tor|server. Exit 0, or 1 with what is missing.

Servers' BGP sessions do not count: the fabric is ready before any agent runs. Only the standard library is used.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def run(*command: str) -> str:
    """Return what the command prints; the node may still be booting, so failure is an empty answer."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def fabric_sessions() -> Iterator[str]:
    """Yield what is wrong with the sessions between switches: each must carry both families."""
    for family in ("ipv4", "ipv6"):
        try:
            summary: dict[str, Any] = json.loads(run("vtysh", "-c", f"show bgp {family} unicast summary json"))
        except json.JSONDecodeError:
            yield "FRR does not answer"
            return
        peers = {name: peer for name, peer in summary.get("peers", {}).items() if name.startswith("10.254.")}
        if not peers:
            yield "no BGP neighbours"
        for name, peer in peers.items():
            if peer["state"] != "Established":
                yield f"{family} session with {peer.get('desc', name)} is {peer['state']}"


def daemon() -> Iterator[str]:
    """Yield when nobody looks after the host routes: what is there may be stale."""
    if "tord.py" not in run("ps", "-o", "args=", "-p", run("cat", "/run/tord.pid").strip() or "0"):
        yield "tord does not run"


def way_out() -> Iterator[str]:
    """Yield the families that this ToR has no default route for."""
    for family in ("-4", "-6"):
        if not re.search(r"proto (bgp|bird)\b", run("ip", family, "route", "show", "default")):
            yield f"no IPv{family[1]} default route"


def host_routes() -> Iterator[str]:
    """Yield the servers that this ToR has no host route for."""
    known = {word for family in ("-4", "-6") for word in run("ip", family, "route", "show", "proto", "200").split()}
    lines = (line.split("#")[0].split() for line in Path("/etc/tor/ports.conf").read_text().splitlines())
    for port, _key, *hosts in filter(None, lines):
        yield from (f"{host} not seen behind {port}" for host in hosts if host not in known)


def bond() -> Iterator[str]:
    """Yield what is wrong with the server's bond."""
    members = re.findall(r"member: (\S+): (\w+) (\w+)", run("ovs-appctl", "lacp/show", "bond0"))
    if not members:
        yield "no bond"
    for name, *state in members:
        if state != ["current", "attached"]:
            yield f"bond member {name} is {' '.join(state)}"


def gateways() -> Iterator[str]:
    """Yield the default gateways that do not answer."""
    for family in ("-4", "-6"):
        found = re.search(r"default via (\S+)", run("ip", family, "route", "show", "default"))
        if not found:
            yield f"no IPv{family[1]} default route"
        elif not run("ping", "-n", "-c", "1", "-W", "1", found[1]).count("1 received"):
            yield f"gateway {found[1]} does not answer"


CHECKS = {
    "spine": [fabric_sessions],
    "tor": [fabric_sessions, way_out, daemon, host_routes],
    "other-tor": [way_out, daemon, host_routes],  # not FRR; the spine looks at the other end of its sessions
    "server": [bond, gateways],
}


def main() -> None:
    """Print what is missing."""
    missing = [problem for check in CHECKS[sys.argv[1]] for problem in check()]
    if missing:
        sys.exit("; ".join(missing))


if __name__ == "__main__":
    main()

"""The interoperability rack: ToRs that are not FRR, as their own command lines show them, and a plain BGP speaker."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from containerlab.lab import Lab
from containerlab.topology import TWO_RACKS
from tests.fabric import ADDRESSES, ASNS, EXABGP, LOOPBACKS, TORS

INTEROP = TWO_RACKS.with_name("interop.clab.yml")
PASSWORD = (INTEROP.parent / "configs/interop/password").read_text().strip()
FAMILIES = ("ipv4", "ipv6")
_API = "unix:///run/gobgpd.sock"
_ESTABLISHED = 6
_PREFIX_LIMIT = 2
"""GoBGP's numbers of states of a session and of its administration."""


@dataclass(frozen=True)
class Bird:
    """A ToR with BIRD 2."""

    lab: Lab
    name: str
    daemon = "bird"

    def ask(self, *words: str) -> str:
        return self.lab.node(self.name).run(["birdc", *words], check=False).stdout  # a table that is not there: nothing

    def established(self, server: str) -> bool:
        """Tell whether a server's session is up."""
        return "BGP state:          Established" in self.ask("show", "protocols", "all", server)

    def received(self, server: str) -> set[str]:
        """Return the prefixes that a server sent, refused ones included."""
        return {net for family in FAMILIES for net in self._table("import", "table", f"{server}.{family}")}

    def restarting(self, server: str) -> bool:
        """Tell whether graceful restart keeps a server's routes."""
        return "graceful restart active" in self.ask("show", "protocols", "all", server)

    def over_limit(self, server: str) -> bool:
        """Tell whether a server sends more routes than it may."""
        return "[HIT]" in self.ask("show", "protocols", "all", server)

    def _table(self, *which: str) -> set[str]:
        return set(re.findall(r"^([0-9a-f.:]+/\d+)\s", self.ask("show", "route", *which), re.MULTILINE))


@dataclass(frozen=True)
class Gobgp:
    """A ToR with GoBGP."""

    lab: Lab
    name: str
    daemon = "gobgpd"

    def ask(self, *words: str) -> Any:
        done = self.lab.node(self.name).run(["gobgp", "--target", _API, *words, "-j"], check=False)
        return json.loads(done.stdout or "{}") if done.returncode == 0 else {}  # of a session that is down: nothing

    def established(self, server: str) -> bool:
        """Tell whether a server's session is up."""
        return bool(self._neighbor(server, "state").get("session_state") == _ESTABLISHED)

    def received(self, server: str) -> set[str]:
        """Return the prefixes that a server sent, refused ones included."""
        return {net for family in FAMILIES for net in self.ask("neighbor", ADDRESSES[server], "adj-in", "-a", family)}

    def restarting(self, server: str) -> bool:
        """Tell whether graceful restart keeps a server's routes."""
        tables = [self.ask("global", "rib", "-a", family) for family in FAMILIES]
        paths = [path for table in tables for of_prefix in table.values() for path in of_prefix]
        return any(path["stale"] for path in paths if path.get("neighbor-ip") == ADDRESSES[server])

    def over_limit(self, server: str) -> bool:
        """Tell whether a server's session was ended for having sent more routes than it may."""
        return bool(self._neighbor(server, "state").get("admin_state") == _PREFIX_LIMIT)

    def _neighbor(self, server: str, part: str) -> dict[str, Any]:
        found: dict[str, Any] = self.ask("neighbor", ADDRESSES[server]).get(part, {})
        return found


Tor = Bird | Gobgp


def session_id(tor: Tor, server: str) -> str:
    """Return the ends of the TCP connection that a server's session runs over; a port changes with the session."""
    wanted = ["ss", "-Htn", "state", "established", "dst", ADDRESSES[server]]
    return " ".join(re.findall(r"\S+:\d+", tor.lab.node(tor.name).run(wanted).stdout))


def md5_failures(tor: Tor) -> int:
    """Return how many segments with no or a wrong password the ToR's kernel has thrown away."""
    names = ["TcpExtTCPMD5NotFound", "TcpExtTCPMD5Unexpected", "TcpExtTCPMD5Failure"]
    shown = tor.lab.node(tor.name).run(["nstat", "-asz", *names]).stdout
    return sum(int(line.split()[1]) for line in shown.splitlines() if line.startswith("TcpExt"))


@contextlib.contextmanager
def speaking(lab: Lab, server: str, routes: Iterable[str], password: str = PASSWORD) -> Iterator[None]:
    """Announce routes, as ExaBGP writes them, from a server to both its ToRs, by a speaker that knows no restart."""
    lines: dict[str, list[str]] = {family: [] for family in FAMILIES}
    for route in routes:
        lines["ipv6" if ":" in route.split()[0] else "ipv4"].append(f"unicast {route};")
    announce = " ".join(f"{family} {{ {' '.join(of)} }}" for family, of in lines.items())
    neighbours = "".join(
        f"neighbor {LOOPBACKS[tor]} {{ router-id {ADDRESSES[server]}; local-address {ADDRESSES[server]}; "
        f"local-as 65500; peer-as {ASNS[tor]}; hold-time 9; listen 179; "
        f'md5-password "{password}"; md5-base64 false; '
        f"family {{ ipv4 unicast; ipv6 unicast; }} announce {{ {announce} }} }}\n"
        for tor in TORS[server]
    )
    node = lab.node(server)
    node.path("/run/speaking.conf").write_text(neighbours)
    environment = {"exabgp_daemon_user": "root", "exabgp_api_cli": "false", "exabgp_log_destination": "stdout"}
    with node.path("/run/speaking.log").open("w") as log:
        command = [EXABGP, "server", "/run/speaking.conf"]
        speaker = node.popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        speaker.kill()
        speaker.wait()

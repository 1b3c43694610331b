"""Racks to audit without a fabric: rack files, agents' exports, and switches that answer as FRR does.

A switch is a program that prints a file; what it prints can differ from call to call, and it can hang.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import yaml

from containerlab.topology import TWO_RACKS
from routed.audit.export import encode
from routed.audit.model import Announced, Holding, RackPlan, ServerView, SideView
from routed.audit.settings import AuditSettings, load
from routed.audit.sources.plan import rack_plan
from routed.domain.workload import IPAddress, host_network
from routed.settings import load as load_rack

RACK = TWO_RACKS.parent / "racks" / "r1.yaml"
SWITCH = """
case "$*" in *filtered-routes*) exec cat "$1/$2.refused";; esac
n=$(cat "$1/$2.calls" 2>/dev/null || echo 0); n=$((n + 1)); echo $n > "$1/$2.calls"
for answer in "$1/$2.$n" "$1/$2"; do
    if [ -e "$answer.hangs" ]; then sleep 1000; fi
    if [ -e "$answer" ]; then exec cat "$answer"; fi
done
echo "$2 knows nothing" >&2; exit 1
"""
Paths = Iterable[tuple[str, str | None]]
"""Prefix, next hop; the switch's own route without."""


class Site:
    """Rack r1 of the lab: s11 has one pod, both ToRs know its routes and the pools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.plan: RackPlan = rack_plan(load_rack(RACK))
        self.pods: dict[IPAddress, str] = {ip_address("10.101.0.2"): "s11", ip_address("fd00:101::1:0"): "s11"}
        (folder / "r1.yaml").write_text(RACK.read_text())
        self.write("r1a")
        self.write("r1b")
        self.export("s11")
        self.export("s12")

    @property
    def own(self) -> list[tuple[str, str | None]]:
        """The pools' aggregates."""
        return [(str(pool.prefix), None) for pool in self.plan.pools]

    @property
    def hosts(self) -> list[tuple[str, str | None]]:
        """The pods' routes."""
        return [
            (str(host_network(address)), str(self.plan.servers[server].address(address.version)))
            for address, server in self.pods.items()
        ]

    def write(self, switch: str, paths: Paths | None = None, *, call: int | None = None) -> None:
        """Let a switch answer with these paths, in one call only or in all others; all is well by default."""
        name = switch if call is None else f"{switch}.{call}"
        (self.folder / name).write_text(frr([*self.own, *self.hosts] if paths is None else paths))

    def refuse(self, switch: str, *answers: Iterable[str] | None) -> None:
        """Let a switch have refused these prefixes, question by question; None: it does not keep what it refused."""
        said = [{"warning": "not kept"} if one is None else {"receivedRoutes": dict.fromkeys(one)} for one in answers]
        (self.folder / f"{switch}.refused").write_text("\n".join(map(json.dumps, said)))

    def hang(self, switch: str, *, call: int | None = None) -> None:
        """Let a switch not answer."""
        name = switch if call is None else f"{switch}.{call}"
        (self.folder / f"{name}.hangs").touch()

    def export(self, server: str, *, age: timedelta = timedelta(0)) -> None:
        """Write the export of a server's agent, as it would have been so long ago."""
        mine = [address for address, owner in self.pods.items() if owner == server]
        view = ServerView(
            server=server,
            rack="r1",
            at=datetime.now(UTC) - age,
            holdings=tuple(Holding(address, server, "shop/cart") for address in mine),
            announced=tuple(
                Announced(host_network(address), tor.name, hop)
                for address in mine
                for tor in self.plan.rack.tors
                if (hop := self.plan.servers[server].address(address.version)) is not None
            ),
            sides={tor.name: SideView(session_up=True, healthy=True, steers=False) for tor in self.plan.rack.tors},
        )
        (self.folder / f"{server}.json").write_text(json.dumps(encode(view)))

    def settings(self, **changes: Any) -> AuditSettings:
        """Return the audit file, changed."""
        document = {
            "racks": ["r*.yaml"],
            "agents": {"file": "{server}.json"},
            "switches": {
                "defaults": {"source": "frr", "command": ["sh", "-c", SWITCH, "switch", str(self.folder), "{name}"]}
            },
            "timeout_s": 20,
            "confirm_after_s": 0,
            **changes,
        }
        path = self.folder / "audit.yaml"
        path.write_text(yaml.safe_dump(document))
        return load(path)


def frr(paths: Paths) -> str:
    """Return what FRR says of these paths, all of them best and installed."""
    answers: list[Mapping[str, Any]] = []
    for version in (4, 6):
        mine = [(prefix, hop) for prefix, hop in paths if ip_network(prefix).version == version]
        answers.append({"routes": {prefix: [{"prefix": prefix}, _path(version, hop)] for prefix, hop in mine}})
        answers.append({prefix: [_entry(hop)] for prefix, hop in mine})
    v4, forwarding4, v6, forwarding6 = answers
    return "\n".join(map(json.dumps, (v4, v6, forwarding4, forwarding6)))


def _path(version: int, hop: str | None) -> Mapping[str, Any]:
    nobody = "0.0.0.0" if version == 4 else "::"  # noqa: S104 - no socket is bound to it
    return {
        "aspath": {"segments": [{"type": "as-sequence", "list": [65500]}] if hop else []},
        "valid": True,
        "bestpath": {"overall": True},
        "nexthops": [{"ip": hop or nobody}],
        "peer": {"peerId": hop or nobody},
    }


def _entry(hop: str | None) -> Mapping[str, Any]:
    return {"protocol": "bgp", "installed": True, "nexthops": [{"ip": hop, "active": True}] if hop else []}

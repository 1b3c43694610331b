"""Audits of a lab, through their front: what is found, and what is told of one address."""

from __future__ import annotations

import asyncio
import io
import json
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from containerlab.lab import Lab
from containerlab.node import Node
from containerlab.topology import TWO_RACKS
from routed.audit.ask import ask
from routed.audit.explain import Story
from routed.audit.model import Audit, Finding, Kind
from routed.audit.report.story import story
from routed.audit.run import run
from routed.audit.settings import load
from tests.servers import CONTROL, Residents, Server

RACKS = ("r1", "r2")
SPINES = ("sp1", "sp2")
SWITCHES = ("r1a", "r1b", "r2a", "r2b", *SPINES)
_EXPORT = """\
import http.client, json, socket, sys
path = json.loads(sys.argv[1]).get(sys.argv[2]) or sys.exit("no agent is there")
connection = http.client.HTTPConnection("agent")
connection.sock = socket.socket(socket.AF_UNIX)
try:
    connection.sock.connect(path)
    connection.request("GET", "/export")
    print(connection.getresponse().read().decode())
except OSError as error:
    sys.exit(f"no agent answers: {error}")
"""
"""`routed audit export`, which test_audit_look.py runs, but it starts within milliseconds."""
PATIENCE_S = 60.0
"""For a fault to be found, or to be gone again."""


@dataclass(frozen=True, slots=True, order=True)
class Sign:
    """What a finding is known by."""

    kind: Kind
    subject: str
    where: tuple[str, ...]

    @classmethod
    def of(cls, finding: Finding) -> Sign:
        return cls(finding.kind, finding.subject, finding.where)


def signs(findings: Iterable[Finding]) -> set[Sign]:
    return {Sign.of(finding) for finding in findings}


def entering(node: Node, *command: str) -> tuple[str, ...]:
    """Return a command as this host runs it inside a node."""
    environment = (f"{key}={value}" for key, value in node._environment(None).items())
    return ("env", *environment, *node._entering(command))


class Auditor:
    """Who audits a lab of two racks. What is planned and where to look may be changed between two audits."""

    def __init__(self, lab: Lab, servers: Mapping[str, Server], residents: Residents, folder: Path) -> None:
        self.lab, self.servers, self.pods = lab, servers, residents
        self._folder = folder
        self.racks: dict[str, dict[str, Any]] = {}
        """The plan: rack files by name."""
        self.switches: dict[str, Any] = {}
        """How to look at switches that the lab has not."""
        self.options: dict[str, Any] = {}
        """Other keys of the audit file."""
        self.plan_anew()

    def plan_anew(self) -> None:
        """Plan the lab's racks as they are; servers without an agent are left out."""
        files = {name: TWO_RACKS.parent / "racks" / f"{name}.yaml" for name in RACKS}
        self.racks = {name: yaml.safe_load(path.read_text()) for name, path in files.items()}
        for rack in self.racks.values():
            for name in rack["servers"].keys() - self.servers.keys():
                del rack["servers"][name]
        self.switches, self.options = {}, {}

    def write(self) -> Path:
        """Write the audit file and the rack files; returns where."""
        racks = self._folder / "racks"
        racks.mkdir(exist_ok=True)
        for path in racks.iterdir():
            path.unlink()
        for name, rack in self.racks.items():
            (racks / f"{name}.yaml").write_text(json.dumps(rack))  # which is YAML
        agents = {name: str(server.node.path(CONTROL)) for name, server in self.servers.items()}
        switches = {name: {"source": "frr", "command": entering(self.lab.node(name), "vtysh")} for name in SWITCHES}
        document = {
            "racks": ["racks/*.yaml"],
            "switches": {"spines": SPINES, **switches, **self.switches},
            "agents": {"command": [sys.executable, "-I", "-S", "-c", _EXPORT, json.dumps(agents), "{server}"]},
            "timeout_s": 20,
            "confirm_after_s": 1,
            **self.options,
        }
        path = self._folder / "audit.yaml"
        path.write_text(json.dumps(document))
        return path

    def audit(self) -> Audit:
        return asyncio.run(run(load(self.write())))

    def until(self, wanted: set[Sign], what: str) -> Audit:
        """Audit until exactly this is found; fails with the difference."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := signs((last := self.audit()).findings)) != wanted:
            assert time.monotonic() < deadline, (
                f"{what}: wanted and not found: {sorted(wanted - found)}; found and not wanted: {sorted(found - wanted)}"
            )
        return last

    def explain(self, address: str) -> tuple[Story, str]:
        """Return the story of an address, and as it is printed."""
        told = asyncio.run(ask(ip_address(address), load(self.write())))
        printed = io.StringIO()
        Console(file=printed, width=200).print(story(told))
        return told, printed.getvalue()

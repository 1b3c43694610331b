"""Looks at one server: what its agent, its ledger, its bridge and its namespaces know of pods. Judges nothing."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from containerlab.agents import LOG
from ovs_flows.cookies import BASE_OBJECT, cookie
from routed.attach import mark
from tests.lab.chaos.faults import SLOTS
from tests.lab.chaos.invariants import Entry, Plane, Stock, Table, Thing
from tests.servers import QUEUE, Server

LEDGER = Path("/var/lib/routed")
COOKIE = re.compile(r"cookie=(0x[0-9a-f]+)")
DELIVERY = re.compile(
    r"table=40,.*(?:nw_dst|ipv6_dst)=(?P<address>[^ ,/]+) actions=(?!goto|drop).*output:(?P<port>\d+)"
)
"""The flow that brings a pod its packets."""
WIRE = re.compile(r"rt(\d+)")
INNER = re.compile(r"rp(\d+)")


@dataclass(frozen=True, slots=True)
class Row:
    """An attachment in the ledger's file."""

    container: str
    slot: int
    addresses: tuple[str, ...]


class ServerLook:
    """What one look at a server found."""

    def __init__(self, server: Server, *, agents: bool) -> None:
        """Look now; with `agents` also at what the server's agent says."""
        self.server = server
        self.things: list[Thing] = []
        self.tables: list[Table] = []
        self._rows = list(_ledger(server))
        self._container = {row.slot: row.container for row in self._rows}
        self._table(Plane.LEDGER, ((address, row.container) for row in self._rows for address in row.addresses))
        if agents:
            self._agent()
            self._routes()
        self._flows()
        self._pods()
        self._slots()
        for path in server.node.path(QUEUE).glob("[!.]*"):
            self._thing("queued DELs", path.name, "")
        self.errors = tuple(_errors(server))

    def _table(self, plane: Plane, entries: Iterable[tuple[str, str]], where: str | None = None) -> None:
        name = self.server.name
        self.tables.append(
            Table(plane, where or name, frozenset({name}), tuple(Entry(address, holder) for address, holder in entries))
        )

    def _thing(self, plane: str, name: str, owner: str) -> None:
        self.things.append(Thing(plane, self.server.name, name, owner))

    def _json(self, *command: str) -> Any:
        return json.loads(self.server.node.run(command).stdout or "[]")

    def _agent(self) -> None:
        """The agent's own view of the attachments."""
        rows = self.server.look("attachments")
        self._table(Plane.AGENT, ((address, row["container"]) for row in rows for address in row["addresses"]))
        for row in rows:
            if row["state"] != "ready":
                self._thing("agent's attachments", f"{row['container']} is {row['state']}: {row['error']}", "")
        for row in self.server.look("neighbors"):
            if row["state"] != "established" or row["side"] != "good" or row["steers"]:
                self._thing("sides", f"{row['tor']} is {row['state']}, {row['side']}: {row['side_reason']}", "")

    def _routes(self) -> None:
        """The agent's adj-RIB-out, per ToR."""
        name, rows = self.server.name, self.server.look("routes")
        for tor in self.server.tors:
            sent = [str(ip_network(row["prefix"]).network_address) for row in rows if row["tor"] == tor]
            self._table(Plane.SENT, ((address, name) for address in sent), f"{name} to {tor}")
        for row in rows:
            if row["state"] != "announced":
                self._thing(Plane.SENT, f"{row['prefix']} to {row['tor']} is {row['state']}", "")

    def _flows(self) -> None:
        """Flows by whom they serve: their cookie says it, and their destination must agree."""
        base: list[str] = []
        holders: set[tuple[str, str]] = set()
        for line in self.server.all_flows():
            found = COOKIE.search(line)
            if found is None or int(found[1], 16) == cookie(BASE_OBJECT):  # a group has no cookie
                base.append(line)
                continue
            owner = self._container.get(int(found[1], 16) - cookie(BASE_OBJECT) - 1, "")
            self._thing(Plane.FLOWS, line, owner)
            if delivery := DELIVERY.search(line):
                holders.add((delivery["address"], owner))
        self._table(Plane.FLOWS, sorted(holders))
        self.host_flows = frozenset(base)

    def _pods(self) -> None:
        """The interfaces inside all namespaces of pods, also of those that nobody knows."""
        script = (
            'for f in /run/netns/*; do [ -e "$f" ] || exit 0; echo "${f##*/}"; nsenter --net="$f" ip -j address; done'
        )
        lines = iter(self.server.node.run(["/bin/sh", "-c", script]).stdout.splitlines())
        entries: list[tuple[str, str]] = []
        for name in lines:
            container = f"{self.server.name}-{name}"
            for device in json.loads(next(lines)):
                if device["ifname"] != "lo":
                    self._thing("pods' interfaces", f"{name}: {device['ifname']}", container)
                    held = (one["local"] for one in device["addr_info"] if one["scope"] == "global")
                    entries += [(address, container) for address in held]
        self._table(Plane.PODS, entries)

    def _slots(self) -> None:
        """The stock, and who uses it: marks, and devices whose macvlan keeps them promiscuous."""
        inner = self._json("nsenter", f"--net={SLOTS}", "ip", "-j", "-d", "link")
        for device in inner:
            whose = mark.parse(device.get("ifalias", ""))
            if whose is not None:
                self._thing("slots' marks", device["ifname"], whose.id.container_id)
            elif device["promiscuity"]:
                self._thing("macvlans", f"on {device['ifname']}", "")
        outer = self._json("ip", "-j", "link")
        ours = [device["ifname"] for device in outer if mark.is_ours(device.get("ifalias", ""))]
        self.stock = Stock(
            self.server.name,
            {
                "OVS ports": _numbers(WIRE, self.server.ports()),
                "wires": _numbers(WIRE, ours),
                "slots": _numbers(INNER, (device["ifname"] for device in inner)),
            },
        )


def _ledger(server: Server) -> Iterator[Row]:
    """Read a copy of the ledger's file: the agent has locked the file itself."""
    with tempfile.TemporaryDirectory() as folder:
        for path in server.node.path(LEDGER).glob("ledger.db*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder, "ledger.db"))) as database:
            rows = database.execute("SELECT sequence, container_id, slot FROM attachments").fetchall()
            held = database.execute("SELECT attachment, address FROM addresses WHERE attachment IS NOT NULL").fetchall()
    for sequence, container, slot in rows:
        yield Row(container, slot, tuple(address for owner, address in held if owner == sequence))


def _errors(server: Server) -> Iterator[str]:
    """Return the lines of the agents' log that are errors, or no log lines at all: the traceback of one that ended."""
    for line in server.node.path(LOG).read_text().splitlines():
        try:
            level = json.loads(line)["level"]
        except ValueError:
            level = "none"
        if level not in {"debug", "info", "warning"}:
            yield line


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> frozenset[int]:
    return frozenset(int(found[1]) for name in names if (found := pattern.fullmatch(name)))

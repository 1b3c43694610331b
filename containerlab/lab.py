"""A lab: the nodes and links of one topology file, brought up, found again, disturbed and taken down.

Its state is a folder under /run named after the lab, with a folder per node; nothing else of it exists on the host, so
taking it down needs neither the topology file nor the process that brought it up.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import shlex
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_network
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from containerlab.errors import LabError, NotReadyError
from containerlab.node import Node
from containerlab.topology import TWO_RACKS, Endpoint, Healthcheck, Link, NodeSpec, Topology, load

STATE = Path("/run/routed-lab")
FIRST_IFINDEX = 1000
LOOK_S = 1.0
"""How often a health check is run at least while somebody waits for it; `interval` is for Docker, which never ends."""
Report = Callable[[str], None]


def silent(_line: str) -> None:
    """Report nothing."""


class Lab:
    """A lab: `Lab.up` makes one, `Lab.find` returns one that runs. As a context manager it ends with its block."""

    node_type: ClassVar[type[Node]] = Node

    def __init__(self, folder: Path, report: Report = silent) -> None:
        self.folder = folder
        self.name = folder.name
        self.report = report

    @classmethod
    def up(cls, topology: Path = TWO_RACKS, *, name: str | None = None, report: Report = silent) -> Lab:
        """Start all nodes and plug all links; `wait_ready` waits for the rest. On failure nothing is left.

        Raises:
            TopologyError: the file cannot be realised.
            LabError: a lab of that name exists, or a node did not start.
        """
        plan = load(topology)
        lab = cls(STATE / (name or plan.name), report)
        try:
            lab.folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise LabError(
                f"lab {lab.name} exists: take it down first (python -m containerlab down --name {lab.name})"
            ) from None
        try:
            lab._build(plan)
        except BaseException:
            lab.down()
            raise
        return lab

    @classmethod
    def find(cls, name: str, report: Report = silent) -> Lab:
        """Return the lab of that name, whoever brought it up. LabError when there is none."""
        lab = cls(STATE / name, report)
        if not lab.folder.is_dir():
            raise LabError(f"there is no lab {name}: python -m containerlab up --name {name}")
        return lab

    @classmethod
    def named(cls, name: str) -> Lab:
        """Return the lab of that name to take down, whether it is there or not."""
        return cls(STATE / name)

    @classmethod
    def names(cls) -> list[str]:
        """Return the names of all labs of this machine, what crashes left included."""
        return sorted({folder.name.partition("~")[0] for folder in STATE.glob("*")})

    def __enter__(self) -> Self:
        """Return the lab."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the lab down."""
        self.down()

    def down(self) -> None:
        """Kill all nodes and forget the lab: also what a crash left, also when nothing is there."""
        with contextlib.suppress(FileNotFoundError):
            # A holder that is being started cannot write its pid file into a folder that has moved, so it gives up.
            self.folder.rename(self.folder.with_name(f"{self.name}~{os.getpid()}-{time.monotonic_ns()}"))
        for folder in STATE.glob(f"{self.name}~*"):
            nodes = [self.node_type(self.folder / path.name, state=path) for path in folder.glob("*/")]
            with ThreadPoolExecutor(8) as pool:
                list(pool.map(Node.stop, nodes))
            shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # other labs are there, or none ever was
            STATE.rmdir()

    @property
    def nodes(self) -> dict[str, Node]:
        """All nodes, by name."""
        return {path.parent.name: self.node_type(path.parent) for path in sorted(self.folder.glob("*/spec.json"))}

    def node(self, name: str) -> Node:
        """Return a node. LabError when the lab has none of that name."""
        if not (self.folder / name).is_dir():
            raise LabError(f"lab {self.name} has no node {name!r}, but {', '.join(self.nodes)}")
        return self.node_type(self.folder / name)

    def wait_ready(self, timeout: float | None = None) -> float:
        """Wait until every node's health check passes. Returns the seconds since the lab was started.

        Raises:
            NotReadyError: checks failed for as long as the topology file allows, or for `timeout` seconds.
            NodeError: a node stopped.
        """
        checks = {name: Healthcheck.model_validate(check) for name, check in self._document()["healthchecks"].items()}
        give_up = threading.Event()
        with ThreadPoolExecutor(max(1, len(checks))) as pool:
            waits = [pool.submit(self._wait_healthy, self.node(name), check, give_up) for name, check in checks.items()]
            concurrent.futures.wait(waits, timeout, return_when=concurrent.futures.FIRST_EXCEPTION)
            give_up.set()
        failures = [error for wait in waits if isinstance(error := wait.exception(), LabError)]
        for error in failures:
            if not isinstance(error, NotReadyError):
                raise error
        if failures:
            raise NotReadyError("\n".join(str(error) for error in failures))
        return self.age()

    @property
    def topology(self) -> Path:
        """The file that the lab was made from."""
        return Path(self._document()["topology"])

    def age(self) -> float:
        """Return the seconds since the lab was started."""
        return time.time() - float(self._document()["started"])

    def vtysh(self, node: str, *commands: str) -> str:
        """Run FRR commands on a router."""
        return self.node(node).run(["vtysh", *(word for command in commands for word in ("-c", command))]).stdout

    def vtysh_json(self, node: str, command: str) -> Any:
        """Run an FRR show command on a router and return its JSON."""
        return json.loads(self.vtysh(node, f"{command} json"))

    def kernel_routes(self, node: str) -> dict[str, dict[str, Any]]:
        """Return a node's forwarding table, both families: prefix -> route as iproute2 shows it in JSON."""
        tables = (
            json.loads(self.node(node).run(["ip", "-j", family, "route", "show"]).stdout) for family in ("-4", "-6")
        )
        ipv4, ipv6 = tables
        return {
            str(ip_network(default if route["dst"] == "default" else route["dst"])): route
            for default, table in (("0.0.0.0/0", ipv4), ("::/0", ipv6))
            for route in table
        }

    def cut(self, endpoint: str) -> None:
        """Cut the link at "node:interface": that end goes down, both ends lose carrier."""
        self._set_link(endpoint, "down")

    def restore(self, endpoint: str) -> None:
        """Mend what `cut` cut."""
        self._set_link(endpoint, "up")

    def _set_link(self, endpoint: str, state: str) -> None:
        end = Endpoint.parse(endpoint)
        self.node(end.node).run(["ip", "link", "set", end.interface, state])

    def _document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads((self.folder / "lab.json").read_text())
        return document

    def _write_document(self, plan: Topology, **more: str) -> None:
        checks = {
            name: spec.healthcheck.model_dump(by_alias=True) for name, spec in plan.nodes.items() if spec.healthcheck
        }
        document = {"topology": str(plan.path), "started": time.time(), "healthchecks": checks, **more}
        (self.folder / "lab.json").write_text(json.dumps(document, indent=1))

    def _build(self, plan: Topology) -> None:
        self._write_document(plan, runner="netns")
        with ThreadPoolExecutor(8) as pool:
            self.report(f"{self.name}: starting {len(plan.nodes)} nodes")
            list(pool.map(lambda spec: Node.start(self.folder / spec.name, spec), plan.nodes.values()))
            self.report(f"{self.name}: plugging {len(plan.links)} links")
            self._plug(plan.links)
            list(pool.map(self._finish, plan.nodes.values()))

    def _plug(self, links: Iterable[Link]) -> None:
        """Create the links inside their nodes, then set them up, as containerlab does."""
        pids = {name: node.pid for name, node in self.nodes.items()}
        # Two ends with the same ifindex would make the kernel take the device for its own lower one and report a loss
        # of carrier up to a second late (linkwatch_urgent_event).
        lines = []
        for number, link in enumerate(links):
            left, right = (
                f"{end.interface} index {FIRST_IFINDEX + 2 * number + side} mtu {link.mtu} netns {pids[end.node]}"
                for side, end in enumerate(link.ends)
            )
            lines.append(f"link add {left} type veth peer name {right}")
        done = subprocess.run(
            ["ip", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise LabError(f"plugging links: {done.stderr.strip()}")
        ends: dict[str, list[str]] = {}
        for link in links:
            for end in link.ends:
                ends.setdefault(end.node, []).append(end.interface)
        for name, interfaces in ends.items():
            commands = "\n".join(f"link set {interface} up" for interface in interfaces)
            self.node(name).run(["ip", "-batch", "-"], input=commands)

    def _finish(self, spec: NodeSpec) -> None:
        node = self.node(spec.name)
        for command in spec.exec:
            node.run(shlex.split(command))

    def _wait_healthy(self, node: Node, check: Healthcheck, give_up: threading.Event) -> None:
        """Return when a check passes; NotReadyError with what the last one said when all failed."""
        words = "its check has not run yet"
        for pause in _pauses(check):
            if give_up.wait(pause):
                break
            try:
                done = node.run(check.command, check=False, timeout=check.timeout)
            except subprocess.TimeoutExpired:
                words = f"its check took longer than {check.timeout} s"
            else:
                if done.returncode == 0:
                    self.report(f"{node.name}: ready after {self.age():.1f} s")
                    return
                words = (done.stderr + done.stdout).strip()
        raise NotReadyError(f"{node.name} is not ready: {words}")


def _pauses(check: Healthcheck) -> Iterator[float]:
    yield check.start_period
    pause = min(check.interval, LOOK_S)
    for _ in range(round(check.interval * check.retries / pause)):
        yield pause

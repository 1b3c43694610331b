"""The agent under test, on a server of a lab: started, watched, asked, killed, started again.

An agent started here outlives the process that started it, as a service does; it ends with its node at the latest.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import signal
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from containerlab.errors import NodeError, NotReadyError
from containerlab.netns import socket_in
from containerlab.node import Node

ROUTED = Path("routed")
"""In the PATH of a server."""
LOG = Path("/var/log/routed/agent.log")
"""In the node; every agent of the node appends to it."""
SPEAKER_PIDFILE = Path("/run/routed/bgp/exabgp.pid")
HEALTH = ("127.0.0.1", 9201)
_POLL_S = 0.05


class Agent:
    """One agent process; the next one on the same node is another `Agent`. Thread-safe."""

    def __init__(self, node: Node, pid: int) -> None:
        self.node = node
        self.pid = pid
        """As the node counts."""

    @classmethod
    def start(cls, node: Node, binary: Path = ROUTED, env: Mapping[str, str] | None = None) -> Agent:
        """Start the agent on a server and return at once; `env` is added to the node's environment."""
        run = shlex.join([str(binary), "agent", "--server", node.name])
        script = f"mkdir -p {LOG.parent}; setsid {run} </dev/null >>{LOG} 2>&1 & echo $!"
        return cls(node, int(node.run(["/bin/sh", "-c", script], env=env).stdout))

    def alive(self) -> bool:
        """Tell whether the process runs."""
        fields = self._stat()
        return bool(fields) and fields[0] not in "XZ"

    def cpu_s(self) -> float:
        """Return what its threads have had of a CPU, in seconds; 0 when it is gone."""
        return sum(map(int, self._stat()[11:13])) / os.sysconf("SC_CLK_TCK")

    def ailment(self, page: str = "/readyz") -> str | None:
        """Return why it cannot do its work now, or what else a page says is wrong; None when nothing is."""
        try:
            status, text = self._get(page)
        except (OSError, http.client.HTTPException) as error:
            return f"the agent does not answer: {error}" if self.alive() else "the agent has ended"
        return None if status == http.HTTPStatus.OK else text.strip()

    def ready(self) -> bool:
        """Tell whether it can do its work now: attach pods, unless the server is drained."""
        return self.ailment() is None

    def wait_ready(self, timeout_s: float = 120) -> None:
        """Wait until it can do its work. NotReadyError has the reason and the end of the log."""
        self._wait(lambda: self.ready() or not self.alive(), timeout_s)
        if (ailment := self.ailment()) is not None:
            spent = f"after {self.cpu_s():.1f} s of CPU time"
            raise NotReadyError(f"{self.node.name}: {ailment}, {spent}; its log ends with:\n{self.last_words()}")

    def established(self) -> bool:
        """Tell whether all of its BGP sessions are up."""
        rows = self.show("neighbors")
        return bool(rows) and all(row["state"] == "established" for row in rows)

    def wait_established(self, timeout_s: float = 60) -> None:
        """Wait until all of its BGP sessions are up. NotReadyError has what it says of them."""
        self._wait(self.established, timeout_s)
        if not self.established():
            raise NotReadyError(f"{self.node.name}: {self.show('neighbors')}; its log ends with:\n{self.last_words()}")

    def show(self, page: str) -> list[dict[str, Any]]:
        """Return what `routed show PAGE -o json` prints: attachments, routes, flows, neighbors or leases."""
        rows: list[dict[str, Any]] = json.loads(self.node.run([ROUTED, "show", page, "-o", "json"]).stdout)
        return rows

    def kill(self, number: signal.Signals = signal.SIGKILL, timeout_s: float = 30) -> None:
        """Send the process a signal and wait until it has ended; NodeError when it survives."""
        self.node.run(["kill", f"-{number.value}", str(self.pid)])
        self._wait(lambda: not self.alive(), timeout_s)
        if self.alive():
            raise NodeError(f"{self.node.name}: the agent survives {number.name}:\n{self.last_words()}")

    def stop(self) -> None:
        """End it as a service manager does: pods, flows and routes stay."""
        self.kill(signal.SIGTERM)

    def speaker_pid(self) -> int:
        """Return the process id of the agent's ExaBGP, as the node counts; NodeError when it has none."""
        try:
            return int(self.node.path(SPEAKER_PIDFILE).read_text())
        except (OSError, ValueError) as error:
            raise NodeError(f"{self.node.name}: no ExaBGP runs: {error}") from error

    def kill_speaker(self) -> None:
        """Kill its ExaBGP; the agent is to replace it."""
        self.node.run(["kill", "-9", str(self.speaker_pid())])

    def last_words(self, lines: int = 20) -> str:
        """Return the end of the log."""
        try:
            return "\n".join(self.node.path(LOG).read_text().splitlines()[-lines:])
        except OSError as error:
            return f"(no log: {error})"

    def _stat(self) -> list[str]:
        """Return the process's state and what follows it in proc_pid_stat(5); nothing when it is gone."""
        try:
            text = self.node.path(f"/proc/{self.pid}/stat").read_text()
        except (OSError, NodeError):
            return []
        return text.rpartition(")")[2].split()

    def _get(self, page: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*HEALTH)
        with socket_in(self.node.netns_path, socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect(HEALTH)
            connection.sock = sock
            connection.request("GET", page)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    @staticmethod
    def _wait(condition: Callable[[], bool], timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition() and time.monotonic() < deadline:
            time.sleep(_POLL_S)

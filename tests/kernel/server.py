"""A server whose bridge is the kernel's, as those see it who look for offload."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path

from containerlab.netns import socket_in
from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.servers import Pod, Server

PORT = 7777
BURST, SIZE = 60, 1400
"""Few enough to wait in a socket's buffer."""
PACE_S = 0.002
SETTLE_S = 1.0


class KernelServer(Server):
    """A server of containerlab/kernel.clab.yml."""

    def bond(self) -> str:
        """Return what the bonding driver says of the uplink."""
        return Path(f"/proc/{self.node.pid}/net/bonding/bond0").read_text()

    def partners(self) -> list[tuple[str, str]]:
        """Return the LACP system and port number of each member's partner."""
        found = re.findall(
            r"details partner lacp pdu:.*?system mac address: (\S+).*?port number: (\d+)", self.bond(), re.DOTALL
        )
        return [(system, port) for system, port in found]

    def bonded(self) -> bool:
        """Tell whether both members carry, in one aggregator."""
        return "Number of ports: 2" in self.bond() and self.bond().count("MII Status: up") == 3

    # ---- megaflows

    def megaflows(self) -> list[str]:
        """Return what the datapath forwards by now, all of it."""
        dump = self.node.run(["ovs-appctl", "dpctl/dump-flows", "-m", "--names", "type=all"]).stdout
        return dump.splitlines()

    def megaflows_of(self, pod: Pod) -> list[str]:
        """Return what the datapath forwards from and to a pod; without what it drops."""
        names = (f"in_port({pod.port})", f",{pod.port}", f":{pod.port}")
        return [flow for flow in self.megaflows() if any(name in flow for name in names) and "actions:drop" not in flow]

    def assert_in_tc(self, pods: Sequence[Pod]) -> None:
        """Assert that these pods send and receive, and all of it in TC."""
        found = [flow for pod in pods for flow in self.megaflows_of(pod)]
        for pod in pods:
            for family in ("ipv4", "ipv6"):
                own = [flow for flow in found if f"{family}(" in flow]
                assert [flow for flow in own if f"in_port({pod.port})" in flow], f"{pod.port} sends {family}"
                assert [flow for flow in own if flow.endswith(pod.port)], f"{pod.port} receives {family}"
        assert [flow for flow in found if "dp:tc" not in flow] == []

    def exercise(self, pods: tuple[Pod, Pod], outside: Place) -> None:
        """Ping between pods, the fabric and the host, both ways: once to make the megaflows, once by them."""
        one, two = (pod.place for pod in pods)
        pairs = both_ways([(one, two), (one, outside), (two, outside), (one, self.place)])
        assert ping(pairs) == []
        assert ping(pairs) == []

    # ---- what the agent says of it

    def state(self, pod: Pod) -> str:
        """Return where the agent says that a pod's packets are forwarded."""
        [row] = [row for row in self.look("offload") if row["port"] == pod.port]
        return str(row["state"])

    def metric(self, name: str) -> float | None:
        """Return a sample of the agent's metrics; None when there is none."""
        _, text = self.agent._get("/metrics")
        found = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
        return float(found[0]) if found else None

    # ---- traffic

    def flood(self, source: Pod, target: Pod) -> float:
        """Send about 5 Mbit/s from pod to pod for a moment; return the share that arrives."""
        with (
            socket_in(target.place.netns, socket.AF_INET, socket.SOCK_DGRAM) as ear,
            socket_in(source.place.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth,
        ):
            ear.bind((target.address(4), PORT))
            ear.settimeout(SETTLE_S)
            arrived = 0
            for _ in range(BURST):
                mouth.sendto(bytes(SIZE), (target.address(4), PORT))
                time.sleep(PACE_S)  # a rate, not a wait
            try:
                while True:
                    ear.recv(2 * SIZE)
                    arrived += 1
            except TimeoutError:
                return arrived / BURST

    def send(self, source: Pod, address: str) -> None:
        """Send one datagram from a pod, to whoever it may concern."""
        with socket_in(source.place.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth:
            mouth.sendto(b"", (address, PORT))

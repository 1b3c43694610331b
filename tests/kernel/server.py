"""A server whose bridge is the kernel's, as those see it who look for offload."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from pathlib import Path

from containerlab.netns import socket_in
from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.servers import Pod, Server

NIC = Path("/run/nic")
"""A tree like /sys, of VFs that are veth pairs (tests/fakes/veths.py)."""
WITH_NIC = {"  run: /run/routed\n": f"  run: /run/routed\n  sysfs: {NIC}\n"}
"""The change of the rack file with which an agent knows of them."""
PORT = 7777
BURST, SIZE = 60, 1400
"""Few enough to wait in a socket's buffer."""
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

    def ofctl(self, command: str, *arguments: str) -> None:
        """Program the bridge behind the agent's back."""
        self.node.run(["ovs-ofctl", "-O", "OpenFlow14", command, "br0", *arguments])

    # ---- megaflows

    def megaflows(self) -> list[str]:
        """Return what the datapath forwards by now, all of it."""
        dump = self.node.run(["ovs-appctl", "dpctl/dump-flows", "-m", "--names", "type=all"]).stdout
        return dump.splitlines()

    def exercise(self, pods: tuple[Pod, Pod], outside: Place) -> list[str]:
        """Ping between pods, fabric and host, both ways: once to make the megaflows, once by them; return them."""
        one, two = (pod.place for pod in pods)
        pairs = both_ways([(one, two), (one, outside), (two, outside), (one, self.place)])
        assert ping(pairs) == []
        assert ping(pairs) == []
        return self.megaflows()

    # ---- what the agent says of it

    def state(self, pod: Pod) -> str:
        """Return where the agent says that a pod's packets are forwarded."""
        [row] = [row for row in self.look("offload") if row["port"] == pod.port]
        return str(row["state"])

    def offloads(self) -> dict[str, int]:
        """Return how many pods there are in each state, as the agent's metrics have it."""
        _, text = self.agent._get("/metrics")
        found = re.findall(r'^routed_pods_offload\{state="(.+)"\} (\S+)$', text, re.MULTILINE)
        return {state: int(float(count)) for state, count in found}

    # ---- traffic

    def flood(self, source: Pod, target: Pod) -> float:
        """Send a burst from pod to pod; return the share that arrives."""
        with (
            socket_in(target.place.netns, socket.AF_INET, socket.SOCK_DGRAM) as ear,
            socket_in(source.place.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth,
        ):
            ear.bind((target.address(4), PORT))
            ear.settimeout(SETTLE_S)
            arrived = 0
            for _ in range(BURST):
                mouth.sendto(bytes(SIZE), (target.address(4), PORT))
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


def of(pod: Pod, flows: Sequence[str]) -> list[str]:
    """Return the megaflows from and to a pod; without those that drop."""
    names = (f"in_port({pod.port})", f",{pod.port}", f":{pod.port}")
    return [flow for flow in flows if any(name in flow for name in names) and "actions:drop" not in flow]


def assert_in_tc(flows: Sequence[str], pods: Sequence[Pod]) -> None:
    """Assert that these pods send and receive in both families, and all of it in TC."""
    for pod in pods:
        own = of(pod, flows)
        for family in ("ipv4", "ipv6"):
            assert [flow for flow in own if f"{family}(" in flow and f"in_port({pod.port})" in flow], "it sends"
            assert [flow for flow in own if f"{family}(" in flow and flow.endswith(pod.port)], "it receives"
        assert [flow for flow in own if "dp:tc" not in flow] == []

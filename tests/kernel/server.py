"""A server whose bridge is the kernel's, as those see it who look for offload."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from containerlab.agents import LOG
from containerlab.init import IMAGES
from containerlab.netns import socket_in
from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.fabric import eventually
from tests.servers import RACK, Pod, Server

NIC = Path("/run/nic")
"""A tree like /sys, of VFs that are veth pairs (tests/fakes/veths.py)."""
WITH_NIC = {"  run: /run/routed\n": f"  run: /run/routed\n  sysfs: {NIC}\n"}
"""The change of the rack file with which an agent knows of them."""
SHARED = {
    "bridge:\n  name: br0\n  uplink: bond0 # an OVS port: a NIC, a kernel bond or an OVS bond\n  members:": (
        "resync_s: 3\nipvlan:\n  uplink: bond0\n  members:"
    ),
    "services: []": 'services: [10.96.0.0/16, "fd00:96::/112"]',
}
"""The changes of the rack file that make it one of a server without a bridge."""
SWITCH = Path("/run/openvswitch/ovs-vswitchd.pid")
PORT = 7777
BURST, SIZE, HEADERS = 20, 1400, 42
"""Few enough to wait in a socket's buffer."""
WARM_S, MEASURE_S = 0.4, 1.2
WISH = """
import sqlite3, sys
with sqlite3.connect("/var/lib/routed/ledger.db") as ledger:
    ledger.execute("UPDATE attachments SET details = ? WHERE container_id = ?", sys.argv[1:])
"""
SLOTS = "/run/routed/slots"


class KernelServer(Server):
    """A server of containerlab/kernel.clab.yml, whose agents all know of its NIC."""

    _looks = 0
    """How often agents had looked for leftovers before the agent, or the switch, that is the last."""

    def start(self, config: Path = RACK) -> None:
        self._looks = self.looks()
        super().start(self.copy_of_rack_file({}) if config == RACK else config)

    def at_rest(self) -> bool:
        """Tell also whether the agent has removed what an earlier switch left: all megaflows are made anew then."""
        return super().at_rest() and (not self.node.path(SWITCH).exists() or self.looks() > self._looks)

    def copy_of_rack_file(self, changes: dict[str, str]) -> Path:
        return super().copy_of_rack_file({**WITH_NIC, **changes})

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

    def ofctl(self, command: str, *arguments: str) -> str:
        """Ask the bridge, or program it behind the agent's back."""
        return self.node.run(["ovs-ofctl", "-O", "OpenFlow14", command, "br0", *arguments]).stdout

    def restart_switch(self) -> None:
        """Kill ovs-vswitchd and start it again, with the kernel's datapath."""
        self._looks = self.looks()
        self.kill_daemon("ovs-vswitchd")
        self.node.run([f"{IMAGES}/daemon.sh", "ovs-vswitchd"], env={"DATAPATH": "kernel"})

    def said(self, event: str) -> int:
        """Return how often agents have logged that."""
        log = self.node.path(LOG)
        return log.read_text().count(f'"{event}"') if log.exists() else 0

    def looks(self) -> int:
        """Return how often agents have looked for what an earlier switch left in TC, and dealt with it."""
        return self.said("leftovers.none") + self.said("leftovers.removed")

    def filters(self, device: str = "bond0") -> set[str]:
        """Return the megaflows that TC has for what comes in by a device, by number, whose-ever they are."""
        shown = self.node.run(["tc", "filter", "show", "dev", device, "ingress"]).stdout
        return set(re.findall(r"cookie (\w+)", shown))

    def ways_to(self, pod: Pod) -> list[str]:
        """Return the receivers' addresses that TC has, of a pod, for what comes in by the bond."""
        shown = self.node.run(["tc", "filter", "show", "dev", "bond0", "ingress"]).stdout
        return re.findall(rf"dst_ip ({re.escape(pod.address(4))}|{re.escape(pod.address(6))})\n", shown)

    # ---- limits

    def wish(self, pod: Pod, wishes: Mapping[str, int]) -> None:
        """Have a pod ask for something, in the ledger, where its annotations stand; no agent may run."""
        self.node.run([sys.executable, "-c", WISH, json.dumps(wishes), pod.id])

    def meters(self) -> dict[int, int]:
        """Return the rate of each meter of the bridge, bits a second."""
        found = re.findall(r"meter=(\d+) kbps burst bands=\s*type=drop rate=(\d+)", self.ofctl("dump-meters"))
        return {int(number): 1000 * int(rate) for number, rate in found}

    def buckets(self, pod: Pod) -> str:
        """Return the rates of the token buckets at the ends of a pod's wire, to the pod and from it."""
        show = ["tc", "qdisc", "show", "dev"]
        outer = self.node.run([*show, pod.port]).stdout
        inner = self.node.run(["nsenter", f"--net={SLOTS}", *show, pod.port.replace("rt", "rp")]).stdout
        return " ".join(re.findall(r"tbf 5254: root .*?rate (\S+)", outer + inner))

    # ---- megaflows

    def megaflows(self) -> list[str]:
        """Return what the datapath forwards by now, all of it."""
        dump = self.node.run(["ovs-appctl", "dpctl/dump-flows", "-m", "--names", "type=all"]).stdout
        return dump.splitlines()

    def exercise(self, pods: tuple[Pod, Pod], outside: Place) -> list[str]:
        """Ping between pods, fabric and host, both ways: until all answer, then by the megaflows; return these."""
        one, two = (pod.place for pod in pods)
        pairs = both_ways([(one, two), (one, outside), (two, outside), (one, self.place)])
        eventually(lambda: not ping(pairs), "everybody answering everybody")
        lost = ping(pairs)
        assert lost == [], lost
        return self.megaflows()

    # ---- what the agent says of it

    def state(self, pod: Pod) -> str:
        """Return where the agent says that a pod's packets are forwarded."""
        [row] = [row for row in self.look("offload") if row["port"] == pod.port]
        return str(row["state"])

    def metrics(self) -> str:
        """Return the agent's metrics."""
        _, text = self.agent._get("/metrics")
        return text

    def offloads(self) -> dict[str, int]:
        """Return how many pods there are in each state, as the agent's metrics have it."""
        found = re.findall(r'^routed_pods_offload\{state="(.+)"\} (\S+)$', self.metrics(), re.MULTILINE)
        return {state: int(float(count)) for state, count in found}

    # ---- traffic

    def throughput(self, source: Place, target: Place) -> float:
        """Send from place to place as fast as it goes; return the bits a second that arrive once a burst has passed."""
        with (
            socket_in(target.netns, socket.AF_INET, socket.SOCK_DGRAM) as ear,
            socket_in(source.netns, socket.AF_INET, socket.SOCK_DGRAM) as mouth,
        ):
            ear.bind((str(target.address(4)), PORT))
            ear.setblocking(False)
            began = time.monotonic()
            arrived = 0
            while (now := time.monotonic()) < began + WARM_S + MEASURE_S:
                for _ in range(BURST):
                    mouth.sendto(bytes(SIZE), (str(target.address(4)), PORT))
                with contextlib.suppress(BlockingIOError):
                    while True:
                        ear.recv(2 * SIZE)
                        arrived += now > began + WARM_S
            return arrived * (SIZE + HEADERS) * 8 / MEASURE_S

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

"""Out of a big flat L2, one server at a time: pods of both kinds on one bridge, and nothing left of it in the end.

The flat network is VLAN 200 with its gateway on r1a. It spans the rack by r1a alone: a VLAN that is stretched over two
switches which know nothing of each other comes back to its sender (docs/migration.md), so the other links are cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from containerlab.agents import Agent
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Place, Probe, both_ways
from tests.fabric import eventually
from tests.servers import Server, losses

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

VLAN, PREFIX, GATEWAY = "200", "10.210.0.0/24", "10.210.0.1"
LEGACY = {"bridge:\n": f"bridge:\n  legacy: {{vlans: [{VLAN}], prefixes: [{PREFIX}]}}\n"}
NAMES = ("s11", "s12")
CUT = ("r1b:s11", "r1b:s12")
TOR_PORTS = ("s11", "s12")


class FlatPod:
    """A pod as Contiv leaves it: a veth whose outer end is an access port of the flat VLAN."""

    def __init__(self, server: Server, number: int) -> None:
        self.server, self.port, self.netns = server, f"vport{number}", f"flat-{server.name}-{number}"
        self.address = f"10.210.0.{10 * int(server.name[1:]) + number}"
        node = server.node
        node.run(["ip", "netns", "add", self.netns])
        node.run(["ip", "link", "add", self.port, "type", "veth", "peer", "name", "eth0", "netns", self.netns])
        for device, there in ((self.port, []), ("eth0", ["ip", "netns", "exec", self.netns])):
            node.run([*there, "ethtool", "-K", device, "tx", "off"])
            node.run([*there, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1"])
        node.run(["ip", "link", "set", self.port, "up", "arp", "off"])
        inside = ["ip", "-n", self.netns]
        node.run([*inside, "addr", "add", f"{self.address}/24", "dev", "eth0"])
        node.run([*inside, "link", "set", "eth0", "up"])
        node.run([*inside, "route", "add", "default", "via", GATEWAY])
        node.run(["ovs-vsctl", "add-port", "br0", self.port, f"tag={VLAN}"])
        self.place = Place(f"{self.netns}", node.path(Path("/run/netns") / self.netns), (ip_address(self.address),))

    def remove(self) -> None:
        self.server.node.run(["ovs-vsctl", "--if-exists", "del-port", "br0", self.port])
        self.server.node.run(["ip", "netns", "delete", self.netns])


@pytest.fixture
def flat_fabric(lab: Lab) -> Iterator[None]:
    """VLAN 200 on r1a: switched between the servers' ports, routed by a gateway of its own."""
    tor = lab.node("r1a")
    for link in CUT:
        lab.cut(link)
    for port in TOR_PORTS:
        tor.run(["ovs-vsctl", "set", "port", port, "protected=false"])
    tor.run(["ovs-vsctl", "add-port", "gw", "flat", f"tag={VLAN}", "--", "set", "interface", "flat", "type=internal"])
    for command in (["addr", "add", f"{GATEWAY}/24", "dev", "flat"], ["link", "set", "flat", "up"]):
        tor.run(["ip", *command])
    yield
    tor.run(["ovs-vsctl", "del-port", "gw", "flat"])
    for port in TOR_PORTS:
        tor.run(["ovs-vsctl", "set", "port", port, "protected=true"])
    for link in CUT:
        lab.restore(link)


@pytest.fixture
def movers(servers: dict[str, Server], flat_fabric: None) -> Iterator[list[Server]]:
    """Two servers whose bridges are learning switches, as docs/migration.md goes back to; agents as ever afterwards."""
    del flat_fabric
    found = [servers[name] for name in NAMES]
    for server in found:
        server.agent.stop()
        go_back(server)
    yield found
    for server in found:
        server.clean_up()
        if server.agent.alive():
            server.agent.stop()
        server.start()


def go_back(server: Server) -> None:
    """Give a bridge back, after its agent has ended."""
    ours = [["--", "--if-exists", "del-port", "br0", port] for port in server.ports()]
    server.node.run(["ovs-vsctl", *(word for port in ours for word in port)])
    server.node.run(["ovs-vsctl", "remove", "bridge", "br0", "external_ids", "owner"])
    server.node.run(["ovs-vsctl", "set-fail-mode", "br0", "standalone"])


@pytest.fixture
def flat(movers: list[Server]) -> Iterator[list[FlatPod]]:
    """Two pods of the flat network on each server; those that a test takes out of the list it removes itself."""
    pods = [FlatPod(server, number) for server in movers for number in (1, 2)]
    yield pods
    for pod in pods:
        pod.remove()


def start(server: Server, changes: dict[str, str]) -> None:
    """Start an agent where only one ToR has a link to the server."""
    server.agent = Agent.start(server.node, env={"ROUTED_CONFIG": str(server.copy_of_rack_file(changes))})
    server.agent.wait_ready()


def prepare(server: Server) -> None:
    """Do what docs/migration.md says before an agent starts."""
    server.node.run(["ovs-vsctl", "set-fail-mode", "br0", "secure"])
    server.node.run(["ovs-ofctl", "add-flow", "br0", "priority=0,actions=NORMAL"])


def test_servers_move_out_of_a_flat_network_one_at_a_time(movers: list[Server], flat: list[FlatPod]) -> None:
    everybody = [(one.place, other.place) for index, one in enumerate(flat) for other in flat[index + 1 :]]
    eventually(lambda: not ping(both_ways(everybody, (4,))), "a flat network as ever")
    pods = []
    for server in movers:
        prepare(server)
        with Probe(both_ways(everybody, (4,))) as probe:
            start(server, LEGACY)
            assert losses(probe.stop()) == []
        pods.append(server.add(1)[0])
        eventually(lambda: not ping(both_ways(everybody, (4,))), f"the flat network, now that {server.name} moves")
        mixed = [(one.place, pod.place) for one in flat for pod in pods]
        eventually(lambda mixed=mixed: not ping(both_ways(mixed, (4,))), "pods of both kinds by the gateway")
    eventually(lambda: not ping(both_ways([(pods[0].place, pods[1].place)])), "routed pods")
    while flat:
        flat.pop().remove()
    for server, pod in zip(movers, pods, strict=True):
        server.agent.stop()
        with Probe(both_ways([(pods[0].place, pods[1].place)])) as probe:
            start(server, {})
            assert losses(probe.stop()) == []
        ours = [line for line in server.all_flows() if line.startswith("cookie=0x5652")]  # a stray goes at its own time
        assert ours
        assert not [line for line in ours if "NORMAL" in line or "dl_vlan" in line or "table=25" in line]
        server.check(pod)

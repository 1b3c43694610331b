"""A ToR whose LACP ends while it forwards on, below a bond of the kernel, which leaves the link to it out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containerlab.ping import ping
from containerlab.probe import Place, Probe, both_ways
from tests.fabric import eventually
from tests.forging import GATEWAY_MAC
from tests.kernel.server import KernelServer
from tests.servers import Pod, Sniffer
from tests.system.frames import udp

pytestmark = [pytest.mark.kernel(machine="other-uplinks"), pytest.mark.timeout(240)]

FLOWS, RATE_HZ = 4, 10
"""Of a pod, per direction and IP version: ECMP and the bonds spread them over both ToRs."""
HEARD_S = 1.0
"""A flow that lost nothing of what it sent in so long is through; of the last packets that is not known yet."""
TOR, OTHER = "r1a", "r1b"
MACS = {"s11": "02:10:00:00:01:0b", "s12": "02:10:00:00:01:0c"}
LEFT_OUT = "its bond leaves it out"
DEAF = """
for device in {port} lag-{port}; do tc qdisc add dev $device clsact; done
for hook in ingress egress; do tc filter add dev {port} $hook pref 1 protocol 0x8809 matchall action drop; done
tc filter add dev {port} ingress pref 2 matchall action mirred ingress redirect dev lag-{port}
tc filter add dev lag-{port} egress pref 2 matchall action mirred egress redirect dev {port}
"""
"""No LACP on a ToR's port, which forwards as before, whatever the ToR's own bond makes of it."""
HEARING = """
for device in {port} lag-{port}; do tc qdisc delete dev $device clsact; done
ip link set lag-{port} type bond ad_actor_system 02:00:00:00:01:fe
"""
"""The system is the one that it has: the driver tells of it at once, where it would now do so every 30 s."""


@pytest.fixture
def deaf(
    s11: KernelServer, s12: KernelServer, pods: tuple[Pod, Pod], shared: tuple[Pod, Pod], outside: Place
) -> Iterator[Probe]:
    """Traffic between the fabric and a pod of each server, while a ToR's LACP ends; it begins again afterwards."""
    servers, tor = (s11, s12), s11.lab.node(TOR)
    flows = both_ways([(pods[0].place, outside), (shared[0].place, outside)] * FLOWS)
    eventually(lambda: not ping(flows), "no silence")
    with Probe(flows, RATE_HZ) as probe:
        for server in servers:
            tor.run(["/bin/sh", "-e", "-c", DEAF.format(port=server.name)])
        yield probe
        for server in servers:
            tor.run(["/bin/sh", "-e", "-c", HEARING.format(port=server.name)])
    for server in servers:
        eventually(server.bonded, "the bond as it was", 60)
        eventually(server.at_rest, f"{server.name} at rest", 60)


def test_a_tor_that_ends_lacp_alone_is_steered_around(
    s11: KernelServer, s12: KernelServer, pods: tuple[Pod, Pod], shared: tuple[Pod, Pod], deaf: Probe
) -> None:
    """Of a server with a bridge and of one without. Its link carries and its gateway answers: the bond alone tells."""
    for server in (s11, s12):
        eventually(lambda server=server: reasons(server) == [LEFT_OUT, None], lambda server=server: said(server))
    for server in (s11, s12):
        eventually(lambda server=server: not server.announced(TOR), f"no pod of {server.name} on {TOR}")
        eventually(lambda server=server: steered(server), "its pods beyond the rack, by the other ToR")
    assert_dropped_by_the_bond(s11, pods[1])
    assert_dropped_by_the_bond(s12, shared[1])
    eventually(lambda: min(deaf.arrivals(HEARD_S)) == 1.0, "all that is sent arrives")
    assert not any(report.open for report in deaf.stop())


def assert_dropped_by_the_bond(server: KernelServer, pod: Pod) -> None:
    """The control: what that ToR would send to a pod is lost, and what the other one sends is not.

    The pod has been silent: TC would take packets for which it has a filter before the bond drops them.
    """
    frame = udp(GATEWAY_MAC, MACS[server.name], "10.102.0.77", pod.address(4))
    with Sniffer("the pod", pod.place.netns, "eth0") as receiver:
        for tor in (TOR, OTHER):
            with Sniffer(tor, server.lab.node(tor).netns_path, server.name) as port:
                port.send(frame + f"<{tor}>".encode())
        eventually(lambda: receiver.seen(f"<{OTHER}>".encode()), "what the other ToR sends")
        assert not receiver.seen(f"<{TOR}>".encode())


def reasons(server: KernelServer) -> list[str | None]:
    return [row["side_reason"] for row in server.look("neighbors")]


def said(server: KernelServer) -> str:
    return f"{server.name} says {server.look('neighbors')}; {server.bond()}"


def steered(server: KernelServer) -> bool:
    """Tell whether the spine has the server's host routes, by the other ToR alone."""
    routes = server.lab.kernel_routes("sp1")
    own = (prefix for pod in server.pods.values() for prefix in pod.prefixes)
    return all(routes.get(prefix, {}).get("dev") == f"to-{OTHER}" for prefix in own)

"""`routed mirror` on a server with its agent: one pod's packets, while that pod is there."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containerlab.agents import ROUTED
from containerlab.ping import ping
from containerlab.probe import both_ways
from tests.fabric import eventually
from tests.servers import Pod, Residents, Server, Sniffer

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture
def listener(s11: Server) -> Iterator[Sniffer]:
    """A pair of devices: the bridge gets one end, tcpdump would be on the other."""
    s11.node.run(["ip", "link", "add", "copies", "up", "type", "veth", "peer", "name", "listener"])
    s11.node.run(["ip", "link", "set", "listener", "up"])
    with Sniffer("listener", s11.node.netns_path, "listener") as sniffer:
        yield sniffer
    s11.node.run(["ip", "link", "delete", "copies"])


def talk(pod: Pod, residents: Residents) -> None:
    """Have a pod and the residents ping each other, on this server and beyond."""
    eventually(
        lambda: not ping(both_ways([(pod.place, residents.far.place), (residents.one.place, residents.two.place)])),
        "answers",
    )


def seen(listener: Sniffer, pod: Pod) -> int:
    return listener.seen(pod.place.addresses[0].packed)


@pytest.mark.parametrize("to", ["bond0", "copies"])
def test_what_is_needed_for_something_else_takes_no_copies(
    s11: Server, residents: Residents, listener: Sniffer, to: str
) -> None:
    del listener
    s11.node.run(["ip", "address", "add", "192.0.2.1/32", "dev", "copies"])
    done = s11.node.run([ROUTED, "mirror", residents.one.address(4), "--to", to], check=False)
    assert done.returncode == 2
    assert f"the agent refused: {to}" in done.stderr
    assert s11.look("mirrors") == []
    assert s11.healthy(residents.one)


def mirrors_in_database(server: Server) -> list[str]:
    return server.node.run(["ovs-vsctl", "--bare", "--columns=name", "list", "mirror"]).stdout.split()


def bridge_ports(server: Server) -> list[str]:
    return server.node.run(["ovs-vsctl", "list-ports", "br0"]).stdout.split()


@pytest.mark.parametrize("agent_is_there", [True, False], ids=["agent-there", "agent-away"])
def test_a_mirror_outlives_its_agent_and_not_its_pod(
    s11: Server, residents: Residents, listener: Sniffer, agent_is_there: bool
) -> None:
    [pod] = s11.add(1)
    s11.await_routes([*s11.pods.values()])
    s11.node.run([ROUTED, "mirror", f"test/{pod.netns.name}", "--to", "copies"])
    talk(pod, residents)
    assert seen(listener, pod) > 0
    assert seen(listener, residents.one) == 0
    s11.agent.stop()
    if agent_is_there:
        s11.start()
        assert [(row["port"], row["to"], row["error"]) for row in s11.look("mirrors")] == [(pod.port, "copies", None)]
    before = seen(listener, pod)
    talk(pod, residents)
    assert seen(listener, pod) > before
    s11.delete([pod])
    if not agent_is_there:
        assert mirrors_in_database(s11) == [f"routed-{pod.port}"], "what the next pod of that port would be copied by"
        s11.start()
    before = listener.seen(b"")
    [following] = s11.add(1)
    assert following.port == pod.port
    talk(following, residents)
    assert listener.seen(b"") == before
    assert (s11.look("mirrors"), mirrors_in_database(s11)) == ([], [])
    assert "copies" not in bridge_ports(s11)
    s11.delete([following])

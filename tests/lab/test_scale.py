"""Many pods at once: thirty that come and go together, and as many as the rack has addresses."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Flow
from tests.fabric import eventually
from tests.manifests import container
from tests.servers import AT_ONCE, Pod, Server, each, failure

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

TOGETHER = 30
RACK_ADDRESSES = 506
"""Two /24 without network, broadcast and gateway."""


def report(what: str, begin: float) -> None:
    """Say how long it took, where the test run shows what tests print."""
    sys.stdout.write(f"{what}: {time.monotonic() - begin:.2f} s\n")


def memory_mib(server: Server) -> float:
    """Return what the agent, its ExaBGP and their helpers have in memory, pages that they share counted for each."""
    sessions = f"{server.agent.pid},{server.agent.speaker_pid()}"
    return sum(map(int, server.node.run(["ps", "-o", "rss=", "--sid", sessions]).stdout.split())) / 1024


def reaches_all(source: Server, pods: list[Pod]) -> bool:
    return not ping([Flow(source.place, pod.place, version) for pod in pods for version in (4, 6)])


def assert_nothing_is_left(server: Server, plugged: set[str]) -> None:
    """Look at every plane, and at both ToRs."""
    assert server.attachments() == {}
    assert server.flows() == []
    assert server.ports() >= plugged, "slots stay plugged"
    assert server.look("routes") == []
    assert server.leases("used") == 0
    server.await_routes([])


def test_thirty_pods_at_once_come_and_go_without_a_trace(servers: dict[str, Server], s11: Server) -> None:
    plugged = s11.ports()
    begin = time.monotonic()
    pods = s11.add(TOGETHER)
    report(f"{TOGETHER} ADDs at once", begin)
    addresses = {address for pod in pods for address in pod.place.addresses}
    assert len(addresses) == 2 * TOGETHER
    assert len({pod.port for pod in pods}) == len({pod.mac for pod in pods}) == TOGETHER
    s11.await_routes(pods)
    assert len(s11.flows()) == 5 * TOGETHER
    eventually(lambda: reaches_all(servers["s21"], pods), "every pod answering the other rack")
    eventually(lambda: reaches_all(servers["s12"], pods), "every pod answering its own rack")

    begin = time.monotonic()
    each(s11.detach, pods)
    report(f"{TOGETHER} DELs at once", begin)
    for pod in pods:
        assert s11.devices(pod.netns) == {"lo"}, "the pod's interface went while its namespace is still there"
    s11.remove_netns(pod.netns for pod in pods)
    assert_nothing_is_left(s11, plugged)
    assert s11.leases("cooling") >= TOGETHER, "an address rests before somebody else gets it"


@pytest.fixture
def landlord(lab: Lab, servers: dict[str, Server]) -> Iterator[Server]:
    """A server that no other test uses, with all addresses of its rack; no pod of the rack is anywhere else."""
    assert servers["s21"].attachments() == {}
    server = Server(lab, "s22")
    server.start(
        server.copy_of_rack_file(
            {
                "owns: [10.102.1.0/24,": "owns: [10.102.0.0/24, 10.102.1.0/24,",
                '  s21:\n    addresses: [10.2.0.21, "fd00:2::21"]\n    owns: [10.102.0.0/24, "fd00:102::1:0/112"]': "",
            }
        )
    )
    yield server
    server.clean_up()
    server.agent.stop()
    server.agent.kill_speaker()


def test_every_address_of_the_rack_is_handed_out_and_not_one_more(landlord: Server) -> None:
    assert landlord.leases("free") == RACK_ADDRESSES
    begin = time.monotonic()
    pods = landlord.add(RACK_ADDRESSES)
    plugged = landlord.ports()
    report(f"{RACK_ADDRESSES} ADDs, {AT_ONCE} at a time", begin)
    assert len({pod.address(4) for pod in pods}) == RACK_ADDRESSES
    assert len({pod.address(6) for pod in pods}) == RACK_ADDRESSES
    landlord.await_routes(pods)

    refused = failure(landlord.add, 1)
    assert refused.code == 101
    for word in ("10.102.0.0/24, 10.102.1.0/24", f"may use {RACK_ADDRESSES}", "free when a pod ends"):
        assert word in refused.msg
    assert len(landlord.attachments()) == RACK_ADDRESSES, "the refused one left no trace"

    taken, limit = memory_mib(landlord), container("agent")["resources"]["limits"]["memory"]
    sys.stdout.write(f"memory of the agent and ExaBGP with {RACK_ADDRESSES} pods: {taken:.0f} MiB\n")
    assert 0 < taken < int(limit.removesuffix("Mi")), "out of memory, ExaBGP would end with the agent"

    begin = time.monotonic()
    landlord.delete(pods)
    report(f"{RACK_ADDRESSES} DELs", begin)
    assert_nothing_is_left(landlord, plugged)
    assert landlord.leases("cooling") == RACK_ADDRESSES

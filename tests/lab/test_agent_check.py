"""CHECK: names what is not as it should be, on any plane, and has it mended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest

from containerlab.driver import CniError, Result
from tests.fabric import eventually
from tests.servers import Pod, Server, failure

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def unhurried(servers: dict[str, Server]) -> Iterator[None]:
    """The agent of s11 looks at pods only when it is asked to: nothing is mended before CHECK has seen it."""
    with servers["s11"].configured({"vlan: null": "resync_s: 3600\nvlan: null"}):
        yield


@pytest.fixture
def pod(s11: Server) -> Pod:
    return s11.add(1)[0]


@pytest.mark.parametrize(
    ("tamper", "words"),
    [
        pytest.param("address delete {ipv4}/32 dev eth0", "10.101.0.", id="address"),
        pytest.param("-6 address delete {ipv6}/128 dev eth0", "fd00:101::", id="IPv6 address"),
        pytest.param("route delete default", "10.101.0.1", id="default route"),
        pytest.param("link set eth0 mtu 1300", "1300", id="MTU"),
        pytest.param("link delete eth0", "is missing", id="interface"),
    ],
)
def test_a_check_names_what_is_wrong_and_has_it_mended(s11: Server, pod: Pod, tamper: str, words: str) -> None:
    s11.check(pod)
    s11.inside(pod, "ip", *tamper.format(ipv4=pod.address(4), ipv6=pod.address(6)).split())
    error = failure(s11.check, pod)
    assert error.code == 51
    assert error.msg.startswith("links: ")
    assert words in error.msg
    eventually(lambda: s11.healthy(pod), "the repair")


def test_a_check_finds_a_missing_flow_or_it_is_back_already(s11: Server, pod: Pod) -> None:
    flows = sorted(s11.flows())
    for _ in range(5):
        s11.node.run(["ovs-ofctl", "-O", "OpenFlow14", "del-flows", "br0", f"table=40,ip,nw_dst={pod.address(4)}"])
        try:
            s11.check(pod)
            complaint = ""
        except CniError as error:
            complaint = error.msg
        assert complaint.startswith("flows: ") or sorted(s11.flows()) == flows
        eventually(lambda: sorted(s11.flows()) == flows, "the repair")


def test_a_check_compares_with_the_previous_result(s11: Server, pod: Pod) -> None:
    wrong = json.loads(json.dumps(pod.result.raw))
    wrong["ips"][0]["address"] = "10.101.0.99/32"
    error = failure(s11.check, replace(pod, result=Result(wrong)))
    assert error.code == 51
    assert "10.101.0.99/32" in error.msg


def test_a_check_of_what_is_not_attached(s11: Server, pod: Pod) -> None:
    s11.detach(pod)
    assert failure(s11.check, pod).code == 3

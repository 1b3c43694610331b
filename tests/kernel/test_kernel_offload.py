"""Every packet of a pod is forwarded by TC, in a kernel that has it: what OVS cannot give to TC, no NIC would take."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import pytest

from containerlab.agents import ROUTED
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Place, Probe, both_ways
from tests.fabric import eventually
from tests.kernel.server import KernelServer, assert_in_tc, of
from tests.servers import Pod

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]

SYSTEM, HOST_MAC = "02:00:00:00:01:fe", "02:10:00:00:01:0b"


def test_a_server_bonds_across_two_switches_that_share_nothing_but_a_system_id(s11: KernelServer) -> None:
    assert s11.partners() == [(SYSTEM, "1"), (SYSTEM, "2")]


def test_both_switches_know_the_server(lab: Lab, s11: KernelServer) -> None:
    def known(tor: str) -> set[str]:
        neighbours = json.loads(lab.node(tor).run(["ip", "-j", "neigh", "show", "dev", "gw"]).stdout)
        sure = (entry for entry in neighbours if "REACHABLE" in entry["state"])  # it need not ask
        return {entry["dst"] for entry in sure if entry.get("lladdr") == HOST_MAC}

    for tor in s11.tors:
        eventually(lambda tor=tor: known(tor) >= {"10.1.0.11", "fd00:1::11"}, f"{tor} knows s11")


def test_pods_traffic_is_in_tc(
    s11: KernelServer, pods: tuple[Pod, Pod], outside: Place, record_property: Callable[[str, object], None]
) -> None:
    flows = s11.exercise(pods, outside)
    record_property("megaflows", "\n".join(flows))
    assert_in_tc(flows, pods)


def test_the_agent_says_so_of_each_pod(s11: KernelServer, pods: tuple[Pod, Pod], outside: Place) -> None:
    with Probe(both_ways([(pod.place, outside) for pod in pods]), rate_hz=5):  # what is idle is forgotten
        rows = {row["port"]: row for row in json.loads(s11.node.run([ROUTED, "offload", "-o", "json"]).stdout)}
        eventually(lambda: s11.offloads() == {"hardware": 0, "tc-software": 2, "slow-path": 0, "idle": 0}, "the metric")
    for pod in pods:
        row = rows[pod.port]
        assert (row["state"], row["slow-path_packets"], row["hardware_packets"]) == ("tc-software", 0, 0)
        assert row["tc-software_packets"] > 0
        assert "not_in_hw" in row["reasons"][0]


def test_a_probe_shows_what_forwards_a_pods_packets(s11: KernelServer, pods: tuple[Pod, Pod]) -> None:
    done = s11.node.run([ROUTED, "offload", "verify", pods[0].address(4), "-o", "json"], check=False)
    verdict = json.loads(done.stdout)
    assert done.returncode == 1, "no NIC here"
    assert verdict["answered"] == verdict["probes"] == 40
    assert verdict["state"] == "tc-software"
    for way in ("sent", "received"):
        assert verdict[way].keys() == {"tc-software"}
        assert verdict[way]["tc-software"] >= 40


def test_what_tc_cannot_have_is_found(
    s11: KernelServer, pods: tuple[Pod, Pod], record_property: Callable[[str, object], None]
) -> None:
    one, two = pods
    s11.inside(one, "ping", "-6", "-n", "-c", "2", "-s", "3000", two.address(6))
    record_property("megaflows", "\n".join(s11.megaflows()))
    [row] = [row for row in s11.look("offload") if row["port"] == one.port]
    assert row["state"] == "slow-path"
    assert row["slow-path_packets"] > 0
    assert any("IPv6 fragments" in reason for reason in row["reasons"])
    eventually(lambda: s11.offloads().get("slow-path") == 2, "the metric, of the one who answers as well")
    eventually(lambda: s11.state(one) != "slow-path", "the fragments' megaflows are gone", 60)


def test_a_pod_without_traffic_is_idle(s11: KernelServer, pods: tuple[Pod, Pod]) -> None:
    eventually(lambda: s11.state(pods[1]) == "idle", "no megaflows", 60)
    eventually(lambda: s11.offloads().get("idle", 0) >= 1, "the metric")


@pytest.fixture
def cut(lab: Lab, s11: KernelServer) -> Iterator[Callable[[str], None]]:
    """Cut links; they are mended afterwards."""
    gone: list[str] = []

    def cut(link: str) -> None:
        gone.append(link)
        lab.cut(link)

    yield cut
    for link in gone:
        lab.restore(link)
    eventually(s11.bonded, "the bond as it was", 60)
    eventually(s11.at_rest, "s11 at rest", 60)


@pytest.mark.parametrize("tor", ["r1a", "r1b"])
def test_traffic_goes_on_when_a_link_is_cut(
    s11: KernelServer, pods: tuple[Pod, Pod], outside: Place, cut: Callable[[str], None], tor: str
) -> None:
    flows = both_ways([(pods[0].place, outside)])
    assert ping(flows) == []
    with Probe(flows, rate_hz=20) as probe:
        cut(f"{tor}:s11")
        after = probe.sent + 2 * 20 * len(flows)  # two seconds later, so that the last one began after the cut
        eventually(lambda: probe.sent >= after and min(probe.arrivals(1.0)) == 1.0, "all that is sent arrives", 60)
        assert not any(report.open for report in probe.stop())
    assert ping(flows) == []
    assert_in_tc(s11.megaflows(), pods[:1])


def test_megaflows_do_not_grow_with_the_number_of_peers(s11: KernelServer, pods: tuple[Pod, Pod]) -> None:
    before = of(pods[0], s11.megaflows())
    for last in range(2, 60):
        s11.send(pods[0], f"192.0.2.{last}")
    new = set(map(identity, of(pods[0], s11.megaflows()))) - set(map(identity, before))
    assert 0 < len(new) < 10


def identity(flow: str) -> str:
    return flow.partition(",")[0]

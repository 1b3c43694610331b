"""Pods with VFs, by the real agent: veth pairs play VF and representor (tests/fakes/veths.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from containerlab.driver import CniError
from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from routed.attach.vf import own_name
from tests.fabric import eventually
from tests.fakes.veths import VethNic
from tests.kernel.server import KernelServer, assert_in_tc
from tests.servers import Pod, failure

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]

PCI = "pciID"


@dataclass(frozen=True)
class Rig:
    """The server with a NIC of two PFs, one VF on each."""

    server: KernelServer
    nic: VethNic

    def address(self, pf: int) -> str:
        return self.nic.address(0, self.nic.pfs[pf])

    def attach(self, pf: int) -> Pod:
        """ADD as Multus calls it for a pod with a VF."""
        server, plugin = self.server, self.server.plugin
        server.plugin = replace(plugin, conf={**plugin.conf, "deviceID": self.address(pf)})
        try:
            return server.attach(server.netns()[0])
        finally:
            server.plugin = plugin


@pytest.fixture(scope="module")
def rig(s11: KernelServer, nic: VethNic, pods: tuple[Pod, Pod]) -> Iterator[Rig]:
    yield Rig(s11, nic)
    s11.clean_up(keep={pod.id for pod in pods})


@pytest.fixture(scope="module")
def vf_pods(rig: Rig) -> tuple[Pod, Pod]:
    return rig.attach(0), rig.attach(1)


def test_representors_are_ports_before_any_pod_comes(rig: Rig) -> None:
    numbers = [
        rig.server.node.run(["ovs-vsctl", "get", "interface", rig.nic.representor(0, pf), "ofport"]).stdout.strip()
        for pf in rig.nic.pfs
    ]
    assert numbers == ["5096", "5352"], "1000 + slot; 256 slots for each PF"


def test_pods_with_vfs_are_in_tc(rig: Rig, vf_pods: tuple[Pod, Pod], outside: Place) -> None:
    rig.server.await_routes([*rig.server.pods.values()])
    assert_in_tc(rig.server.exercise(vf_pods, outside), vf_pods)


def test_pods_with_and_without_a_vf_reach_each_other(vf_pods: tuple[Pod, Pod], pods: tuple[Pod, Pod]) -> None:
    assert ping(both_ways([(vf.place, pod.place) for vf in vf_pods for pod in pods])) == []
    assert {pod.port for pod in pods} == {"rt0", "rt1"}


def test_a_vf_is_shown_and_told_to_the_runtime(rig: Rig, vf_pods: tuple[Pod, Pod]) -> None:
    rows = rig.server.attachments()
    for number, pod in enumerate(vf_pods):
        representor = rig.nic.representor(0, rig.nic.pfs[number])
        row = rows[pod.id]
        assert (row["vf"], row["port"], row["state"]) == (rig.address(number), representor, "ready")
        host, inside = pod.result.raw["interfaces"]
        assert (host["name"], inside["name"], inside[PCI]) == (representor, "eth0", rig.address(number))
        rig.server.check(pod)
        assert rig.server.plugin.add(pod.id, pod.netns).raw["ips"] == pod.result.raw["ips"], "once more"


def test_a_vf_in_use_is_for_nobody_else(rig: Rig, vf_pods: tuple[Pod, Pod]) -> None:
    assert failure(rig.attach, 0).code == 11
    rig.server.check(vf_pods[0])


@pytest.fixture(scope="module")
def never(rig: Rig, vf_pods: tuple[Pod, Pod]) -> None:  # noqa: ARG001 - they have their VFs before
    """The agent after a restart: it gives VFs to nobody any more, and looks by itself once an hour."""
    rig.server.agent.stop()
    rig.server.start(rig.server.copy_of_rack_file({"bridge:\n": "resync_s: 3600\nbridge:\n  vfs: never\n"}))
    eventually(rig.server.at_rest, "s11 at rest", 60)


@pytest.mark.usefixtures("never")
def test_pods_keep_their_vfs_where_nobody_gets_one_any_more(rig: Rig, vf_pods: tuple[Pod, Pod], outside: Place) -> None:
    for pod in vf_pods:
        rig.server.check(pod)
    assert ping(both_ways([(pod.place, outside) for pod in vf_pods])) == []
    assert "bridge.vfs is `never`" in str(failure(rig.attach, 0))


@pytest.mark.usefixtures("never")
def test_check_finds_a_vf_that_is_down_and_it_is_mended(rig: Rig, vf_pods: tuple[Pod, Pod]) -> None:
    rig.server.inside(vf_pods[0], "ip", "link", "set", "eth0", "down")
    with pytest.raises(CniError, match="vf_links"):  # the agent's own timer is an hour away
        rig.server.check(vf_pods[0])
    eventually(lambda: rig.server.healthy(vf_pods[0]), "the VF as it was")
    assert rig.server.inside(vf_pods[0], "ip", "link", "show", "up", "dev", "eth0")


def test_an_agent_that_restarts_with_vfs_for_all_finds_each_pod_with_what_it_has(
    rig: Rig, vf_pods: tuple[Pod, Pod], pods: tuple[Pod, Pod], outside: Place
) -> None:
    rig.server.agent.stop()
    rig.server.start(rig.server.copy_of_rack_file({"bridge:\n": "bridge:\n  vfs: all\n"}))
    eventually(rig.server.at_rest, "s11 at rest", 60)
    for pod in (*vf_pods, *pods):
        rig.server.check(pod)
    assert ping(both_ways([(pod.place, outside) for pod in vf_pods])) == []
    assert {row["port"] for row in rig.server.attachments().values()} >= {pod.port for pod in (*vf_pods, *pods)}


def test_a_vf_comes_back_for_the_next_pod(rig: Rig, vf_pods: tuple[Pod, Pod]) -> None:
    own = own_name(rig.address(0))
    assert own not in rig.server.devices()
    assert "no VF is free" in str(failure(rig.server.add, 1))
    rig.server.detach(vf_pods[0])
    assert own in rig.server.devices()
    [again] = rig.server.add(1)
    assert (again.port, again.result.raw["interfaces"][1][PCI]) == (vf_pods[0].port, rig.address(0))

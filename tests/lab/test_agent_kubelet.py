"""VFs without Multus: the real agent asks a kubelet which one a pod has; veth pairs play VF and representor."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from containerlab.ping import ping
from containerlab.probe import both_ways
from tests.fabric import eventually
from tests.fakes.kubelet import FakeKubelet
from tests.fakes.veths import VethNic
from tests.servers import Server, failure

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

TREE, SOCKET = "/run/nic", "/run/kubelet.sock"
CHANGES = {
    "  run: /run/routed\n": f"  run: /run/routed\n  sysfs: {TREE}\n",
    "vlan: null": f"sriov: {{resources: [mellanox.com/*], pod_resources: {SOCKET}}}\nvlan: null",
}


@pytest.fixture
def nic(s11: Server) -> Iterator[VethNic]:
    made = VethNic(s11.node.path(TREE), ["etha", "ethb"], 1)
    made.plug(lambda *command: s11.node.run(list(command)))
    with s11.configured(CHANGES):
        eventually(s11.at_rest, "s11 at rest", 60)
        yield made
        s11.clean_up()
    for pf in made.pfs:
        s11.node.run(["ip", "link", "delete", made.representor(0, pf)])


def test_a_pod_with_a_vf_waits_for_the_kubelet_and_then_has_it(s11: Server, nic: VethNic) -> None:
    with_vf, without = s11.netns(2)
    error = failure(s11.attach, with_vf)
    assert (error.code, "kubelet.sock" in error.msg) == (11, True), "nobody is there: never a veth pair instead"
    assert s11.attachments() == {}
    kubelet = FakeKubelet()
    kubelet.pods = [("test", with_vf.name, [{"mellanox.com/cx5": [nic.address(0)]}]), ("test", without.name, [{}])]
    with kubelet.running(s11.node.path(SOCKET)):
        vf, veth = s11.attach(with_vf), s11.attach(without)
    assert (vf.port, veth.port) == (nic.representor(0), "rt0")
    assert kubelet.calls == ["Get", "Get"]
    assert ping(both_ways([(vf.place, veth.place)])) == []

"""Other uplinks: one with a VLAN tag, and a bond of OVS. Last of the kernel's tests, for they change the server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.fabric import eventually
from tests.kernel.server import KernelServer, assert_in_tc, of
from tests.servers import Pod, failure

pytestmark = [pytest.mark.kernel(machine="other-switches"), pytest.mark.timeout(240)]

VLAN = "108"
EXPECTING = {"bridge:\n": "bridge:\n  offload: tc-software\n"}
TAGGED = EXPECTING | {"vlan: null": f"vlan: {VLAN}"}
BOND = """
ovs-vsctl del-port br0 bond0
ip link delete bond0
ip link set etha up
ip link set ethb up
ovs-vsctl add-bond br0 bond0 etha ethb bond_mode=balance-tcp lacp=active other_config:lacp-time=fast \
    -- set interface etha ofport_request=1 -- set interface ethb ofport_request=2
"""


@pytest.fixture
def tagged(lab: Lab, s11: KernelServer) -> Iterator[None]:
    """The rack's VLAN with a tag on the server's links, for ToRs and agent alike."""

    def on_ports(*how: str) -> None:
        for tor in s11.tors:
            lab.node(tor).run(["bridge", "vlan", "add", "dev", f"lag-{s11.name}", "vid", VLAN, *how])

    on_ports()
    with s11.configured(TAGGED):
        eventually(s11.at_rest, "s11 at rest", 60)
        yield
        on_ports("pvid", "untagged")


@pytest.mark.usefixtures("tagged")
def test_pods_traffic_is_in_tc_with_a_tag(
    s11: KernelServer, pods: tuple[Pod, Pod], outside: Place, record_property: Callable[[str, object], None]
) -> None:
    flows = s11.exercise(pods, outside)
    record_property("megaflows", "\n".join(flows))
    assert_in_tc(flows, pods)
    s11.check(pods[0])
    own = [flow for flow in of(pods[0], flows) if "bond0" in flow]
    for family in ("ipv4", "ipv6"):
        assert [flow for flow in own if f"{family}(" in flow and f"push_vlan(vid={VLAN}" in flow]
        assert [flow for flow in own if f"{family}(" in flow and f"vlan(vid={VLAN}" in flow and "pop_vlan" in flow]


def test_a_bond_of_ovs_keeps_pods_out_of_tc(
    s11: KernelServer, pods: tuple[Pod, Pod], outside: Place, record_property: Callable[[str, object], None]
) -> None:
    """The negative control of all above: docs/offload.md asks for a bond of the kernel."""
    s11.node.run(["/bin/sh", "-e", "-c", BOND])
    eventually(lambda: "group_id=1" in "".join(s11.all_flows()), "a group over both members", 60)
    eventually(s11.at_rest, "s11 at rest", 60)
    eventually(lambda: not ping(both_ways([(pod.place, outside) for pod in pods])), "LACP is settled on the ToRs, too")
    flows = s11.exercise(pods, outside)
    [row] = [row for row in s11.look("offload") if row["port"] == pods[0].port]
    record_property("megaflows", "\n".join(flows))
    assert row["state"] == "slow-path"
    assert any("bond of the kernel" in reason for reason in row["reasons"])
    s11.check(pods[0])
    with s11.configured(EXPECTING):
        eventually(s11.at_rest, "s11 at rest", 60)
        s11.exercise(pods, outside)
        error = failure(s11.check, pods[0])
        assert "slower than tc-software: a select group" in error.msg
        eventually(lambda: "routed_pods_offload_short 2.0" in s11.metrics(), "the metric")

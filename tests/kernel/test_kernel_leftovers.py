"""What TC has of an ovs-vswitchd that is gone does not outlive it for long (`routed.attach.leftovers`)."""

from __future__ import annotations

import pytest

from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.fabric import eventually
from tests.kernel.server import KernelServer, assert_in_tc
from tests.servers import Pod

pytestmark = [pytest.mark.kernel(machine="other-switches"), pytest.mark.timeout(240)]


def restart(s11: KernelServer) -> None:
    """Have another ovs-vswitchd, and no agent beside it."""
    s11.agent.stop()
    s11.restart_switch()
    eventually(lambda: "bond0" in s11.ofctl("show"), "the new switch has its ports")


def test_no_way_leads_to_the_port_of_a_pod_that_is_gone(
    s11: KernelServer, pods: tuple[Pod, Pod], outside: Place
) -> None:
    [pod] = s11.add(1)
    try:
        eventually(lambda: not ping(both_ways([(pod.place, outside)])), "its traffic")
        old = s11.filters()
        assert sorted(s11.ways_to(pod)) == sorted([pod.address(4), pod.address(6)])
        restart(s11)
        assert old & s11.filters(), "nobody but an agent removes them"
        s11.start()
    finally:
        s11.delete([pod])
    eventually(lambda: old.isdisjoint(s11.filters()), "nothing left of the old switch")
    assert s11.ways_to(pod) == []
    eventually(s11.at_rest, "s11 at rest")
    assert_in_tc(s11.exercise(pods, outside), pods)
    removed = s11.said("leftovers.removed")
    s11.agent.stop()
    s11.start()
    eventually(s11.at_rest, "another agent has looked beside the same switch")
    assert s11.said("leftovers.removed") == removed


def test_a_switch_that_offloads_no_more_leaves_nothing_to_tc(
    s11: KernelServer, pods: tuple[Pod, Pod], outside: Place
) -> None:
    s11.exercise(pods, outside)
    try:
        s11.node.run(["ovs-vsctl", "set", "Open_vSwitch", ".", "other_config:hw-offload=false"])
        restart(s11)
        assert s11.filters("etha"), "a member still has what it shared with the bond"
        s11.start()
        eventually(lambda: s11.filters("etha") == set(), "nothing left in TC")
        eventually(s11.at_rest, "s11 at rest")
        assert {flow for flow in s11.exercise(pods, outside) if "dp:tc" in flow} == set()
    finally:
        s11.node.run(["ovs-vsctl", "set", "Open_vSwitch", ".", "other_config:hw-offload=true"])
        s11.restart_switch()
        eventually(s11.at_rest, "s11 at rest", 60)

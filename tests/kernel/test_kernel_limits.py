"""Pods' limits where flows are offloaded: meters, which OVS gives to TC as policers; and token buckets elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import pytest

from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.fabric import eventually
from tests.kernel.server import KernelServer, of
from tests.servers import Pod

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]

TO, FROM = 8_000_000, 4_000_000
"""Bits a second."""
OFFLOAD = "other_config:hw-offload"


@pytest.fixture(scope="module")
def slow(s11: KernelServer, pods: tuple[Pod, Pod]) -> Iterator[Pod]:
    """A third pod, with limits; its annotations stand in the ledger, and the agent that starts goes by that."""
    del pods
    [pod] = s11.add(1)
    s11.agent.stop()
    s11.wish(pod, {"ingress_bps": TO, "egress_bps": FROM})
    s11.start()
    eventually(s11.at_rest, "s11 at rest", 60)
    yield pod
    if pod.id in s11.pods:
        s11.delete([pod])


@pytest.fixture(params=["pod", "outside"])
def peer(request: pytest.FixtureRequest, pods: tuple[Pod, Pod], outside: Place) -> Place:
    """Somebody without limits, on the same server and beyond both ToRs."""
    return pods[0].place if request.param == "pod" else outside


def wanted(pod: Pod) -> dict[int, int]:
    """Return the meters of a pod: they are numbered from its slot."""
    slot = int(pod.port.removeprefix("rt"))
    return {2 * slot + 1: TO, 2 * slot + 2: FROM}


def throughput(s11: KernelServer, source: Place, target: Place, least: float, most: float = math.inf) -> float:
    """Return what arrives, bits a second, once it is enough: the machine's stalls take from it; nothing may add."""

    def look() -> float | None:
        arrived = s11.throughput(source, target)
        assert arrived < most
        return arrived if arrived > least else None

    return eventually(look, f"{least:.0f} bit/s from {source.name} to {target.name}", 15)


def test_limits_hold_both_ways_in_tc(
    s11: KernelServer, slow: Pod, peer: Place, record_property: Callable[[str, object], None]
) -> None:
    eventually(lambda: not ping(both_ways([(slow.place, peer)])), "its traffic")
    for source, target, limit in ((peer, slow.place, TO), (slow.place, peer, FROM)):
        arrived = throughput(s11, source, target, 0.85 * limit, 1.15 * limit)
        record_property("arrived", f"{source.name} -> {target.name}: {arrived / 1e6:.2f} Mbit/s")
        flows = of(slow, s11.megaflows())
        assert [flow for flow in flows if "dp:tc" not in flow] == []
        assert [flow for flow in flows if "meter(" in flow and "ipv4(" in flow]
    record_property("megaflows", "\n".join(flow for flow in flows if "meter(" in flow))


def test_a_pod_without_limits_is_faster(
    s11: KernelServer,
    slow: Pod,
    pods: tuple[Pod, Pod],
    peer: Place,
    record_property: Callable[[str, object], None],
) -> None:
    """The negative control of the limits, beside the pod that has some."""
    del slow
    arrived = throughput(s11, pods[1].place, peer, 3 * TO)
    record_property("arrived", f"{arrived / 1e6:.2f} Mbit/s")
    assert not [flow for flow in of(pods[1], s11.megaflows()) if "meter(" in flow]


def test_meters_come_back_when_somebody_removes_them(s11: KernelServer, slow: Pod) -> None:
    assert s11.meters() == wanted(slow)
    s11.ofctl("del-meters")
    eventually(lambda: s11.meters() == wanted(slow) and s11.healthy(slow), "the meters, and the flows by them")


def test_limits_hold_again_after_the_switch_was_killed(s11: KernelServer, slow: Pod, outside: Place) -> None:
    old = s11.filters()
    s11.restart_switch()
    eventually(s11.at_rest, "s11 at rest", 60)
    assert old.isdisjoint(s11.filters()), "nothing left of the old switch"
    eventually(lambda: s11.meters() == wanted(slow) and s11.healthy(slow), "the meters, and the flows by them", 60)
    eventually(lambda: not ping(both_ways([(slow.place, outside)])), "its traffic")
    for source, target, limit in ((outside, slow.place, TO), (slow.place, outside, FROM)):
        throughput(s11, source, target, 0.85 * limit, 1.15 * limit)
        flows = of(slow, s11.megaflows())
        assert flows
        assert [flow for flow in flows if "dp:tc" not in flow] == []


def test_without_offload_the_wire_shapes_and_back(s11: KernelServer, slow: Pod) -> None:
    assert s11.buckets(slow) == ""
    s11.node.run(["ovs-vsctl", "set", "Open_vSwitch", ".", f"{OFFLOAD}=false"])
    eventually(lambda: s11.buckets(slow) == "8Mbit 4Mbit" and s11.meters() == {}, "buckets instead of meters")
    assert s11.healthy(slow)
    s11.node.run(["ovs-vsctl", "set", "Open_vSwitch", ".", f"{OFFLOAD}=true"])
    eventually(lambda: s11.meters() == wanted(slow) and s11.buckets(slow) == "", "meters instead of buckets", 60)
    eventually(lambda: s11.at_rest() and s11.healthy(slow), "s11 at rest", 60)


def test_meters_go_with_their_pod(s11: KernelServer, slow: Pod) -> None:
    s11.delete([slow])
    assert s11.meters() == {}

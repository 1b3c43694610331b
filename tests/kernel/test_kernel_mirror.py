"""A mirrored pod's packets stay in TC, which sends a copy; `routed mirror` as an operator types it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from containerlab.agents import ROUTED
from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.kernel.server import KernelServer, of
from tests.servers import Pod, Sniffer

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]


@pytest.fixture
def listener(s11: KernelServer) -> Iterator[Sniffer]:
    """A pair of devices: the bridge gets one end, tcpdump would be on the other."""
    s11.node.run(["ip", "link", "add", "copies", "up", "type", "veth", "peer", "name", "listener"])
    s11.node.run(["ip", "link", "set", "listener", "up"])
    with Sniffer("listener", s11.node.netns_path, "listener") as sniffer:
        yield sniffer
    s11.node.run(["ip", "link", "delete", "copies"])


def copied(listener: Sniffer, one: Place, two: Place) -> list[bool]:
    """Tell whether copies of what these two send to each other have come, in either family."""
    pairs = ((a.packed, b.packed) for a, b in zip(one.addresses, two.addresses, strict=True))
    return [listener.seen(source + target) > 0 for a, b in pairs for source, target in ((a, b), (b, a))]


def test_a_mirrored_pod_stays_in_tc(
    s11: KernelServer,
    pods: tuple[Pod, Pod],
    outside: Place,
    listener: Sniffer,
    record_property: Callable[[str, object], None],
) -> None:
    one, other = pods
    s11.node.run([ROUTED, "mirror", one.address(4), "--to", "copies"])
    flows = s11.exercise(pods, outside)
    record_property("megaflows", "\n".join(flows))
    own = of(one, flows)
    assert {family for family in ("ipv4(", "ipv6(") for flow in own if family in flow} == {"ipv4(", "ipv6("}
    assert [flow for flow in own if "dp:tc" not in flow or "copies" not in flow] == []
    assert copied(listener, one.place, outside) == [True] * 4
    assert copied(listener, one.place, other.place) == [True] * 4
    assert copied(listener, other.place, outside) == [False] * 4, "the others' packets, which TC forwards too"
    apart = [flow for flow in of(other, flows) if flow not in own]
    assert apart
    assert [flow for flow in apart if "dp:tc" not in flow or "copies" in flow] == []
    s11.node.run([ROUTED, "mirror", "stop", "--all"])
    before = listener.seen(b"")
    assert ping(both_ways([(pods[0].place, pods[1].place), (one.place, outside)])) == []
    assert listener.seen(b"") == before
    assert "copies" not in s11.node.run(["ovs-vsctl", "list-ports", "br0"]).stdout.split()

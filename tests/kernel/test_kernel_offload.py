"""Every packet of a pod is forwarded by TC, in a kernel that has it: what OVS cannot give to TC, no NIC would take."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from containerlab.ping import ping
from containerlab.probe import Place, both_ways
from tests.kernel.server import KernelServer
from tests.servers import Pod

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]


def test_a_server_bonds_across_two_switches_that_share_nothing_but_a_system_id(s11: KernelServer) -> None:
    assert s11.partners() == [("02:00:00:00:01:fe", "1"), ("02:00:00:00:01:fe", "2")]


def test_pods_traffic_is_in_tc(
    s11: KernelServer, pods: tuple[Pod, Pod], outside: Place, record_property: Callable[[str, object], None]
) -> None:
    one, two = pods
    pairs = both_ways([(one.place, two.place), (one.place, outside), (two.place, outside), (one.place, s11.place)])
    assert ping(pairs) == []
    assert ping(pairs) == [], "with megaflows in place"
    found = [flow for pod in pods for flow in s11.megaflows_of(pod)]
    record_property("megaflows", "\n".join(s11.megaflows()))
    for family in ("ipv4", "ipv6"):
        assert sum(f"{family}(" in flow for flow in found) >= 8, f"both pods, in and out, {family}"
    assert [flow for flow in found if "dp:tc" not in flow] == []

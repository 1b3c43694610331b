"""Pods of a flat network beside routed ones, on the kernel's datapath: TC forwards both."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.fabric import eventually
from tests.kernel.server import KernelServer, of
from tests.servers import Pod

pytestmark = [pytest.mark.kernel, pytest.mark.timeout(240)]

VLAN, PREFIX = "200", "10.210.0.0/24"
LEGACY = {"bridge:\n": f"bridge:\n  legacy: {{vlans: [{VLAN}], prefixes: [{PREFIX}]}}\n"}
FLAT = {"vport1": "10.210.0.11", "vport2": "10.210.0.12"}


@pytest.fixture
def flat(s11: KernelServer) -> Iterator[None]:
    """Two pods of a flat network, whose ports come while an agent runs that knows of the network."""
    run = s11.node.run
    with s11.configured(LEGACY):
        for port, address in FLAT.items():
            run(["ip", "netns", "add", port])
            run(["ip", "link", "add", port, "up", "type", "veth", "peer", "name", "eth0", "netns", port])
            run(["ip", "-n", port, "address", "add", f"{address}/24", "dev", "eth0"])
            run(["ip", "-n", port, "link", "set", "eth0", "up"])
            run(["ovs-vsctl", "--timeout=30", "add-port", "br0", port, f"tag={VLAN}"])
        yield
        for port in FLAT:
            run(["ovs-vsctl", "--timeout=30", "del-port", "br0", port])
            run(["ip", "netns", "delete", port])


@pytest.mark.usefixtures("flat")
def test_flat_pods_are_forwarded_by_tc_and_routed_pods_hear_nothing_of_them(
    s11: KernelServer, pods: tuple[Pod, Pod], record_property: Callable[[str, object], None]
) -> None:
    def answered() -> bool:
        command = ["ip", "netns", "exec", "vport1", "ping", "-n", "-c", "2", "-i", "0.2", "-W", "1", FLAT["vport2"]]
        return s11.node.run(command, check=False).returncode == 0

    def flooded() -> list[str]:
        s11.node.run(["ip", "-n", "vport1", "neighbor", "flush", "all"])
        assert answered()
        flows[:] = s11.megaflows()
        return [flow for flow in flows if "in_port(vport" in flow and "bond0" in flow]

    flows: list[str] = []
    eventually(answered, "one flat pod hears of the other", 60)
    asked = eventually(flooded, "the flow of a question to all")
    record_property("megaflows", "\n".join(flows))
    own = [flow for flow in flows if "in_port(vport1)" in flow and "0x0800" in flow]
    assert [flow for flow in own if flow.endswith("vport2")]
    assert [flow for flow in own if "dp:tc" not in flow] == []
    assert [flow for flow in asked if f"push_vlan(vid={VLAN}" in flow]
    assert not [flow for flow in flows if "in_port(vport" in flow and any(flow in of(pod, flows) for pod in pods)]

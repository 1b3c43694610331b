"""What somebody else changes under an agent is put right without anybody asking for it; what is not ours stays."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import both_ways
from tests.fabric import eventually
from tests.servers import Pod, Residents, Server

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def impatient(servers: dict[str, Server], residents: Residents) -> Iterator[None]:
    """The agent of s11 looks at everything every two seconds: some changes are seen only then."""
    del residents
    with servers["s11"].configured({"vlan: null": "resync_s: 2\nvlan: null"}):
        yield


def picture(server: Server, pod: Pod) -> dict[str, Any]:
    """What there is inside a pod, and of everything on the bridge."""

    def inside(*command: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(server.inside(pod, "ip", "-j", *command) or "[]")
        return found

    return {
        "links": {
            one["ifname"]: (one["address"], one["mtu"], "UP" in one["flags"], [it["local"] for it in one["addr_info"]])
            for one in inside("address")
        },
        "routes": inside("route") + inside("-6", "route"),
        "neighbours": sorted((one["dst"], one["lladdr"]) for one in inside("neigh", "show", "nud", "permanent")),
        "flows": sorted(server.all_flows()),
        "ports": server.ports(),
    }


def ofctl(server: Server, *arguments: str) -> None:
    server.node.run(["ovs-ofctl", "-O", "OpenFlow14", *arguments])


def cookie(server: Server, pod: Pod) -> str:
    row = server.attachments()[pod.id]
    return f"{0x5652000100000000 + row['ofport'] - 1000 + 1:#x}"


def delete_flows(server: Server, pod: Pod) -> None:
    ofctl(server, "del-flows", "br0", f"cookie={cookie(server, pod)}/-1")


def delete_one_flow(server: Server, pod: Pod) -> None:
    ofctl(server, "del-flows", "br0", f"table=40,ip,nw_dst={pod.address(4)}")


def delete_all_flows(server: Server, _pod: Pod) -> None:
    ofctl(server, "del-flows", "br0")


def delete_groups(server: Server, _pod: Pod) -> None:
    ofctl(server, "del-groups", "br0")


def change_flow(server: Server, pod: Pod) -> None:
    ofctl(server, "mod-flows", "br0", f"table=40,ip,nw_dst={pod.address(4)} actions=drop")


def add_flow_of_nobody(server: Server, _pod: Pod) -> None:
    ofctl(server, "add-flow", "br0", "cookie=0xbad,table=0,priority=9999,icmp actions=drop")


def add_flow_to_pod(server: Server, pod: Pod) -> None:
    ofctl(server, "add-flow", "br0", f"cookie={cookie(server, pod)},table=0,priority=9999,icmp actions=drop")


def unplug(server: Server, pod: Pod) -> None:
    server.node.run(["ovs-vsctl", "del-port", "br0", pod.port])


def delete_wire(server: Server, pod: Pod) -> None:
    server.node.run(["ip", "link", "delete", pod.port])


def wire_down(server: Server, pod: Pod) -> None:
    server.node.run(["ip", "link", "set", pod.port, "down"])


def change_ofport(server: Server, pod: Pod) -> None:
    server.node.run(["ovs-vsctl", "set", "interface", pod.port, "ofport_request=4000"])


def in_pod(*command: str) -> Callable[[Server, Pod], None]:
    def tamper(server: Server, pod: Pod) -> None:
        server.inside(pod, "ip", *command)

    return tamper


TAMPERINGS: dict[str, Callable[[Server, Pod], None]] = {
    "all flows of a pod deleted": delete_flows,
    "one flow of a pod deleted": delete_one_flow,
    "all flows deleted": delete_all_flows,
    "all groups deleted": delete_groups,
    "a flow changed": change_flow,
    "a flow of nobody added": add_flow_of_nobody,
    "a flow added to a pod's": add_flow_to_pod,
    "the port removed from the bridge": unplug,
    "the port's number changed": change_ofport,
    "the wire deleted": delete_wire,
    "the wire set down": wire_down,
    "the pod's interface deleted": in_pod("link", "delete", "eth0"),
    "the pod's interface set down": in_pod("link", "set", "eth0", "down"),
    "the pod's MTU changed": in_pod("link", "set", "eth0", "mtu", "1280"),
    "the pod's addresses removed": in_pod("address", "flush", "dev", "eth0"),
    "the pod's default route removed": in_pod("route", "delete", "default"),
    "the pod's IPv6 default route removed": in_pod("-6", "route", "delete", "default"),
    "the gateway's MAC address changed": in_pod(
        *("neigh", "replace", "10.101.0.1", "lladdr", "02:00:00:00:00:99", "dev", "eth0", "nud", "permanent")
    ),
}


@pytest.mark.parametrize("tamper", TAMPERINGS.values(), ids=TAMPERINGS.keys())
def test_what_was_changed_by_hand_is_put_right(
    s11: Server, residents: Residents, tamper: Callable[[Server, Pod], None]
) -> None:
    pod = residents.one
    before = picture(s11, pod)
    tamper(s11, pod)
    now: dict[str, Any] = {}

    def as_before() -> bool:
        now.update(picture(s11, pod))
        return now == before

    try:
        eventually(as_before, "everything as it was")
    except AssertionError:
        assert now == before  # shows what differs
        raise
    eventually(lambda: not ping(both_ways([(pod.place, residents.far.place)])), "traffic")


def test_a_tor_that_forgets_gets_all_routes_again(lab: Lab, s11: Server, residents: Residents) -> None:
    before = s11.sessions()
    lab.vtysh("r1a", "clear bgp 10.1.0.11")
    eventually(lambda: s11.sessions()["r1a"] > before["r1a"], "a new session")
    s11.await_routes([residents.one, residents.two])
    assert s11.sessions()["r1b"] == before["r1b"]


def test_what_is_not_ours_stays(s11: Server, residents: Residents) -> None:
    lines = ["link add rt900 type veth peer name foreign", "link set rt900 up", "link set foreign up"]
    s11.node.run(["ip", "-batch", "-"], input="\n".join(lines))
    s11.node.run(["ovs-vsctl", "add-port", "br0", "rt900"])
    try:
        for _ in range(2):  # a stray is removed when it is seen for the second time: by then the port was seen, too
            before = s11.flows()
            add_flow_of_nobody(s11, residents.one)
            eventually(lambda: not any("cookie=0xbad" in line for line in s11.all_flows()), "the stray's end")
            assert s11.flows() == before
        assert "rt900" in s11.ports()
        assert {"rt900", "foreign"} <= s11.devices()
        assert s11.healthy(residents.one)
    finally:
        s11.node.run(["ovs-vsctl", "del-port", "br0", "rt900"])
        s11.node.run(["ip", "link", "delete", "rt900"])

"""Who reaches whom through the agents' flows, and what pods and ToRs can send that goes nowhere."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address

import pytest

from containerlab.driver import DEBIAN_PLUGINS, Chain, CniError
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Flow, Place, both_ways
from tests.fabric import eventually
from tests.forging import GATEWAY_MAC, forgeries
from tests.servers import Pod, Residents, Server, Sniffer, with_version
from tests.system.frames import arp, udp

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


# ---- who reaches whom


def test_everybody_reaches_everybody(servers: dict[str, Server], residents: Residents) -> None:
    """Pods of one server, of one rack, of two racks, and the servers themselves; both families, both ways."""
    places = [*(pod.place for pod in residents.all), *(server.place for server in servers.values())]
    flows = [
        Flow(source, target, version)
        for version in (4, 6)
        for source in places
        for target in places
        if source is not target
    ]
    assert len(flows) == 84
    eventually(lambda: not ping(flows), "no silence between any two")


@pytest.mark.parametrize("version", [4, 6])
def test_a_pod_reaches_its_gateway(lab: Lab, residents: Residents, version: int) -> None:
    gateways = {4: "10.101.0.1", 6: "fd00:101::1"}
    gateway = Place("gateway", lab.node("r1a").netns_path, (ip_address(gateways[version]),))
    assert not ping([Flow(residents.one.place, gateway, version)])


def test_a_pod_has_its_addresses_alone_and_a_gateway_that_it_need_not_ask_for(
    s11: Server, residents: Residents
) -> None:
    pod = residents.one
    addresses = s11.inside(pod, "ip", "-o", "address", "show", "dev", "eth0")
    assert sorted(line.split()[3] for line in addresses.splitlines()) == sorted(pod.prefixes)
    neighbours = s11.inside(pod, "ip", "neigh", "show", "dev", "eth0").splitlines()
    assert len(neighbours) == 2
    assert all(line.split()[-1] == "PERMANENT" for line in neighbours)
    assert "default via 10.101.0.1" in s11.inside(pod, "ip", "-4", "route")
    assert "default via fd00:101::1" in s11.inside(pod, "ip", "-6", "route")


@pytest.mark.parametrize("by_source", [True, False])
def test_a_second_interface_is_answered_by_where_routes_go_by_source(
    s11: Server, residents: Residents, *, by_source: bool
) -> None:
    """Else its answers leave by the first one, which may not send from these addresses (docs/sriov.md)."""
    pod, far = residents.one, residents.far.place
    ours = with_version(s11.plugin, "1.0.0")  # of the other one, too
    sbr = replace(ours, binary=DEBIAN_PLUGINS / "sbr", conf={**ours.conf, "type": "sbr"})
    network = Chain((ours, sbr) if by_source else (ours,))
    result = network.add(pod.id, pod.netns, "net1")
    second = Place("net1", pod.place.netns, tuple(address.ip for address in result.addresses))

    def whole() -> bool:
        with contextlib.suppress(CniError):
            ours.after(result).check(pod.id, pod.netns, "net1")
            return True
        return False

    try:
        eventually(whole, "its routes, also those that the other plugin has moved")
        eventually(lambda: not ping(both_ways([(pod.place, far)])), "the first one's traffic")
        silent = ping([Flow(far, second, version) for version in (4, 6)])
        assert len(silent) == (0 if by_source else 2)
        s11.check(pod)
    finally:
        network.delete(pod.id, pod.netns, "net1")
    assert s11.devices(pod.netns) == {"lo", "eth0"}


# ---- what a pod cannot send


@dataclass
class Watch:
    """Every place where something from a pod of s11 could arrive."""

    sender: Sniffer
    tors: list[Sniffer]
    neighbour: Sniffer
    host: Sniffer

    @property
    def receivers(self) -> list[Sniffer]:
        return [*self.tors, self.neighbour, self.host]

    def where(self, mark: bytes) -> list[str]:
        """Return the places that saw a frame with this mark."""
        return [place.name for place in self.receivers if place.seen(mark)]


@pytest.fixture
def watch(lab: Lab, s11: Server, residents: Residents) -> Iterator[Watch]:
    with contextlib.ExitStack() as stack:

        def sniffer(name: str, netns: object, device: str) -> Sniffer:
            return stack.enter_context(Sniffer(name, str(netns), device))

        yield Watch(
            sender=sniffer("the pod itself", residents.one.place.netns, "eth0"),
            tors=[sniffer(tor, lab.node(tor).netns_path, "s11") for tor in s11.tors],
            neighbour=sniffer("the other pod", residents.two.place.netns, "eth0"),
            host=sniffer("the server", s11.node.netns_path, "br0"),
        )


def test_nothing_forged_leaves_a_pod_and_what_is_right_does(watch: Watch, residents: Residents) -> None:
    pod, neighbour = residents.one, residents.two
    forged = forgeries(pod, neighbour)
    marks = {what: f"<forged {index:03}>".encode() for index, what in enumerate(forged)}
    for what, frame in forged.items():
        watch.sender.send(frame + marks[what])
    prove_that_all_would_have_arrived(watch, pod, neighbour)
    arrived = {what: places for what, mark in marks.items() if (places := watch.where(mark))}
    assert not arrived


def prove_that_all_would_have_arrived(watch: Watch, pod: Pod, neighbour: Pod) -> None:
    """Send right packets the same way, after the others, until every place that is watched has seen one."""
    right = b"<right>"

    def everywhere() -> bool:
        for number in range(70, 86):  # enough for the bond to use both members: its hash leaves UDP's ports out
            watch.sender.send(udp(pod.mac, GATEWAY_MAC, pod.address(4), f"10.102.0.{number}") + right)
            watch.sender.send(udp(pod.mac, GATEWAY_MAC, pod.address(6), f"fd00:102::{number}") + right)
        watch.sender.send(udp(pod.mac, GATEWAY_MAC, pod.address(4), neighbour.address(4)) + right)
        watch.sender.send(udp(pod.mac, GATEWAY_MAC, pod.address(6), "fd00:1::11") + right)
        return len(watch.where(right)) == len(watch.receivers)

    eventually(everywhere, lambda: f"right packets everywhere, seen by {watch.where(right)} alone")


def test_a_pod_that_asks_for_its_gateway_is_answered_on_the_server(watch: Watch, residents: Residents) -> None:
    pod = residents.one
    watch.sender.send(arp(1, pod.mac, pod.address(4), "10.101.0.1") + b"<asked>")
    answer = arp(2, GATEWAY_MAC, "10.101.0.1", pod.address(4), pod.mac)[:28]
    eventually(lambda: watch.sender.seen(answer), "the answer")
    assert not watch.where(b"<asked>")


# ---- what the fabric cannot make a server send


@dataclass(frozen=True, slots=True)
class Packet:
    """What a ToR hands to a server, from somebody in the other rack."""

    frame: bytes
    mark: bytes
    """Its addresses, as they stand in the IP header: in what is forwarded, and in what an ICMP error quotes."""


def from_the_fabric(s11: Server, destination: str) -> Packet:
    host = s11.node.path("/sys/class/net/br0/address").read_text().strip()
    source = "fd00:102::77" if ":" in destination else "10.102.0.77"
    frame = udp(GATEWAY_MAC, host, source, destination)
    return Packet(frame, ip_address(source).packed + ip_address(destination).packed)


@pytest.mark.parametrize(
    ("unknown", "elsewhere"),
    [
        ("10.101.0.200", "10.2.0.21"),
        ("10.101.1.200", "10.2.0.21"),
        ("fd00:101::1:beef", "fd00:2::21"),
        ("fd00:101::9", "fd00:2::21"),
    ],
)
def test_a_pool_address_that_nobody_has_is_dropped_not_bounced(
    watch: Watch, s11: Server, residents: Residents, unknown: str, elsewhere: str
) -> None:
    tor = watch.tors[0]
    to_nobody = from_the_fabric(s11, unknown)
    for _ in range(20):
        tor.send(to_nobody.frame)
    to_a_pod = from_the_fabric(s11, residents.two.address(ip_address(unknown).version))
    tor.send(to_a_pod.frame)
    eventually(lambda: watch.neighbour.seen(to_a_pod.mark), "a packet to a pod after those to nobody")
    # What the host is asked to forward does come back, so a bounce would have been seen.
    bounced = from_the_fabric(s11, elsewhere)
    tor.send(bounced.frame)
    eventually(lambda: any(place.seen(bounced.mark) for place in watch.tors), "a packet that the host sends back")
    assert not watch.where(to_nobody.mark)


def test_a_packet_for_an_unknown_pod_is_lost_once_not_thirty_times(lab: Lab, s11: Server, residents: Residents) -> None:
    """The ToR has a stale host route: nobody answers, and no TTL runs out between ToR and server."""
    del residents
    lab.node("r1a").run(["ip", "route", "add", "10.101.0.200/32", "via", "10.1.0.11"])
    try:
        done = lab.node("r1a").run(["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", "10.101.0.200"], check=False)
    finally:
        lab.node("r1a").run(["ip", "route", "delete", "10.101.0.200/32"])
    assert "0 received" in done.stdout
    assert "exceeded" not in done.stdout
    assert s11.agent.ready()

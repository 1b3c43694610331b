"""The same agent below ToRs that are not FRR: r1a is BIRD 2, r1b is GoBGP. Findings: docs/interoperability.md."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Flow, Place, Probe, both_ways
from routed.audit.model import Route
from routed.audit.sources.bird import Bird as BirdSwitch
from routed.audit.sources.command import Command
from tests.collecting import collected
from tests.fabric import ADDRESSES, eventually
from tests.interop import INTEROP, Bird, Gobgp, Tor, md5_failures, session_id, speaking
from tests.servers import NO_STEERING, RACK, Pod, RouteWatch, Server, losses

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

RATE_HZ = 100
SPINE = tuple(map(ip_address, ("10.255.0.1", "fd00:255::1")))
ACCEPTED = ("10.101.1.20/32 next-hop 10.1.0.12", "fd00:101::2:20/128 next-hop fd00:1::12")
STEERED = (
    "10.101.1.21/32 next-hop 10.1.0.12 community [65000:911]",
    "fd00:101::2:21/128 next-hop fd00:1::12 community [65000:911]",
)
REFUSED = (
    "10.101.1.22/32 next-hop 10.1.0.11",  # another server's next hop
    "fd00:101::2:22/128 next-hop fd00:1::11",
    "10.102.0.22/32 next-hop 10.1.0.12",  # another rack's pool
    "fd00:102::22/128 next-hop fd00:1::12",
    "10.101.1.24/31 next-hop 10.1.0.12",  # not a host route
    "fd00:101::2:24/127 next-hop fd00:1::12",
    "10.101.1.1/32 next-hop 10.1.0.12",  # a pool's gateway
    "fd00:101::1/128 next-hop fd00:1::12",
    "10.101.1.255/32 next-hop 10.1.0.12",  # a pool's broadcast and reserved addresses
    "fd00:101::3/128 next-hop fd00:1::12",
    "10.1.0.99/32 next-hop 10.1.0.12",  # a server's address
    "fd00:1::99/128 next-hop fd00:1::12",
    "10.255.9.9/32 next-hop 10.1.0.12",  # a loopback
    "10.0.0.0/8 next-hop 10.1.0.12",
)
LIMIT = 600


def prefixes(routes: tuple[str, ...]) -> set[str]:
    return {route.split()[0] for route in routes}


@pytest.fixture(scope="module")
def fabric() -> Iterator[Lab]:
    with Lab.up(INTEROP, name=f"interop-{os.getpid()}") as up:
        up.wait_ready()
        yield up


@pytest.fixture(scope="module")
def bird(fabric: Lab) -> Bird:
    return Bird(fabric, "r1a")


@pytest.fixture(scope="module")
def gobgp(fabric: Lab) -> Gobgp:
    return Gobgp(fabric, "r1b")


@pytest.fixture(scope="module")
def tors(bird: Bird, gobgp: Gobgp) -> tuple[Tor, ...]:
    return bird, gobgp


@pytest.fixture(scope="module")
def started(fabric: Lab) -> Server:
    server = Server(fabric, "s11")
    server.start()
    return server


@pytest.fixture(scope="module")
def pods(started: Server) -> Iterator[list[Pod]]:
    added = started.add(2)
    started.await_routes(added)
    yield added
    started.clean_up()


@pytest.fixture
def s11(started: Server) -> Iterator[Server]:
    """The server with the agent, at rest before and after."""
    before = dict(started.pods)
    yield started
    if not started.agent.alive():
        started.start()
    started.clean_up(keep=before)
    eventually(started.at_rest, "s11 as it was")


@pytest.fixture
def flows(fabric: Lab, pods: list[Pod]) -> list[Flow]:
    """Between the pods, the spine and the other server of the rack, both ways, both families."""
    others = [Place("the spine", fabric.node("sp1").netns_path, SPINE), Server(fabric, "s12").place]
    return both_ways([(pod.place, other) for pod in pods for other in others])


def on_spine(fabric: Lab, prefix: str) -> list[str]:
    """Return the ToRs that the spine sends a prefix's packets to; nobody when it has no route of that length."""
    route = fabric.kernel_routes("sp1").get(prefix, {})
    return sorted(hop["dev"].removeprefix("to-") for hop in route.get("nexthops", [route] if route else []))


def communities_on_spine(fabric: Lab, prefix: str) -> list[str]:
    """Return the communities of all of the spine's paths to a prefix."""
    family = "ipv6" if ":" in prefix else "ipv4"
    paths = fabric.vtysh_json("sp1", f"show bgp {family} unicast {prefix}")["paths"]
    return [path["community"]["string"] for path in paths if "community" in path]


def await_new_sessions(server: Server, tors: tuple[Tor, ...], before: dict[str, str]) -> dict[str, str]:
    """Wait until both ToRs have a new connection with a server and its agent is at rest; returns the connections."""

    def both_are_new() -> bool:
        now = {tor.name: session_id(tor, server.name) for tor in tors}
        return all(now[name] not in {"", before[name]} for name in before) and server.at_rest()

    eventually(both_are_new, "new sessions")
    return {tor.name: session_id(tor, server.name) for tor in tors}


# ---- MD5; before the agent, which leaves the bare server's bridge changed


def test_a_wrong_password_does_not_come_up(fabric: Lab, tors: tuple[Tor, ...]) -> None:
    before = {tor.name: md5_failures(tor) for tor in tors}
    with speaking(fabric, "s12", ACCEPTED, "another-password"):
        for tor in tors:
            eventually(lambda tor=tor: md5_failures(tor) > before[tor.name], f"{tor.name} refusing segments")
        assert not any(tor.established("s12") for tor in tors)


# ---- policy, by a speaker that does what no agent would


def test_tors_take_host_routes_of_their_servers_and_pass_on_the_steered(fabric: Lab, tors: tuple[Tor, ...]) -> None:
    s12 = Server(fabric, "s12")
    good = prefixes(ACCEPTED + STEERED)
    sent = good | prefixes(REFUSED)
    with speaking(fabric, "s12", (*ACCEPTED, *STEERED, *REFUSED)):
        for tor in tors:
            eventually(lambda tor=tor: tor.received("s12") == sent, f"all routes on {tor.name}")
            eventually(lambda tor=tor: s12.announced(tor.name) == good, f"host routes on {tor.name}")
            assert Server(fabric, "s11").announced(tor.name) == set()
        for prefix in prefixes(STEERED):
            eventually(lambda prefix=prefix: on_spine(fabric, prefix) == ["r1a", "r1b"], f"{prefix} on the spine")
            assert communities_on_spine(fabric, prefix) == []
        assert not prefixes(ACCEPTED + REFUSED) & fabric.kernel_routes("sp1").keys()
    for tor in tors:
        eventually(lambda tor=tor: not s12.announced(tor.name), f"no routes of a dead speaker on {tor.name}")
    eventually(lambda: not good & fabric.kernel_routes("sp1").keys(), "no host routes on the spine")


def test_too_many_routes_are_not_taken(fabric: Lab, bird: Bird, gobgp: Gobgp) -> None:
    s12 = Server(fabric, "s12")
    many = [f"fd00:101::2:{number:x}/128 next-hop fd00:1::12" for number in range(2, LIMIT + 3)]
    with speaking(fabric, "s12", many):
        eventually(
            lambda: bird.over_limit("s12") and len(s12.announced("r1a")) == LIMIT, "BIRD keeps the first ones", 60
        )
        eventually(lambda: gobgp.over_limit("s12") and not s12.announced("r1b"), "GoBGP ends the session", 60)
        assert bird.established("s12")
    eventually(lambda: not s12.announced("r1a"), "no routes on r1a")


# ---- the agent


def test_pods_are_announced_to_both_tors_and_reached_through_them(
    fabric: Lab, tors: tuple[Tor, ...], s11: Server, pods: list[Pod], flows: list[Flow]
) -> None:
    for tor in tors:
        assert tor.established("s11")
        assert tor.received("s11") == {prefix for pod in pods for prefix in pod.prefixes}
    eventually(lambda: not ping(flows), "traffic")
    more = s11.add(3)
    s11.await_routes(s11.pods.values())
    assert not {net for pod in s11.pods.values() for net in pod.prefixes} & fabric.kernel_routes("sp1").keys()
    s11.delete(more)
    s11.await_routes(pods)


# ---- the audit's look at BIRD


def seen(fabric: Lab) -> dict[str, list[Route]]:
    """Return what an audit sees of r1a, by prefix."""
    node = fabric.node("r1a")
    environment = (f"{key}={value}" for key, value in node._environment(None).items())
    command = Command(("env", *environment, *node._entering(["birdc", "-r"])), 20)
    found: dict[str, list[Route]] = {}
    for route in asyncio.run(BirdSwitch("r1a", command).observe()).routes:
        found.setdefault(str(route.prefix), []).append(route)
    return found


def test_an_audit_sees_what_bird_has(fabric: Lab, s11: Server, pods: list[Pod]) -> None:
    for pod in pods:
        for version in (4, 6):
            prefix = str(ip_network(pod.address(version)))
            (route,) = seen(fabric)[prefix]
            hop = next(one for one in s11.rack.servers["s11"].addresses if one.version == version)
            assert (route.next_hops, route.as_path, route.communities) == ((hop,), (65500,), frozenset())
            assert (route.best, route.installed, route.stale) == (True, None, False)
            assert str(route.peer) == ADDRESSES["s11"]
    with speaking(fabric, "s12", STEERED):
        eventually(lambda: prefixes(STEERED) <= seen(fabric).keys(), "steered routes")
        for prefix in prefixes(STEERED):
            assert seen(fabric)[prefix][0].communities == frozenset({"65000:911"})


def test_an_audit_sees_that_bird_keeps_routes_of_a_speaker_that_is_away(
    fabric: Lab, s11: Server, pods: list[Pod]
) -> None:
    prefix = str(ip_network(pods[0].address(4)))
    s11.agent.stop()
    s11.node.run(["kill", "-9", str(s11.agent.speaker_pid())])
    eventually(lambda: seen(fabric)[prefix][0].stale, "a stale route")
    s11.start()
    eventually(lambda: seen(fabric)[prefix][0].stale is False, "a route that is told again")


AUDITOR = """
protocol bgp auditor {
    local 10.255.1.1 as 65011;
    neighbor 10.255.0.1 as 65011;
    multihop;
    passive on;
    ipv4 { import none; export where source = RTS_BGP || source = RTS_STATIC; };
    ipv6 { import none; export where source = RTS_BGP || source = RTS_STATIC; next hop address fd00:254:1::3; };
}
"""


def test_an_audits_collector_hears_what_bird_has(fabric: Lab, bird: Bird, s11: Server, pods: list[Pod]) -> None:
    node = fabric.node("r1a")
    node.path("/run/audited.conf").write_text(node.path("/etc/bird/bird.conf").read_text() + AUDITOR)
    assert "Reconfigured" in bird.ask("configure", '"/run/audited.conf"')
    try:
        heard = collected(fabric.node("sp1"), "r1a", 65011, "10.255.1.1", "10.255.0.1")
    finally:
        bird.ask("configure", '"/etc/bird/bird.conf"')
    for pod in pods:
        for version in (4, 6):
            hop = next(one for one in s11.rack.servers["s11"].addresses if one.version == version)
            assert heard[str(ip_network(pod.address(version)))] == ([str(hop)], [65500], [])
    assert {"10.101.0.0/24", "10.101.1.0/24", "fd00:101::/64"} <= heard.keys()


@dataclass
class Traffic:
    """Packets between the pods and everybody else, and the host routes that the ToRs' kernels delete meanwhile."""

    probe: Probe
    watches: list[RouteWatch]

    def lost(self) -> list[str]:
        """End it and return the flows that lost packets."""
        return losses(self.probe.stop())

    def deleted(self) -> set[str]:
        return {route for watch in self.watches for route in watch.deleted() if "101:" in route or "10.101." in route}


@pytest.fixture
def traffic(fabric: Lab, s11: Server, flows: list[Flow]) -> Iterator[Traffic]:
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(RouteWatch(fabric, tor)) for tor in s11.tors]
        yield Traffic(stack.enter_context(Probe(flows, RATE_HZ)), watches)


def test_a_killed_agent_is_not_noticed(traffic: Traffic, tors: tuple[Tor, ...], s11: Server) -> None:
    sessions = {tor.name: session_id(tor, "s11") for tor in tors}
    s11.agent.kill()
    s11.start()
    assert {tor.name: session_id(tor, "s11") for tor in tors} == sessions
    assert traffic.deleted() == set()
    assert traffic.lost() == []


def test_a_killed_exabgp_loses_nothing(traffic: Traffic, tors: tuple[Tor, ...], s11: Server, pods: list[Pod]) -> None:
    sessions = {tor.name: session_id(tor, "s11") for tor in tors}
    s11.agent.kill_speaker()
    await_new_sessions(s11, tors, sessions)
    for tor in tors:
        eventually(lambda tor=tor: not tor.restarting("s11"), f"{tor.name} has heard End-of-RIB")
    s11.await_routes(pods)
    assert traffic.deleted() == set()
    assert traffic.lost() == []


def begin_anew(fabric: Lab, server: Server, tors: tuple[Tor, ...], config: Path) -> None:
    """Let a server speak as a rack file says, for the first time as far as its ToRs know.

    GoBGP helps for as long as it lives whoever has once asked for it, so nobody may speak when it begins; and it rests
    for 5 s after every session that it has lost.
    """
    if server.agent.alive():
        server.agent.stop()
    server.agent.kill_speaker()
    for tor in tors:
        fabric.node(tor.name).kill_daemon(tor.daemon)
        fabric.node(tor.name).start_daemon(tor.daemon)
    server.start(config)


@pytest.fixture
def forgotten(fabric: Lab, tors: tuple[Tor, ...], s11: Server) -> Iterator[Server]:
    """The server with the agent, without graceful restart; and without steering, which would lose less."""
    changes = NO_STEERING | {"graceful_restart_s: 30": "graceful_restart_s: 0"}
    try:
        begin_anew(fabric, s11, tors, s11.copy_of_rack_file(changes))
        yield s11
    finally:
        begin_anew(fabric, s11, tors, RACK)


def test_without_graceful_restart_a_killed_exabgp_loses_packets(
    fabric: Lab, forgotten: Server, pods: list[Pod], flows: list[Flow]
) -> None:
    """Negative control of the one before; and both daemons come back, and are told everything."""
    forgotten.await_routes(pods)
    with contextlib.ExitStack() as stack:
        watches = {tor: stack.enter_context(RouteWatch(fabric, tor)) for tor in forgotten.tors}
        probe = stack.enter_context(Probe(flows, RATE_HZ))
        forgotten.agent.kill_speaker()
        for name, watch in watches.items():
            eventually(lambda watch=watch: pods[0].prefixes & set(watch.deleted()), f"{name} deleting routes")
        forgotten.await_routes(pods)
        assert losses(probe.stop())


@pytest.mark.parametrize("sides", [("r1a", "r1b"), ("r1b", "r1a")])
def test_a_server_that_lost_one_side_is_reached_through_the_other(
    fabric: Lab, s11: Server, pods: list[Pod], flows: list[Flow], sides: tuple[str, str]
) -> None:
    broken, good = sides
    prefixes = {net for pod in pods for net in pod.prefixes}
    eventually(lambda: not prefixes & fabric.kernel_routes("sp1").keys(), "nothing on the spine")
    fabric.cut(f"{broken}:s11")
    try:
        for net in prefixes:
            eventually(lambda net=net: on_spine(fabric, net) == [good], f"{net} on the spine")
            assert communities_on_spine(fabric, net) == []
        eventually(lambda: not ping(flows), "traffic")
    finally:
        fabric.restore(f"{broken}:s11")
    eventually(lambda: not prefixes & fabric.kernel_routes("sp1").keys(), "nothing on the spine")
    s11.await_routes(pods)
    eventually(lambda: not ping(flows), "traffic")

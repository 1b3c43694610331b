"""A server that reaches only one ToR of its pair: everybody still reaches its pods, and nobody stays in the dark."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

from containerlab import faults
from containerlab.lab import Lab
from containerlab.probe import Probe, both_ways
from tests.fabric import ADDRESSES, ASNS, eventually
from tests.servers import NO_STEERING, Pod, Residents, RouteWatch, Server, losses

pytestmark = [pytest.mark.lab, pytest.mark.timeout(180)]

RATE_HZ = 50
FLOWS = 6
"""Per pair of pods, direction and IP version: ECMP and the bonds spread them over both ToRs."""
HEARD_S = 0.5
"""A flow that lost nothing of what it sent in so long is through; of the last packets that is not known yet."""
BEYOND_HOLD_S = 5.0
"""Longer than `steering.hold_s` of the lab's racks."""
SPINES = ("sp1", "sp2")
UPLINKS = ("r1a:up1", "r1a:up2")


@pytest.fixture
def probe(residents: Residents) -> Iterator[Probe]:
    """Traffic between a pod of s11, its own rack and the other one."""
    pairs = [(residents.one.place, residents.far.place), (residents.one.place, residents.rack.place)]
    with Probe(both_ways(pairs * FLOWS), RATE_HZ) as running:
        eventually(lambda: all_through(running), "traffic")
        yield running


@pytest.fixture
def link_a(lab: Lab, s11: Server) -> Iterator[str]:  # noqa: ARG001 - mended before s11 is awaited at rest
    """The link from s11 to r1a, at the ToR's end; mended afterwards."""
    end = "r1a:s11"
    yield end
    lab.restore(end)
    faults.unmute(lab, end, "s11:etha")
    eventually(lambda: not leaked(lab), "no host route beyond the rack")


def all_through(probe: Probe) -> bool:
    """Tell whether every flow is heard at this moment."""
    return min(probe.arrivals(HEARD_S)) == 1


def healths(server: Server) -> list[str]:
    return [row["side"] for row in server.look("neighbors")]


def steering(server: Server) -> list[str]:
    """Return the ToRs that are asked to steer."""
    return [row["tor"] for row in server.look("neighbors") if row["steers"]]


def leaked(lab: Lab, nodes: Sequence[str] = SPINES) -> dict[str, set[str]]:
    """Return the pods' host routes that the kernels of these nodes have."""
    pods = ("10.101.", "10.102.", "fd00:101::", "fd00:102::")
    found = {
        node: {
            prefix for prefix in lab.kernel_routes(node) if prefix.startswith(pods) and prefix.endswith(("/32", "/128"))
        }
        for node in nodes
    }
    return {node: prefixes for node, prefixes in found.items() if prefixes}


def host_routes(pods: Iterable[Pod]) -> set[str]:
    return {prefix for pod in pods for prefix in pod.prefixes}


def cut_the_cable(lab: Lab, end: str) -> None:
    lab.cut(end)


def lose_what_the_tor_sends(lab: Lab, end: str) -> None:
    faults.mute(lab, end)


def lose_what_the_server_sends(lab: Lab, _end: str) -> None:
    faults.mute(lab, "s11:etha")


def mend(befall: Callable[[Lab, str], None], lab: Lab, end: str) -> None:
    """Undo one of these, and nothing else: what is seen of it does not last."""
    if befall is cut_the_cable:
        lab.restore(end)
    else:
        faults.unmute(lab, end, "s11:etha")


FAULTS = pytest.mark.parametrize("befall", [cut_the_cable, lose_what_the_tor_sends, lose_what_the_server_sends])


@FAULTS
def test_the_healthy_tor_draws_the_traffic_until_the_link_is_mended(
    befall: Callable[[Lab, str], None], lab: Lab, s11: Server, probe: Probe, link_a: str
) -> None:
    befall(lab, link_a)
    eventually(lambda: healths(s11) == ["cut", "good"], "the cut side")
    assert steering(s11) == ["r1b"]
    own = host_routes(s11.pods.values())
    eventually(lambda: leaked(lab) == dict.fromkeys(SPINES, own), "s11's host routes, and no others, on both spines")
    for spine in SPINES:
        routes = lab.vtysh_json(spine, f"show bgp ipv4 unicast {next(iter(s11.pods.values())).address(4)}/32")
        assert {str(path["aspath"]["string"]) for path in routes["paths"]} == {f"{ASNS['r1b']} 65500"}
        assert all("community" not in path for path in routes["paths"]), "the community stays in the rack"
    eventually(lambda: all_through(probe), "every flow, with the link still down")
    assert not own & set().union(*leaked(lab, ("r2a", "r2b")).values()), "no other rack learns of it"
    eventually(lambda: not s11.announced("r1a"), "a ToR that cannot reach the server has no route to its pods")

    probe.mark()
    mend(befall, lab, link_a)
    eventually(lambda: healths(s11) == ["holding", "good"], "a side that has just come back and is not trusted yet")
    eventually(lambda: healths(s11) == ["good", "good"], "both sides good")
    assert steering(s11) == []
    eventually(lambda: not leaked(lab), "the end of the host routes beyond the rack")
    eventually(lambda: own <= s11.announced("r1a"), "the routes on the mended side")
    assert losses(probe.stop()) == [], "a link that comes back costs nothing"


def test_without_steering_half_of_the_flows_stay_in_the_dark(lab: Lab, s11: Server, probe: Probe, link_a: str) -> None:
    """The control: the same cut, a rack file that does not steer."""
    with s11.configured(NO_STEERING):
        eventually(lambda: all_through(probe), "traffic")
        lab.cut(link_a)
        eventually(lambda: min(probe.arrivals(BEYOND_HOLD_S)) == 0, "flows that nobody carries")
        assert not leaked(lab)
        lab.restore(link_a)
        eventually(lambda: all_through(probe), "traffic, once the link is mended")


@pytest.mark.parametrize("befall", [cut_the_cable, lose_what_the_tor_sends])
def test_an_agent_that_restarts_meanwhile_goes_on_steering(
    befall: Callable[[Lab, str], None], lab: Lab, s11: Server, probe: Probe, link_a: str
) -> None:
    befall(lab, link_a)
    eventually(lambda: len(leaked(lab)) == len(SPINES) and all_through(probe), "traffic by the healthy ToR")
    with contextlib.ExitStack() as stack:
        watches = [stack.enter_context(RouteWatch(lab, node)) for node in (*SPINES, "r1b")]
        probe.mark()
        s11.agent.kill()
        s11.start()
        assert healths(s11) == ["cut", "good"]
        assert steering(s11) == ["r1b"]
        s11.agent.stop()
        s11.start()
        assert losses(probe.stop()) == []
        assert [route for watch in watches for route in watch.deleted() if "101:" in route or "10.101." in route] == []


def test_a_pod_that_starts_meanwhile_is_reachable_at_once(
    lab: Lab, s11: Server, residents: Residents, link_a: str
) -> None:
    lab.cut(link_a)
    eventually(lambda: healths(s11) == ["cut", "good"], "the cut side")
    (pod,) = s11.add(1)
    s11.check(pod)
    eventually(lambda: all(pod.prefixes <= found for found in leaked(lab).values()) and leaked(lab), "its host routes")
    with Probe(both_ways([(pod.place, residents.far.place)] * FLOWS), RATE_HZ) as probe:
        eventually(lambda: all_through(probe), "traffic")
        probe.mark()
        lab.restore(link_a)
        eventually(lambda: healths(s11) == ["good", "good"], "both sides good")
        eventually(lambda: pod.prefixes <= s11.announced("r1a"), "the new pod on the mended side")
        assert losses(probe.stop()) == []


@pytest.mark.usefixtures("link_a")
def test_a_tor_that_ends_the_session_is_steered_around(lab: Lab, s11: Server, probe: Probe) -> None:
    """Its link is fine and it attracts the aggregate, but nobody tells it of the pods."""
    router = f"router bgp {ASNS['r1a']}"
    lab.vtysh("r1a", "configure terminal", router, f"neighbor {ADDRESSES['s11']} shutdown")
    try:
        eventually(lambda: healths(s11) == ["silent", "good"], "the silent side")
        assert steering(s11) == ["r1b"]
        eventually(lambda: len(leaked(lab)) == len(SPINES) and all_through(probe), "every flow")
        probe.mark()
    finally:
        lab.vtysh("r1a", "configure terminal", router, f"no neighbor {ADDRESSES['s11']} shutdown")
    eventually(lambda: healths(s11) == ["good", "good"], "both sides good")
    eventually(lambda: not leaked(lab), "the end of the host routes beyond the rack")
    assert losses(probe.stop()) == []


@pytest.fixture
def no_monitor_link(lab: Lab) -> Iterator[None]:
    """A ToR r1a that leaves its server ports up whatever happens; its uplinks are mended afterwards."""
    found = lab.node("r1a").run(["pgrep", "-f", "/tord.py"]).stdout.split()
    lab.node("r1a").run(["kill", "-STOP", *found])
    yield
    for uplink in UPLINKS:
        lab.restore(uplink)
    lab.node("r1a").run(["kill", "-CONT", *found])


@pytest.mark.usefixtures("link_a", "no_monitor_link")
def test_a_tor_without_a_way_out_is_not_sent_to(
    lab: Lab, s11: Server, servers: dict[str, Server], probe: Probe
) -> None:
    """Its links to the servers are fine and so are the sessions; all that it sends on is lost."""
    for uplink in UPLINKS:
        lab.cut(uplink)
    eventually(lambda: healths(s11) == healths(servers["s12"]) == ["silent", "good"], "the ToR without a way out")
    assert "default route" in s11.look("neighbors")[0]["side_reason"]
    eventually(lambda: all_through(probe), "every flow")


def test_a_server_that_loses_both_links_is_back_as_soon_as_they_are(
    lab: Lab, s11: Server, probe: Probe, link_a: str
) -> None:
    lab.cut(link_a)
    lab.cut("r1b:s11")
    try:
        eventually(lambda: healths(s11) == ["cut", "cut"], "a server on its own")
        assert steering(s11) == []
    finally:
        lab.restore("r1b:s11")
    eventually(lambda: all_through(probe), "every flow by the one link that is back")
    eventually(lambda: steering(s11) == ["r1b"], "the one ToR drawing them")

"""The agent and its ToRs: leaving the fabric, a new gateway MAC address, a ToR whose BGP starts again."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from containerlab.agents import LOG, ROUTED
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Probe, both_ways
from routed.domain.snapshot import DRAINED
from tests.fabric import ADDRESSES, eventually
from tests.servers import Residents, RouteWatch, Server, failure, losses

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

GATEWAY_MAC, OTHER_MAC = "02:00:00:00:01:01", "02:00:00:00:01:77"


def talk(residents: Residents) -> bool:
    pairs = [(residents.one.place, other.place) for other in (residents.rack, residents.far)]
    return not ping(both_ways(pairs))


# ---- leaving the fabric


@contextlib.contextmanager
def in_foreground(s11: Server) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent as a child of ours, to see how it ends."""
    s11.agent.stop()
    with s11.node.path(LOG).open("ab") as log:
        process = s11.node.popen([ROUTED, "agent", "--server", s11.name], stdin=subprocess.DEVNULL, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait()
        s11.start()


@contextlib.contextmanager
def undrained_at_last(s11: Server) -> Iterator[None]:
    """Bring the server back at the end, with an agent that runs."""
    try:
        yield
    finally:
        if not s11.agent.alive():
            s11.start()
        s11.node.run([ROUTED, "undrain"])


def test_a_drained_server_attracts_nothing_any_more(lab: Lab, s11: Server, residents: Residents) -> None:
    own = residents.one.prefixes | residents.two.prefixes
    with (
        undrained_at_last(s11),
        contextlib.ExitStack() as stack,
        in_foreground(s11) as agent,
    ):
        eventually(s11.agent.ready, "the agent")
        eventually(s11.agent.established, "its sessions")
        watches = {tor: stack.enter_context(RouteWatch(lab, tor)) for tor in s11.tors}
        probe = stack.enter_context(Probe(both_ways([(residents.rack.place, residents.far.place)])))
        s11.node.run([ROUTED, "drain"])
        # With graceful restart, the ToRs would keep the routes of a speaker that just ended.
        s11.await_routes([])
        for tor, watch in watches.items():
            lost = {prefix for prefix in watch.deleted() if prefix.endswith(("/32", "/128"))}
            assert lost == own, f"{tor} lost this server's pods and no others"
        assert agent.wait(30) == 0
        assert not s11.node.path("/run/routed/bgp/exabgp.pid").exists()
        for tor in s11.tors:
            eventually(lambda tor=tor: s11.neighbor(tor)["bgpState"] != "Established", f"{tor} seeing the end")
        assert losses(probe.stop()) == [], "the other servers' pods talk on"
        assert len(s11.flows()) == 10, "local pods still reach each other"
        assert not ping(both_ways([(residents.one.place, residents.two.place)]))
    s11.await_routes([residents.one, residents.two])
    eventually(lambda: talk(residents), "traffic after the server's return")


def drain(s11: Server) -> None:
    s11.node.run([ROUTED, "drain"])
    eventually(lambda: not s11.agent.alive(), "the end of the agent")
    s11.await_routes([])


def test_the_next_agent_of_a_drained_server_announces_nothing(s11: Server, residents: Residents) -> None:
    with undrained_at_last(s11):
        drain(s11)
        for _ in range(2):
            s11.start()
            s11.await_last_word()
            assert [s11.announced(tor) for tor in s11.tors] == [set(), set()]
            assert s11.agent.show("routes") == []
            assert {row["error"] for row in s11.attachments().values()} == {DRAINED}
            assert failure(s11.plugin.status).code == 50
            refused = failure(s11.add, 1)
            assert (refused.code, refused.msg) == (11, DRAINED)
            assert not ping(both_ways([(residents.one.place, residents.two.place)])), "local pods reach each other"
            s11.agent.stop()
    s11.await_routes([residents.one, residents.two])
    eventually(lambda: talk(residents), "traffic after the server's return")


def test_without_the_mark_the_next_agent_announces_everything(s11: Server, residents: Residents) -> None:
    """Negative control of the one before."""
    with undrained_at_last(s11):
        drain(s11)
        s11.node.path(s11.rack.drain_mark).unlink()
        s11.start()
        s11.await_last_word()
        s11.await_routes([residents.one, residents.two])


def test_an_agent_that_dies_as_it_drains_is_followed_by_one_that_goes_on(s11: Server, residents: Residents) -> None:
    """The control is in test_agent_death.py: of an agent that dies, every route stays."""
    with undrained_at_last(s11):
        s11.agent.kill()
        assert all(s11.announced(tor) for tor in s11.tors), "ExaBGP announces on"
        s11.node.path(s11.rack.drain_mark).touch()
        s11.start()
        s11.await_routes([])
    s11.await_routes([residents.one, residents.two])


# ---- a new gateway MAC address


def set_gateway_mac(lab: Lab, mac: str) -> None:
    for tor in ("r1a", "r1b"):
        lab.node(tor).run(["ovs-vsctl", "set", "bridge", "gw", f'other_config:hwaddr="{mac}"'])
        # Open vSwitch sets the device down for it, shorter than FRR notices; the kernel has lost the routes through it.
        for server in ("s11", "s12"):
            lab.vtysh(tor, f"clear bgp {ADDRESSES[server]}")


def test_traffic_follows_the_gateways_mac_address(lab: Lab, s11: Server, residents: Residents) -> None:
    eventually(lambda: talk(residents), "traffic at first")
    set_gateway_mac(lab, OTHER_MAC)
    try:
        eventually(lambda: any(OTHER_MAC in flow for flow in s11.all_flows()), "flows with the new address", 60)
        assert not any(GATEWAY_MAC in flow for flow in s11.all_flows())
        eventually(lambda: talk(residents), "traffic", 60)
    finally:
        set_gateway_mac(lab, GATEWAY_MAC)
    eventually(lambda: any(GATEWAY_MAC in flow for flow in s11.all_flows()), "flows with the old address", 60)
    eventually(lambda: talk(residents), "traffic", 60)
    lab.wait_ready()


# ---- a ToR that starts again


def test_a_tor_that_starts_again_connects_at_once(lab: Lab, s11: Server, residents: Residents) -> None:
    other = s11.sessions()["r1b"]
    lab.node("r1a").kill_daemon("bgpd")
    eventually(lambda: not s11.agent.established(), "the agent noticing")
    lab.node("r1a").start_daemon("bgpd")
    eventually(lambda: s11.neighbor("r1a")["bgpState"] == "Established", "the session")
    s11.await_routes([residents.one, residents.two])
    assert s11.sessions()["r1b"] == other, "the other ToR's session is untouched"
    lab.wait_ready()
    eventually(lambda: talk(residents), "traffic")

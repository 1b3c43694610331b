"""Deaths under traffic, of the agent, its ExaBGP, Open vSwitch: what is lost meanwhile, and what comes back."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator

import pytest

from containerlab.agents import Agent
from containerlab.lab import Lab
from containerlab.ping import ping
from containerlab.probe import Probe, Report, both_ways
from tests.fabric import eventually
from tests.lab import succession
from tests.servers import RACK, Residents, RouteWatch, Server, losses

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

RATE_HZ = 100
KEEPALIVES_BEYOND_HOLD_TIME = 4
"""One is sent every third of it (RFC 4271 section 10)."""


class Traffic:
    """Packets between the pods of s11 and everybody else, both ways, both families; and what the ToRs' kernels do."""

    def __init__(self, probe: Probe, watches: dict[str, RouteWatch]) -> None:
        self._probe, self._watches = probe, watches

    def stop(self) -> list[Report]:
        return self._probe.stop()

    def lost(self) -> list[str]:
        """End the traffic and return the flows that lost packets."""
        return losses(self.stop())

    def deleted(self) -> dict[str, list[str]]:
        """Return the host routes of pods that a ToR's kernel deleted."""
        found = {
            tor: [route for route in watch.deleted() if "101:" in route or "10.101." in route]
            for tor, watch in self._watches.items()
        }
        return {tor: routes for tor, routes in found.items() if routes}


@pytest.fixture
def traffic(lab: Lab, s11: Server, residents: Residents) -> Iterator[Traffic]:
    own, others = [residents.one.place, residents.two.place], [residents.rack.place, residents.far.place]
    flows = both_ways([*((one, other) for one in own for other in others), (own[0], own[1])])
    with contextlib.ExitStack() as stack:
        watches = {tor: stack.enter_context(RouteWatch(lab, tor)) for tor in s11.tors}
        yield Traffic(stack.enter_context(Probe(flows, RATE_HZ)), watches)


def await_new_sessions(s11: Server, before: dict[str, int]) -> dict[str, int]:
    """Wait until both ToRs have seen a new session come up."""

    def both_are_new() -> bool:
        now = s11.sessions()
        return all(now[tor] > before[tor] for tor in before) and s11.at_rest()

    eventually(both_are_new, "new sessions")
    return s11.sessions()


# ---- the agent


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_agent_that_ends_and_starts_again_is_not_noticed(
    traffic: Traffic, s11: Server, residents: Residents, number: signal.Signals
) -> None:
    speaker, sessions, attachments = s11.agent.speaker_pid(), s11.sessions(), s11.attachments()
    s11.agent.kill(number)
    if number is signal.SIGKILL:
        keepalives = {tor: s11.neighbor(tor)["messageStats"]["keepalivesRecv"] for tor in s11.tors}
        eventually(
            lambda: all(
                s11.neighbor(tor)["messageStats"]["keepalivesRecv"] >= keepalives[tor] + KEEPALIVES_BEYOND_HOLD_TIME
                for tor in s11.tors
            ),
            "ExaBGP alone for longer than the hold time",
        )
    s11.start()
    assert s11.agent.speaker_pid() == speaker, "the running ExaBGP is adopted"
    assert s11.sessions() == sessions, "no ToR has seen a session end"
    assert s11.attachments() == attachments
    for pod in (residents.one, residents.two):
        s11.check(pod)
    assert traffic.lost() == []
    assert traffic.deleted() == {}


def test_a_pod_can_be_added_and_deleted_after_an_agent_was_killed(s11: Server) -> None:
    s11.agent.kill()
    s11.start()
    before = s11.sessions()
    pods = s11.add(2)
    s11.await_routes(s11.pods.values())
    s11.delete(pods)
    s11.await_routes(s11.pods.values())
    assert s11.sessions() == before


@pytest.mark.netns_only("the node runs a script of this checkout, which an image does not have")
def test_an_agent_that_gives_way_leaves_nothing_of_itself_in_the_process(s11: Server) -> None:
    s11.agent.stop()
    try:
        s11.node.run([sys.executable, succession.__file__, str(RACK), s11.name])
    finally:
        s11.start()


# ---- its ExaBGP


def test_a_killed_exabgp_loses_nothing(traffic: Traffic, lab: Lab, s11: Server, residents: Residents) -> None:
    speaker, sessions = s11.agent.speaker_pid(), s11.sessions()
    s11.agent.kill_speaker()
    await_new_sessions(s11, sessions)
    eventually(lambda: has_end_of_rib(s11), "End-of-RIB on both ToRs")
    assert s11.agent.speaker_pid() != speaker
    assert no_route_is_stale(lab, s11)
    s11.await_routes([residents.one, residents.two])
    assert traffic.deleted() == {}
    assert traffic.lost() == []


def test_without_graceful_restart_a_killed_exabgp_loses_packets(lab: Lab, s11: Server, residents: Residents) -> None:
    """Negative control of the one before."""
    sessions = s11.sessions()
    with s11.configured({"graceful_restart_s: 30": "graceful_restart_s: 0"}):
        sessions = await_new_sessions(s11, sessions)  # they are told of the new configuration
        flows = both_ways([(residents.one.place, residents.far.place)])
        with RouteWatch(lab, "r1a") as watch, Probe(flows, RATE_HZ) as probe:
            s11.agent.kill_speaker()
            sessions = await_new_sessions(s11, sessions)
            s11.await_routes([residents.one, residents.two])
            towards_pod = [report for report in probe.stop() if report.flow.target is residents.one.place]
            deleted = watch.deleted()
    await_new_sessions(s11, sessions)
    assert len(losses(towards_pod)) == 2
    assert residents.one.prefixes <= set(deleted)


def test_an_exabgp_that_hangs_is_replaced_before_its_sessions_expire(
    traffic: Traffic, s11: Server, residents: Residents
) -> None:
    speaker, sessions = s11.agent.speaker_pid(), s11.sessions()
    s11.node.run(["kill", "-STOP", str(speaker)])
    await_new_sessions(s11, sessions)
    for tor in s11.tors:
        assert s11.neighbor(tor)["lastResetDueTo"] != "BGP Notification send", f"{tor}'s hold time has ended"
    assert not s11.node.path(f"/proc/{speaker}").exists(), "the one that hung is gone"
    eventually(lambda: has_end_of_rib(s11), "End-of-RIB on both ToRs")
    s11.await_routes([residents.one, residents.two])
    assert traffic.deleted() == {}
    assert traffic.lost() == []


def test_an_agent_that_has_lost_its_speaker_to_a_mistake_ends(s11: Server, residents: Residents) -> None:
    """Else nobody looks after ExaBGP, and no service manager can tell. The mistake: its user is not there any more."""
    sessions, users = s11.sessions(), s11.node.path("/etc/passwd")
    before = users.read_text()
    users.write_text(f"{before}brief:x:64999:64999::/:/bin/false\n")
    s11.agent.stop()
    try:
        s11.agent = Agent.start(s11.node, env={"ROUTED_BGP_USER": "brief"})
        s11.agent.wait_ready()
        users.write_text(before)
        s11.agent.kill_speaker()
        eventually(lambda: not s11.agent.alive(), "its end")
        assert "LookupError: no such user: 'brief'" in s11.agent.last_words(60)
    finally:
        users.write_text(before)
        if s11.agent.alive():
            s11.agent.stop()
        s11.start()
    await_new_sessions(s11, sessions)
    s11.await_routes([residents.one, residents.two])


def has_end_of_rib(s11: Server) -> bool:
    wanted = {"ipv4Unicast": True, "ipv6Unicast": True}
    return all(s11.neighbor(tor).get("gracefulRestartInfo", {}).get("endOfRibRecv") == wanted for tor in s11.tors)


def no_route_is_stale(lab: Lab, s11: Server) -> bool:
    shown = (lab.vtysh(tor, f"show bgp {family} unicast json") for tor in s11.tors for family in ("ipv4", "ipv6"))
    return not any("stale" in text for text in shown)


# ---- Open vSwitch


@pytest.mark.parametrize("daemon", ["ovs-vswitchd", "ovsdb-server"])
def test_open_vswitch_comes_back_with_flows_and_ports(
    traffic: Traffic, s11: Server, residents: Residents, daemon: str
) -> None:
    flows, ports = sorted(s11.flows()), s11.ports()
    s11.kill_daemon(daemon)
    s11.node.start_daemon(daemon)
    eventually(lambda: sorted(s11.flows()) == flows, "the pods' flows")
    eventually(lambda: s11.ports() == ports, "the ports")
    eventually(lambda: not ping(both_ways([(residents.one.place, residents.far.place)])), "traffic")
    eventually(s11.at_rest, "the agent")
    new = s11.add(1)
    eventually(lambda: not ping(both_ways([(new[0].place, residents.far.place)])), "traffic of a new pod")
    s11.delete(new)
    for report in traffic.stop():
        sys.stdout.write(f"{daemon}: {report}\n")

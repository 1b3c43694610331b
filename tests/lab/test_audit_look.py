"""What an audit sees of the real fabric: FRR's ToRs and spines, and the agents' own exports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shlex
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from containerlab.errors import CommandError
from containerlab.lab import Lab
from containerlab.topology import TWO_RACKS
from routed.audit.model import Audit, Kind, Route, ServerView, SwitchView
from routed.audit.run import run
from routed.audit.settings import load
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.agent import AgentByCommand
from routed.audit.sources.command import Command
from routed.audit.sources.frr import Frr
from routed.audit.sources.mrt import Mrt
from tests.auditing import entering
from tests.collecting import collected
from tests.fabric import eventually
from tests.servers import Residents, Server

pytestmark = [pytest.mark.lab, pytest.mark.timeout(240)]

SWITCHES = ("r1a", "sp1")
RACK_AND_SPINES = ("r1a", "r1b", "sp1", "sp2")
SERVERS = ("s11", "s12")
STEERING = "65000:911"


def seen(lab: Lab, name: str) -> SwitchView:
    return asyncio.run(Frr(name, Command(entering(lab.node(name), "vtysh"), 20)).observe())


def exported(server: Server) -> ServerView:
    command = Command(entering(server.node, "routed", "audit", "export"), 20)
    return asyncio.run(AgentByCommand(server.name, command).observe())


def paths(lab: Lab, tor: str, prefix: str) -> list[Route]:
    return [route for route in seen(lab, tor).routes if route.prefix == ip_network(prefix)]


def best(lab: Lab, tor: str, prefix: str) -> Route | None:
    return next((path for path in paths(lab, tor, prefix) if path.best), None)


def audit(lab: Lab, folder: Path, **switches: Any) -> Audit:
    """Audit rack 1 and the spines, which are asked through vtysh unless something else is said."""
    document = {
        "racks": [str(TWO_RACKS.parent / "racks" / "r1.yaml")],
        "switches": {
            "spines": ["sp1", "sp2"],
            **{name: {"source": "frr", "command": entering(lab.node(name), "vtysh")} for name in RACK_AND_SPINES},
            **switches,
        },
        "agents": {"command": [str(folder / "ask.sh"), "{server}"]},
        "timeout_s": 20,
        "confirm_after_s": 3,
    }
    command = folder / "ask.sh"
    lines = [f"{name}) exec {shlex.join(entering(lab.node(name), 'routed', 'audit', 'export'))};;" for name in SERVERS]
    command.write_text("#!/bin/sh\ncase $1 in\n" + "\n".join(lines) + "\nesac\n")
    command.chmod(0o755)
    path = folder / "audit.yaml"
    path.write_text(json.dumps(document))  # which is YAML
    return asyncio.run(run(load(path)))


@pytest.mark.parametrize("version", [4, 6])
def test_a_pods_route_is_seen_as_it_is(lab: Lab, residents: Residents, s11: Server, version: int) -> None:
    pod = residents.one
    prefix = f"{pod.address(version)}/{32 if version == 4 else 128}"
    hop = next(one for one in s11.rack.servers["s11"].addresses if one.version == version)
    for tor in s11.tors:
        (route,) = paths(lab, tor, prefix)
        assert (route.next_hops, route.as_path, route.communities) == ((hop,), (65500,), frozenset())
        assert (route.best, route.installed, route.stale) == (True, True, False)
        assert route.peer == ip_address("10.1.0.11")
        assert route.age_s is not None
    for switch in ("r2a", "sp1"):
        assert paths(lab, switch, prefix) == []
        assert best(lab, switch, "10.101.0.0/24") is not None


def test_every_switch_shows_every_prefix_of_both_families(lab: Lab, residents: Residents) -> None:
    assert residents.all
    for name in SWITCHES:
        shown = [lab.vtysh_json(name, f"show bgp {family} unicast")["routes"] for family in ("ipv4", "ipv6")]
        assert {str(route.prefix) for route in seen(lab, name).routes} == {
            prefix for table in shown for prefix in table
        }


def test_an_agent_exports_what_both_tors_have(residents: Residents, s11: Server) -> None:
    view = exported(s11)
    assert (view.server, view.rack, view.draining) == ("s11", "r1", False)
    held = {holding.address: holding for holding in view.holdings}
    for pod in (residents.one, residents.two):
        for address in pod.place.addresses:
            assert held[address].announce
            assert view.ports[address].port == pod.port
            assert view.ports[address].mac == pod.mac
            assert view.ports[address].flows
    for tor in s11.tors:
        assert {str(one.prefix) for one in view.announced if one.tor == tor} == s11.announced(tor)
        assert view.sides[tor].session_up
        assert view.sides[tor].healthy


def test_an_agent_that_is_away_could_not_be_observed(s11: Server) -> None:
    s11.agent.stop()
    with pytest.raises(CouldNotObserve, match="no agent answers"):
        exported(s11)


def test_a_node_without_frr_could_not_be_observed(lab: Lab) -> None:
    with pytest.raises(CouldNotObserve):
        seen(lab, "s11")


def test_a_daemon_that_does_not_run_is_not_an_empty_table(lab: Lab) -> None:
    """A vtysh that finds no bgpd fails or prints something else, whichever way it is told to look for it."""
    for option in (("-d", "zebra"), ("--vty_socket", "/nonexistent")):
        command = Command(entering(lab.node("r1a"), "vtysh", *option), 20)
        with pytest.raises(CouldNotObserve):
            asyncio.run(Frr("r1a", command).observe())


def test_a_steered_route_shows_its_community(lab: Lab, residents: Residents, s11: Server) -> None:
    prefix = f"{residents.one.address(4)}/32"
    with cut(lab, s11, "r1b"):
        eventually(
            lambda: (route := best(lab, "r1a", prefix)) is not None and STEERING in (route.communities or ()),
            "the community on r1a",
        )
        view = exported(s11)
        assert (view.sides["r1a"].steers, view.sides["r1b"].healthy) == (True, False)
        on_spine = eventually(lambda: best(lab, "sp1", prefix), "the route on the spine")
        assert on_spine.as_path == (65011, 65500)


@contextlib.contextmanager
def cut(lab: Lab, server: Server, tor: str) -> Iterator[None]:
    lab.cut(f"{tor}:{server.name}")
    try:
        yield
    finally:
        lab.restore(f"{tor}:{server.name}")
        eventually(server.at_rest, f"{server.name} at rest", 60)


def test_a_route_that_something_else_overrides_is_not_installed(lab: Lab, residents: Residents) -> None:
    prefix = f"{residents.one.address(4)}/32"
    other = ("blackhole", prefix, "metric", "5")  # a route of the kernel's own is preferred to any of BGP
    lab.node("r1a").run(["ip", "route", "add", *other])
    try:
        eventually(
            lambda: (route := best(lab, "r1a", prefix)) is not None and route.installed is False, "the other route"
        )
        away = best(lab, "r1b", prefix)
        assert away is not None
        assert away.installed
    finally:
        lab.node("r1a").run(["ip", "route", "delete", *other])
    eventually(lambda: (route := best(lab, "r1a", prefix)) is not None and route.installed, "BGP's route again")


def test_routes_of_a_speaker_that_is_away_are_stale(lab: Lab, residents: Residents, s11: Server) -> None:
    prefix = f"{residents.one.address(4)}/32"
    s11.agent.stop()
    s11.node.run(["kill", "-9", str(s11.agent.speaker_pid())])
    eventually(lambda: (route := best(lab, "r1a", prefix)) is not None and route.stale, "a stale route")
    s11.start()
    eventually(
        lambda: (route := best(lab, "r1a", prefix)) is not None and route.stale is False, "a route that is told again"
    )


def test_a_healthy_fabric_has_no_findings(lab: Lab, residents: Residents, s11: Server, tmp_path: Path) -> None:
    assert residents.one.server == s11.name
    found = audit(lab, tmp_path)
    assert [finding.text for finding in found.findings] == []
    assert found.observed == 7  # the racks, two ToRs, two spines, two agents


# ---- from dumps


def dump(lab: Lab, folder: Path) -> None:
    """Have every switch write its routes, and keep them as the file of its name."""
    path = "/run/frr/rib.mrt"
    for name in RACK_AND_SPINES:
        lab.vtysh(name, "configure", f"dump bgp routes-mrt {path} 1")
    for name in RACK_AND_SPINES:
        file = lab.node(name).path(path)
        eventually(lambda file=file: file.exists() and file.stat().st_size > 0, f"the dump of {name}")
        lab.vtysh(name, "configure", f"no dump bgp routes-mrt {path} 1")
        (folder / f"{name}.mrt").write_bytes(file.read_bytes())
        file.unlink()


def test_a_healthy_fabric_has_no_findings_in_its_dumps(
    lab: Lab, residents: Residents, s11: Server, tmp_path: Path
) -> None:
    assert residents.one.server == s11.name
    dump(lab, tmp_path)
    dumps = {name: {"source": "mrt", "file": "{name}.mrt"} for name in RACK_AND_SPINES}
    found = audit(lab, tmp_path, **dumps)
    assert [finding.text for finding in found.findings] == []
    assert found.observed == 7
    shown = asyncio.run(Mrt("r1a", tmp_path / "r1a.mrt", None, 20).observe()).routes
    compared = [
        {(one.prefix, one.next_hops, one.as_path, one.communities, one.peer) for one in routes if one.best}
        for routes in (shown, seen(lab, "r1a").routes)
    ]
    assert compared[0] == compared[1]
    # the dump of another switch, as if r1b had no host routes
    another = audit(lab, tmp_path, **dumps | {"r1b": {"source": "mrt", "file": "sp1.mrt"}})
    pods = {str(address) for pod in (residents.one, residents.two, residents.rack) for address in pod.place.addresses}
    assert {(one.kind, one.where) for one in another.findings if one.subject in pods} == {(Kind.MISSING, ("r1b",))}


# ---- over BGP

COLLECTING = ("10.255.1.1", "10.255.0.1", "fd00:254:1::3", "fd00:254:1::2")
"""r1a's ends and sp1's."""


@contextlib.contextmanager
def collector_allowed(lab: Lab) -> Iterator[None]:
    """Let r1a have sp1 as a neighbour that only listens, over both IP versions."""
    _, ipv4, _, ipv6 = COLLECTING
    lab.vtysh(
        *("r1a", "configure", "router bgp 65011"),
        *(f"neighbor {ipv4} remote-as 65011", f"neighbor {ipv4} passive", f"neighbor {ipv4} update-source 10.255.1.1"),
        *(f"neighbor {ipv6} remote-as 65011", f"neighbor {ipv6} passive"),
        *("address-family ipv4 unicast", f"neighbor {ipv4} activate", "exit-address-family"),
        *("address-family ipv6 unicast", f"neighbor {ipv4} activate", f"neighbor {ipv6} activate"),
    )
    try:
        yield
    finally:
        lab.vtysh("r1a", "configure", "router bgp 65011", f"no neighbor {ipv4}", f"no neighbor {ipv6}")


@pytest.mark.netns_only("the collector runs this checkout's Python inside a switch")
def test_a_collector_hears_what_vtysh_shows(lab: Lab, residents: Residents) -> None:
    with collector_allowed(lab):
        heard = collected(lab.node("sp1"), "r1a", 65011, *COLLECTING)
        shown = {str(route.prefix): route for route in seen(lab, "r1a").routes if route.best}
        assert heard.keys() == shown.keys()
        for pod in (residents.one, residents.two, residents.rack):
            for prefix in pod.prefixes:
                hops, as_path, communities = heard[prefix]
                assert hops == list(map(str, shown[prefix].next_hops))
                assert (as_path, communities) == ([65500], [])
        # over IPv4 alone, FRR does not tell where IPv6 routes lead
        with pytest.raises(CommandError, match=r"replaces IPv6 next hops .* add a session over IPv6"):
            collected(lab.node("sp1"), "r1a", 65011, *COLLECTING[:2])


@pytest.mark.netns_only("the collector runs this checkout's Python inside a switch")
def test_a_switch_that_does_not_know_the_collector_could_not_be_observed(lab: Lab) -> None:
    with pytest.raises(CommandError, match="BGP session with r1a: no session"):
        collected(lab.node("sp1"), "r1a", 65011, *COLLECTING, timeout_s=3)

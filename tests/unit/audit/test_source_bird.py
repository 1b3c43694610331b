"""BIRD's text: recorded from BIRD 2.0.12 of the interoperability lab, and what is no such answer."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from routed.audit.model import Route
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.bird import Bird, Session, parse, sessions
from routed.audit.sources.command import Command

RECORDED = Path(__file__).parent / "recorded"
ROUTES = (RECORDED / "bird-2.0-routes.txt").read_text()
PROTOCOLS = (RECORDED / "bird-2.0-protocols.txt").read_text()
GREETING = "BIRD 2.0.12 ready.\n"


def routes(prefix: str, text: str = ROUTES, protocols: str = PROTOCOLS) -> list[Route]:
    return [route for route in parse(text, sessions(protocols)) if route.prefix == ip_network(prefix)]


def test_a_pods_route() -> None:
    assert routes("10.101.1.20/32") == [
        Route(
            prefix=ip_network("10.101.1.20/32"),
            next_hops=(ip_address("10.1.0.12"),),
            as_path=(65500,),
            communities=frozenset({"65000:911"}),
            best=True,
            installed=None,
            stale=False,
            peer=ip_address("10.1.0.12"),
        )
    ]


def test_an_ipv6_route_and_large_communities() -> None:
    (route,) = routes("fd00:101::2:20/128")
    assert (route.next_hops, route.communities) == ((ip_address("fd00:1::12"),), frozenset({"65000:1:2"}))
    (default,) = routes("::/0")
    assert default.next_hops == (ip_address("fd00:254:1::2"),)


def test_several_paths_to_a_prefix() -> None:
    own, other = routes("10.101.0.0/24")
    assert (own.best, own.peer, own.next_hops, own.as_path) == (True, None, (), ())
    assert (other.best, other.as_path, other.installed) == (False, (65100, 65012), False)


def test_connected_networks_are_no_routes_of_bgp() -> None:
    assert routes("10.101.0.1/32") == []
    assert routes("10.101.0.2/32")


def test_a_route_that_the_kernel_refused() -> None:
    mark = "[s11 12:18:33.228] * "
    assert mark in ROUTES
    (route,) = routes("10.101.0.2/32", ROUTES.replace(mark, mark[:-1] + "! "))
    assert (route.best, route.installed) == (True, False)


def test_a_next_hop_that_is_lost() -> None:
    text = ROUTES.replace("unicast [s11", "unreachable [s11")
    (route,) = routes("10.101.0.2/32", text)
    assert (route.best, route.installed) == (True, False)


@pytest.mark.parametrize(("state", "stale"), [("Active", True), ("Established", None)])
def test_a_session_that_restarts(state: str, stale: bool | None) -> None:
    text = (
        f"{GREETING}Name Proto Table State Since Info\n"
        f"s11        BGP        ---        start  12:18:32.595  {state}\n"
        f"  BGP state:          {state}\n    Neighbor address: 10.1.0.11\n    Neighbor graceful restart active\n"
    )
    assert sessions(text)["s11"].stale is stale


def test_sessions() -> None:
    found = sessions(PROTOCOLS)
    assert found["s11"] == Session(ip_address("10.1.0.11"), established=True, restarting=False)
    assert found.keys() == {"s11", "s12", "sp1"}


def test_a_long_list_of_communities_goes_over_lines() -> None:
    text = ROUTES.replace("(65000,911)\n", "(65000,911)\n\t\t(1,2) (3,4)\n")
    assert routes("10.101.1.20/32", text)[0].communities == frozenset({"65000:911", "1:2", "3:4"})


def test_no_routes_are_no_routes() -> None:
    assert list(parse(GREETING, {})) == []
    assert list(parse(f"{GREETING}Access restricted\n", {})) == []


ANSWERS: list[Callable[[str], str]] = [
    lambda _: "",
    lambda text: text.replace("BIRD 2.0.12", "BIRD 3.0.1"),
    lambda text: text.replace("\tType: BGP univ\n", ""),
    lambda text: text.replace("unicast [", "unicorn ["),
    lambda text: text.replace("BGP.next_hop", "BGP.next_skip"),
    lambda text: text.replace("[s11 ", "[nobody "),
    lambda text: text + "syntax error\n",
]


@pytest.mark.parametrize("change", ANSWERS)
async def test_anything_else_could_not_be_observed(change: Callable[[str], str], tmp_path: Path) -> None:
    (tmp_path / "protocols").write_text(PROTOCOLS)
    (tmp_path / "route").write_text(change(ROUTES))
    birdc = Command(("sh", "-c", f'cat "{tmp_path}/$2"', "birdc"), 5)
    with pytest.raises(CouldNotObserve, match="not what BIRD 2 says"):
        await Bird("r1a", birdc).observe()


async def test_the_recorded_answer_is_observed(tmp_path: Path) -> None:
    (tmp_path / "protocols").write_text(PROTOCOLS)
    (tmp_path / "route").write_text(ROUTES)
    birdc = Command(("sh", "-c", f'cat "{tmp_path}/$2"', "birdc"), 5)
    view = await Bird("r1a", birdc).observe()
    assert (view.switch, len(view.routes)) == ("r1a", len(list(parse(ROUTES, sessions(PROTOCOLS)))))

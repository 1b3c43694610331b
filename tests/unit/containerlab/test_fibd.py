"""What GoBGP's hand in the kernel decides."""

from __future__ import annotations

from typing import Any

from containerlab.images.tor.fibd import Network, parse_networks, wanted_routes

LINKS = {"10.254.1.4/31": "up1", "fd00:254:1::4/127": "up1", "fe80::/64": "up1"}
NEXT_HOP, MP_REACH = 3, 14


def path(hop: str, neighbour: str | None) -> dict[str, Any]:
    origin = {"type": 1, "value": 0}
    found: dict[str, Any] = {"attrs": [origin, {"type": MP_REACH if ":" in hop else NEXT_HOP, "nexthop": hop}]}
    return found if neighbour is None else {**found, "neighbor-ip": neighbour}


OWN = path("0.0.0.0", None)  # noqa: S104 - how GoBGP writes itself as next hop
SPINE = path("10.254.1.4", "10.254.1.4")
SERVER = path("10.1.0.11", "10.1.0.11")


def test_networks_are_read_with_what_is_said_of_them() -> None:
    text = "# comment\n10.1.0.0/24 # servers\n\n10.101.0.0/24 unreachable\n"
    assert parse_networks(text) == (Network("10.1.0.0/24", False), Network("10.101.0.0/24", True))


def test_a_route_whose_next_hop_is_on_a_link_is_wanted() -> None:
    six = path("fd00:254:1::4", "10.254.1.4")
    table = {"0.0.0.0/0": [SPINE], "::/0": [six]}
    assert wanted_routes(table, LINKS, set()) == {"0.0.0.0/0": "10.254.1.4", "::/0": "fd00:254:1::4"}


def test_a_pod_is_wanted_only_while_its_server_is_in_reach() -> None:
    table = {"10.101.0.2/32": [SERVER]}
    assert wanted_routes(table, LINKS, {"10.1.0.11"}) == {"10.101.0.2/32": "10.1.0.11"}
    assert wanted_routes(table, LINKS, {"10.1.0.12"}) == {}


def test_the_next_best_path_serves_when_the_best_does_not_resolve() -> None:
    table = {"10.101.0.2/32": [SERVER, SPINE]}
    assert wanted_routes(table, LINKS, set()) == {"10.101.0.2/32": "10.254.1.4"}
    assert wanted_routes(table, LINKS, {"10.1.0.11"}) == {"10.101.0.2/32": "10.1.0.11"}


def test_what_the_tor_says_itself_stays_out_of_the_kernel() -> None:
    assert wanted_routes({"10.1.0.0/24": [OWN, SPINE]}, LINKS, set()) == {}

"""Each invariant finds nothing in a healthy lab, and its violation in one that is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.lab.chaos.invariants import Entry, Finding, Invariant, Live, Plane, Stock, Survey, Table, Thing, compare

ONE, TWO, FAR = ("10.101.0.2", "fd00:101::2"), ("10.101.1.2", "fd00:101::3"), ("10.102.0.2", "fd00:102::2")
PODS = (Live("a", "s11", ONE, 0), Live("b", "s12", TWO, 0), Live("c", "s21", FAR, 1))
RACKS = {"r1a": {"s11", "s12"}, "r1b": {"s11", "s12"}, "r2a": {"s21"}, "sp1": set[str]()}
HOST_FLOWS = {"s11": frozenset({"drop"}), "s12": frozenset({"drop"}), "s21": frozenset({"drop"})}
POOLS = {"10.101.0.0/24": frozenset({"s11"}), "10.101.1.0/24": frozenset({"s12"}), "10.102.0.0/24": frozenset({"s21"})}


def entries(servers: set[str], *, by_pod: bool) -> tuple[Entry, ...]:
    return tuple(
        Entry(address, pod.id if by_pod else pod.server)
        for pod in PODS
        if pod.server in servers
        for address in pod.addresses
    )


def healthy() -> Survey:
    on_servers = [
        Table(plane, server, frozenset({server}), entries({server}, by_pod=True))
        for plane in (Plane.LEDGER, Plane.AGENT, Plane.FLOWS, Plane.PODS)
        for server in HOST_FLOWS
    ]
    on_routers = [
        Table(plane, router, frozenset(servers), entries(servers, by_pod=False))
        for plane in (Plane.RIB, Plane.FIB)
        for router, servers in RACKS.items()
    ]
    stock = {plane: frozenset({0, 1, 2}) for plane in ("OVS ports", "wires", "slots")}
    return Survey(
        PODS,
        (*on_servers, *on_routers),
        things=tuple(Thing("slots' marks", pod.server, "rp0", pod.id) for pod in PODS),
        stocks=tuple(Stock(server, stock) for server in HOST_FLOWS),
        pools=POOLS,
        aggregates={router: frozenset(POOLS) for router in RACKS},
        host_flows=HOST_FLOWS,
    )


def edited(plane: Plane, where: str, edit: Callable[[tuple[Entry, ...]], tuple[Entry, ...]]) -> Survey:
    """The healthy lab, with one table changed."""
    seen = healthy()
    assert any((table.plane, table.where) == (plane, where) for table in seen.tables)
    return replace(
        seen,
        tables=tuple(
            replace(table, entries=edit(table.entries)) if (table.plane, table.where) == (plane, where) else table
            for table in seen.tables
        ),
    )


def without(address: str) -> Callable[[tuple[Entry, ...]], tuple[Entry, ...]]:
    return lambda entries: tuple(entry for entry in entries if entry.address != address)


def plus(address: str, holder: str) -> Callable[[tuple[Entry, ...]], tuple[Entry, ...]]:
    return lambda entries: (*entries, Entry(address, holder))


def places(findings: list[Finding]) -> set[tuple[Invariant, str, str, str]]:
    return {(one.invariant, one.what, one.plane, one.where) for one in findings}


def test_a_healthy_lab_violates_nothing() -> None:
    assert compare(healthy(), HOST_FLOWS) == []


PLACES = [(table.plane, table.where) for table in healthy().tables]


@pytest.mark.parametrize(("plane", "where"), [place for place in PLACES if place[1] not in {"sp1", "s21", "r2a"}])
def test_an_address_that_a_plane_lacks_is_missing(plane: Plane, where: str) -> None:
    address = TWO[0] if where == "s12" else ONE[0]
    assert places(compare(edited(plane, where, without(address)), HOST_FLOWS)) == {
        (Invariant.COMPLETE, address, plane, where)
    }


@pytest.mark.parametrize(("plane", "where"), [place for place in PLACES if place[1] != "sp1"])
def test_an_address_that_no_pod_has_is_leaked(plane: Plane, where: str) -> None:
    found = compare(edited(plane, where, plus("10.101.0.99", "dead")), HOST_FLOWS)
    assert places(found) == {(Invariant.UNLEAKED, "10.101.0.99", plane, where)}


@pytest.mark.parametrize("plane", [Plane.RIB, Plane.FIB])
def test_a_host_route_beyond_its_rack_is_found(plane: Plane) -> None:
    at_spine = compare(edited(plane, "sp1", plus(ONE[1], "r1a")), HOST_FLOWS)
    assert places(at_spine) == {(Invariant.CONTAINED, ONE[1], plane, "sp1")}
    in_other_rack = compare(edited(plane, "r2a", plus(ONE[1], "sp1")), HOST_FLOWS)
    assert places(in_other_rack) == {(Invariant.UNLEAKED, ONE[1], plane, "r2a")}


def test_a_second_way_to_an_address_is_found() -> None:
    found = compare(edited(Plane.RIB, "r1a", plus(ONE[0], "s12")), HOST_FLOWS)
    assert places(found) == {(Invariant.UNIQUE, ONE[0], Plane.RIB, "r1a")}


def test_a_way_to_the_wrong_server_is_found() -> None:
    wrong = edited(Plane.FIB, "r1b", lambda entries: plus(ONE[0], "s12")(without(ONE[0])(entries)))
    assert places(compare(wrong, HOST_FLOWS)) == {(Invariant.UNIQUE, ONE[0], Plane.FIB, "r1b")}


@pytest.mark.parametrize("plane", [Plane.LEDGER, Plane.AGENT, Plane.FLOWS, Plane.PODS])
def test_an_address_on_two_servers_is_found(plane: Plane) -> None:
    found = places(compare(edited(plane, "s12", plus(ONE[0], "b")), HOST_FLOWS))
    assert (Invariant.UNIQUE, ONE[0], plane, "s11, s12") in found


def test_an_address_told_to_two_pods_is_found() -> None:
    seen = healthy()
    twin = Live("twin", "s11", ONE, 2)
    found = places(compare(replace(seen, live=(*seen.live, twin)), HOST_FLOWS))
    assert (Invariant.UNIQUE, ONE[0], "answers of ADD", "the lab") in found


@pytest.mark.parametrize("owner", ["", "dead", "b"])
def test_a_thing_without_a_pod_on_that_server_is_leaked(owner: str) -> None:
    seen = healthy()
    found = compare(replace(seen, things=(*seen.things, Thing("macvlans", "s11", "on rp7", owner))), HOST_FLOWS)
    assert places(found) == {(Invariant.UNLEAKED, "on rp7", "macvlans", "s11")}


def stocked(**slots: set[int]) -> Survey:
    """The healthy lab with other slots on s11."""
    planes = {plane: frozenset(numbers) for plane, numbers in slots.items()}
    return replace(healthy(), stocks=(Stock("s11", planes),))


def test_a_slot_that_is_not_whole_is_found() -> None:
    found = compare(stocked(ports={0, 1}, wires={0, 1, 2}, slots={0, 1, 2}), HOST_FLOWS)
    assert places(found) == {(Invariant.UNLEAKED, "slot 2", "ports", "s11")}


def test_a_slot_out_of_the_row_is_found() -> None:
    found = compare(stocked(ports={0, 1, 9}, wires={0, 1, 9}), HOST_FLOWS)
    assert places(found) == {(Invariant.UNLEAKED, "slot 2, slot 9", "slots", "s11")}


def test_a_slot_with_two_pods_is_found() -> None:
    seen = healthy()
    twin = Live("twin", "s11", (), 0)
    assert places(compare(replace(seen, live=(*seen.live, twin)), HOST_FLOWS)) == {
        (Invariant.UNIQUE, "slot 0", "slots", "s11")
    }


def test_a_pod_whose_slot_is_gone_is_found() -> None:
    found = compare(replace(healthy(), stocks=(Stock("s21", {"ports": frozenset({0})}),)), HOST_FLOWS)
    assert places(found) == {(Invariant.COMPLETE, "slot 1", "slots", "s21")}


def test_a_pool_that_a_router_does_not_know_is_found() -> None:
    seen = healthy()
    blind = {**seen.aggregates, "sp1": frozenset(POOLS) - {"10.101.1.0/24"}}
    assert places(compare(replace(seen, aggregates=blind), HOST_FLOWS)) == {
        (Invariant.AGGREGATED, "10.101.1.0/24", Plane.FIB, "sp1")
    }


def test_the_aggregate_of_a_pool_without_pods_is_leaked() -> None:
    pools = {**POOLS, "10.102.0.0/24": frozenset[str]()}
    found = compare(replace(healthy(), pools=pools), HOST_FLOWS)
    assert places(found) == {(Invariant.UNLEAKED, "10.102.0.0/24", Plane.FIB, router) for router in RACKS}


def test_a_change_of_the_hosts_own_flows_is_found() -> None:
    changed = replace(healthy(), host_flows={**HOST_FLOWS, "s12": frozenset({"normal"})})
    assert places(compare(changed, HOST_FLOWS)) == {
        (Invariant.HOST, "normal", Plane.FLOWS, "s12"),
        (Invariant.HOST, "drop", Plane.FLOWS, "s12"),
    }


def test_an_error_in_an_agents_log_is_found() -> None:
    found = compare(replace(healthy(), errors={"s11": ("Traceback",), "s12": ()}), HOST_FLOWS)
    assert places(found) == {(Invariant.SOUND, "error", "log", "s11")}

"""FRR's JSON: recorded from FRR 8.4 of the lab, and what is no such answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from routed.audit.model import Route
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.command import Command
from routed.audit.sources.frr import Frr, parse

RECORDED = (Path(__file__).parent / "recorded" / "frr-8.4-tor.txt").read_text()
NOW = 1795262700.0


def documents() -> list[Any]:
    decode, found, text = json.JSONDecoder().raw_decode, [], RECORDED.strip()
    while text:
        document, end = decode(text)
        found.append(document)
        text = text[end:].lstrip()
    return found


def routes(of: list[Any], prefix: str) -> list[Route]:
    text = "\n".join(map(json.dumps, of))
    return [route for route in parse(text, NOW) if route.prefix == ip_network(prefix)]


def changed(prefix: str, table: int, change: Callable[[Any], None]) -> list[Route]:
    """Return the routes of a prefix, when one of its entries said something else."""
    of = documents()
    change((of[table]["routes"] if table < 2 else of[table])[prefix])
    return routes(of, prefix)


def test_a_pods_route() -> None:
    assert routes(documents(), "10.101.0.2/32") == [
        Route(
            prefix=ip_network("10.101.0.2/32"),
            next_hops=(ip_address("10.1.0.11"),),
            as_path=(65500,),
            communities=frozenset(),
            best=True,
            installed=True,
            stale=False,
            age_s=39.0,
            peer=ip_address("10.1.0.11"),
        )
    ]


def test_an_ipv6_next_hop_is_the_global_one() -> None:
    one, other = routes(documents(), "::/0")
    assert (one.next_hops, other.next_hops) == (
        (ip_address("fd00:254:1::2"),),
        (ip_address("fd00:254:2::2"),),
    )
    assert one.best
    assert other.best
    assert one.installed
    assert other.installed


def test_an_aggregate_is_the_switchs_own() -> None:
    (route,) = routes(documents(), "10.101.0.0/24")
    assert (route.next_hops, route.as_path, route.peer, route.installed) == ((), (), None, True)


def test_every_prefix_is_there() -> None:
    tables = documents()[:2]
    assert {str(route.prefix) for route in parse(RECORDED, NOW)} == {
        prefix for table in tables for prefix in table["routes"]
    }


def test_communities_large_ones_too() -> None:
    def mark(entry: Any) -> None:
        entry[1]["community"] = {"string": "65000:911 no-export", "list": ["65000:911", "noExport"]}
        entry[1]["largeCommunity"] = {"string": "65000:1:2", "list": ["65000:1:2"]}

    (route,) = changed("10.101.0.2/32", 0, mark)
    assert route.communities == frozenset({"65000:911", "no-export", "65000:1:2"})


def test_an_age_by_a_clock_that_is_ahead_is_not_known() -> None:
    def ahead(by: float) -> float | None:
        since = {"epoch": NOW + by}
        (route,) = changed("10.101.0.2/32", 0, lambda entry: entry[1].update(lastUpdate=since))
        return route.age_s

    assert [ahead(by) for by in (-5, 0.5, 3600)] == [5.0, 0.0, None]


def test_stale() -> None:
    assert changed("10.101.0.2/32", 0, lambda entry: entry[1].update(stale=True))[0].stale


def test_best_of_one_neighbouring_as_is_not_best() -> None:
    (route,) = changed("10.101.0.2/32", 0, lambda entry: entry[1].update(bestpath={"bestpathFromAs": 65500}))
    assert (route.best, route.installed) == (False, False)


@pytest.mark.parametrize(
    "change",
    [
        lambda entry: entry[0].pop("installed"),
        lambda entry: entry[0].update(offloadFailed=True),
        lambda entry: entry[0].update(protocol="static"),
        lambda entry: entry[0].update(nexthops=[{"ip": "10.1.0.99", "active": True}]),
        lambda entry: entry.clear(),
    ],
)
def test_not_in_the_forwarding_table(change: Callable[[Any], None]) -> None:
    (route,) = changed("10.101.0.2/32", 2, change)
    assert (route.best, route.installed) == (True, False)


def test_the_shape_of_frr_9_says_the_same() -> None:
    newer = documents()
    for table in newer[:2]:
        table["routes"] = {prefix: {**listed[0], "paths": listed[1:]} for prefix, listed in table["routes"].items()}
    assert list(parse("\n".join(map(json.dumps, newer)), NOW)) == list(parse(RECORDED, NOW))


def test_empty_tables_are_no_routes() -> None:
    assert list(parse('{"routes": {}}' * 2 + "{}\n{}", NOW)) == []


@pytest.mark.parametrize(
    "printed",
    [
        "",
        "bgpd is not running",
        "{}",
        '{"routes": {}}{"routes": {}}{}',  # one document is missing
        '{"warning": "Default BGP instance not found"}' * 2 + "{}{}",
        "{}{}{}{}",
        "[][][][]",
        RECORDED[:-40],
        RECORDED.replace('"peer":', '"pear":').replace('"peerId"', '"pearId"').replace("[{", "[[{"),
        RECORDED + "% Configuration is locked",
    ],
)
async def test_anything_else_could_not_be_observed(printed: str, tmp_path: Path) -> None:
    answer = tmp_path / "answer"
    answer.write_text(printed)
    with pytest.raises(CouldNotObserve, match=r"vtysh|cat"):
        await Frr("r1a", Command(("sh", "-c", f"cat {answer}"), 5)).observe()


FILTERED = Path(__file__).parent / "recorded" / "frr-8.4-filtered.txt"
ASKED = [(ip_address("10.1.0.12"), version) for version in (4, 6)]


async def test_what_a_neighbour_sent_and_policy_refused() -> None:
    """Recorded from FRR 8.4 of the lab: the third neighbour is not one."""
    asked = [*ASKED, (ip_address("10.1.0.99"), 4)]
    told = await Frr("r1a", Command(("sh", "-c", f"cat {FILTERED}"), 5)).refused(asked)
    assert told == {ASKED[0]: {ip_network("10.101.1.3/32")}, ASKED[1]: frozenset()}


@pytest.mark.parametrize("printed", ["", "{}", "{}{}{}", "[]{}", "{}{", '{"receivedRoutes": {"x": {}}}{}'])
async def test_anything_else_says_nothing_of_refusals(printed: str) -> None:
    with pytest.raises(CouldNotObserve, match="printf"):
        await Frr("r1a", Command(("printf", "%s", printed, "printf"), 5)).refused(ASKED)


def test_paths_that_nobody_told_are_not_ignored() -> None:
    def lose(entry: Any) -> None:
        entry[1].pop("peer")

    with pytest.raises(KeyError):
        changed("10.101.0.2/32", 0, lose)

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import Any

import pytest

from routed.kube.occupancy import MANY, PoolUse, occupancy, status
from routed.kube.racks import check
from tests.kube.installed import rack

NOW = datetime(2026, 11, 21, 8, tzinfo=UTC)
POOLS = check(rack(), [])


def conditions(said: dict[str, Any]) -> dict[str, tuple[str, str, str]]:
    return {one["type"]: (one["status"], one["reason"], one["lastTransitionTime"]) for one in said["conditions"]}


def test_leases_are_counted_by_pool() -> None:
    leased = map(ip_address, ["10.101.0.7", "10.101.0.8", "10.101.1.7", "fd00:101::7", "10.99.0.1", "fd00:101::2"])
    first, second, third = occupancy(POOLS, leased)  # the last two are in no pool, and reserved
    assert (first.capacity, first.leased, first.free) == (253, 2, 251)
    assert (second.capacity, second.leased) == (253, 1)
    assert (third.capacity, third.leased) == (2**64 - 4, 1)  # network, gateway and two reserved ones


def test_the_scarce_family_says_how_many_pods_there_can_be() -> None:
    leased = [ip_address("10.101.0.7"), *(ip_address("fd00:101::100") + number for number in range(5))]
    said = status(rack(), occupancy(POOLS, leased), None, NOW)
    assert (said["capacity"], said["leased"], said["free"]) == (506, 1, 505)
    assert said["pools"][0] == {"prefix": "10.101.0.0/24", "capacity": 253, "leased": 1, "free": 252}
    assert said["pools"][2] == {"prefix": "fd00:101::/64", "capacity": MANY, "leased": 5, "free": MANY}


def test_a_full_rack_is_exhausted_and_a_wrong_one_is_not_accepted() -> None:
    plenty = status(rack(), occupancy(POOLS, []), None, NOW)
    assert conditions(plenty) == {
        "Accepted": ("True", "Valid", "2026-11-21T08:00:00Z"),
        "Exhausted": ("False", "AddressesFree", "2026-11-21T08:00:00Z"),
    }
    full = status(rack(), [PoolUse(POOLS[0].prefix, 253, 253), PoolUse(POOLS[2].prefix, 2**64, 1)], None, NOW)
    assert conditions(full)["Exhausted"][:2] == ("True", "NoAddressFree")
    wrong = status(rack(), None, "Rack r1: spec.pools: no", NOW)
    assert conditions(wrong) == {"Accepted": ("False", "Invalid", "2026-11-21T08:00:00Z")}
    assert wrong["conditions"][0]["message"] == "Rack r1: spec.pools: no"


def test_what_cannot_be_counted_stays_as_it_was() -> None:
    made = rack()
    made["status"] = status(made, occupancy(POOLS, []), None, NOW)
    wrong = status(made, None, "no", NOW)
    assert {key: wrong[key] for key in ("capacity", "free", "pools")} == {
        key: made["status"][key] for key in ("capacity", "free", "pools")
    }


@pytest.mark.parametrize(("trouble", "since"), [(None, "2026-11-21T08:00:00Z"), ("no", "2026-11-21T09:00:00Z")])
def test_a_condition_says_since_when(trouble: str | None, since: str) -> None:
    made = rack()
    made["status"] = status(made, occupancy(POOLS, []), None, NOW)
    later = status(made, occupancy(POOLS, []), trouble, NOW + timedelta(hours=1))
    assert conditions(later)["Accepted"][2] == since
    assert (later == made["status"]) is (trouble is None)

"""How large a stock is, which addresses are drawn, and what is known of the rack: the pure parts of leases."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipam.allocate import shares
from ipam.model import IPAddress, Pod
from routed.kube import addresses
from routed.kube.addresses import Lease, address_of, object_name
from routed.kube.cache import Cache
from routed.kube.errors import Malformed
from routed.kube.stock import ASK_S, Asks, Marks, change, draw
from routed.kube.view import View
from tests.fixtures.pools import V4, V4_SECOND, V6, pool

SMALL = pool("10.9.0.0/29", "10.9.0.1")
RNG = Random(1)  # noqa: S311 - no secret
WEB = Pod("default", "web", "u1")
marks = st.tuples(st.integers(0, 64), st.integers(0, 64)).map(lambda pair: Marks(min(pair), max(pair)))


@given(st.integers(0, 600), marks, st.integers(0, 40))
def test_a_stock_comes_to_rest_at_once(stock: int, wanted: Marks, asked: int) -> None:
    after = stock + change(stock, wanted, asked)
    assert after >= min(wanted.low, after) >= 0
    assert change(after, wanted, asked) == 0, "what was got is not given back, nor the other way round"
    assert after >= asked


@given(marks, st.integers(0, 2000), st.integers(1, 60))
def test_stocks_never_hold_more_than_half_of_what_is_idle(wanted: Marks, idle: int, servers: int) -> None:
    shared = wanted.shared(idle, servers)
    assert shared.high * servers <= idle / 2
    assert shared.high <= wanted.high
    assert shared.low <= wanted.low


def test_where_addresses_are_plenty_the_marks_are_what_was_asked_for() -> None:
    assert Marks(8, 32).shared(506, 4) == Marks(8, 32)
    assert Marks(8, 32).shared(506, 40) == Marks(3, 6)
    assert Marks(8, 32).shared(60, 40) == Marks(0, 0)


def test_marks_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValueError, match="must not exceed"):
        Marks(5, 4)


def test_what_is_kept_for_a_pod_ends_with_its_address_or_its_patience() -> None:
    asks = Asks()
    for pod in (WEB, WEB, Pod("default", "db")):
        asks.add(pod, 100)
    assert len(asks) == 2, "a pod that asks again is still one"
    asks.review({WEB}, 101)
    assert len(asks) == 1
    asks.review((), 100 + ASK_S)
    assert not asks
    asks.add(WEB, 0)
    asks.drop(WEB)
    assert not asks


@given(st.sets(st.integers(2, 6)), st.integers(0, 10), st.integers(0, 2**32))
def test_what_is_drawn_is_unknown_and_in_the_pool(known: set[int], count: int, seed: int) -> None:
    family = shares([SMALL], [SMALL.prefix])[4]
    base = int(SMALL.prefix.network_address)
    numbers = {base + offset for offset in known}
    drawn = draw(family, numbers, 5 - len(numbers), count, Random(seed))  # noqa: S311 - no secret
    assert len(drawn) == len(set(drawn)) == min(count, 5 - len(numbers))
    assert not numbers.intersection(drawn)
    assert all(number in family[0] for number in drawn)


def test_two_servers_draw_different_addresses() -> None:
    family = shares([V4, V4_SECOND], [V4.prefix, V4_SECOND.prefix])[4]
    one, two = (set(draw(family, (), 506, 16, Random(seed))) for seed in (1, 2))  # noqa: S311 - no secret
    assert len(one & two) <= 4
    assert not one <= set(range(min(one), min(one) + 16)), "never the first free ones"


@given(st.ip_addresses())
def test_an_address_has_one_name_and_a_name_one_address(address: IPAddress) -> None:
    name = object_name(address)
    assert address_of(name) == address
    assert ":" not in name
    assert len(name) <= 39


@pytest.mark.parametrize("name", ["010.0.0.1", "fd00-0-0-0-0-0-0-01", "FD00-0-0-0-0-0-0-1", "fd00--1", "web", ""])
def test_no_other_spelling_is_a_name(name: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        address_of(name)


def test_an_object_is_read_as_it_was_made_and_nothing_is_guessed() -> None:
    made = addresses.new_object(ip_address("fd00::5"), rack="r1", node="s11", node_uid="n1")
    stored = {**made, "metadata": {**made["metadata"], "uid": "u1", "resourceVersion": "7"}, **addresses.usage(WEB)}
    assert addresses.read(stored) == Lease(ip_address("fd00::5"), "s11", "n1", "u1", "7", WEB)
    with pytest.raises(Malformed, match="whose name is"):
        addresses.read({**stored, "metadata": {**stored["metadata"], "name": "10.0.0.1"}})
    with pytest.raises(Malformed, match="cannot be read"):
        addresses.read({**stored, "spec": {}})


def lease(text: str, node: str, pod: Pod | None = None) -> Lease:
    return Lease(ip_address(text), node, f"{node}-uid", f"{text}-uid", "1", pod)


def test_the_view_counts_what_serves_no_pod_whoever_has_it() -> None:
    view = View([SMALL, V6], "s1")
    found = {
        one.address: one for one in (lease("10.9.0.2", "s1"), lease("10.9.0.3", "s2", WEB), lease("10.9.0.4", "s3"))
    }
    assert view.reset(found).keys() == {ip_address("10.9.0.2")}
    assert view.servers == 3
    view.count_used([ip_address("10.9.0.2")])
    assert view.idle()[SMALL.prefix] == 5 - 2
    view.hear(lease("10.9.0.4", "s3", WEB), exists=True)
    view.hear(lease("10.9.0.4", "s3", WEB), exists=True)
    assert view.idle()[SMALL.prefix] == 5 - 3, "heard twice is as good as once"
    view.hear(lease("10.9.0.4", "s3"), exists=False)
    view.won([ip_address("10.9.0.3")])
    assert view.idle()[SMALL.prefix] == 5 - 1
    assert view.capacity()[SMALL.prefix] == 5, "whoever uses them"
    assert set(view.draw(4, [ip_address("10.9.0.2")], 9, RNG)) == set(
        map(ip_address, ("10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6"))
    )


def test_what_is_not_to_be_had_is_not_drawn_again() -> None:
    view = View([SMALL], "s1")
    for address in SMALL.prefix:
        view.learn(address, None)
    assert view.draw(4, (), 3, RNG) == []
    assert view.idle()[SMALL.prefix] == 5, "control: whose it is, and whether a pod uses it, nobody has said"


@given(st.lists(st.tuples(st.integers(2, 6), st.booleans(), st.booleans())))
def test_what_is_heard_adds_up_like_a_look(events: list[tuple[int, bool, bool]]) -> None:
    heard, found = View([SMALL], "s1"), dict[IPAddress, Lease]()
    for number, exists, busy in events:
        one = lease(f"10.9.0.{number}", "s2", WEB if busy else None)
        heard.hear(one, exists=exists)
        found = (
            {**found, one.address: one} if exists else {key: old for key, old in found.items() if key != one.address}
        )
    looked = View([SMALL], "s1")
    looked.reset(found)
    assert heard.idle() == looked.idle()
    assert heard.others == looked.others


def test_the_file_counts_for_this_server_in_this_run_of_its_kernel(tmp_path: Path) -> None:
    path, mine = tmp_path / "leases.json", frozenset({ip_address("10.9.0.2"), ip_address("fd00::5")})
    cache = Cache(path, rack="r1", node="s1", boot="b1")
    assert cache.load() == frozenset()
    cache.save(mine)
    assert cache.stored == mine
    assert Cache(path, rack="r1", node="s1", boot="b1").load() == mine
    for rack, node, boot in (("r2", "s1", "b1"), ("r1", "s2", "b1"), ("r1", "s1", "b2")):
        assert Cache(path, rack=rack, node=node, boot=boot).load() == frozenset(), "control: another one's"
    path.write_text(path.read_text()[:-5])
    assert Cache(path, rack="r1", node="s1", boot="b1").load() == frozenset(), "torn"


def test_after_a_save_that_failed_the_file_is_unknown(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "nowhere" / "leases.json", rack="r1", node="s1", boot="b1")
    assert cache.load() == frozenset()
    with pytest.raises(FileNotFoundError):
        cache.save(frozenset())
    assert cache.stored is None

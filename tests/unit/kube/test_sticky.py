"""Whom an address waits for, and for how long: the pure part of sticky addresses."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from ipam.model import Holdings, Pod
from routed.kube import addresses
from routed.kube.addresses import Lease
from routed.kube.sticky import KEPT_S, Sticky
from routed.kube.view import View
from tests.fixtures.pools import pool

ONE, TWO = ip_address("10.101.0.7"), ip_address("10.101.0.8")
V6 = ip_address("fd00:101::7")
MINE = {one: Lease(one, "s11", uid=f"u-{one}") for one in (ONE, TWO, V6)}
WEB = Pod("shop", "web-0", "first")
NEXT = Pod("shop", "web-0", "second")
USED = Holdings({ONE: WEB, V6: WEB, TWO: Pod("shop", "cart", "u")}, sticky=frozenset({ONE, V6}))
NOBODY = Holdings({})


def plenty(_version: int) -> bool:
    return False


def sticky(held: Holdings = USED) -> Sticky:
    made = Sticky(patience_s=120)
    made.adopt(MINE, 0)
    made.review(held, (), plenty, 0)
    return made


def test_an_address_waits_for_the_next_pod_of_its_name_and_for_no_other() -> None:
    kept = sticky()
    assert (kept.name_of(ONE), kept.name_of(TWO)) == ("shop/web-0", "")
    assert not kept.waiting(), "its pod is there"
    kept.review(NOBODY, (), plenty, 1)
    assert kept.waiting() == {ONE, V6}
    assert kept.recall(Pod("shop", "web-1"), (), 2) == ((), False)
    assert kept.recall(Pod("other", "web-0"), (), 2) == ((), False)
    assert kept.recall(NEXT, (), 2) == ((ONE, V6), False)
    assert kept.waiting() == {ONE, V6}, "nobody else gets it meanwhile"
    kept.served(NEXT)
    kept.review(replace(USED, used={ONE: NEXT, V6: NEXT}), (), plenty, 3)
    assert not kept.waiting()


def test_an_address_waits_also_for_the_pod_after_one_that_was_gone_at_once() -> None:
    kept = sticky(NOBODY)
    kept.served(WEB, (ONE,))
    kept.review(NOBODY, (), plenty, 1)
    assert kept.waiting() == {ONE}


def test_nothing_waits_for_ever_nor_while_others_need_it() -> None:
    kept = sticky()
    kept.review(NOBODY, (), plenty, 1)
    kept.review(NOBODY, (), plenty, KEPT_S)
    assert kept.waiting() == {ONE, V6}
    kept.review(NOBODY, (), lambda version: version == 4, KEPT_S)
    assert kept.waiting() == {V6}
    kept.review(NOBODY, (), plenty, KEPT_S + 2)
    assert not kept.waiting()
    assert kept.recall(NEXT, (), KEPT_S + 2) == ((), False)


def test_an_address_does_not_wait_for_a_pod_that_has_another_one() -> None:
    elsewhere = Lease(ip_address("10.101.0.9"), "s12", pod=NEXT, sticky="shop/web-0")
    kept = sticky()
    kept.review(NOBODY, [replace(elsewhere, pod=None)], plenty, 1)
    assert kept.waiting() == {ONE, V6}
    kept.review(NOBODY, [elsewhere, None], plenty, 1)
    assert not kept.waiting()


def test_another_pod_that_got_the_address_is_not_the_name_s() -> None:
    kept = sticky()
    kept.review(Holdings({ONE: Pod("shop", "cart")}), (), plenty, 1)
    assert kept.name_of(ONE) == ""


def test_a_pod_waits_for_what_is_elsewhere_but_not_for_ever() -> None:
    there = Lease(ONE, "s12", sticky="shop/web-0")
    here = Sticky(patience_s=120)
    here.adopt({}, 0)
    assert here.recall(NEXT, [None, there], 10) == ((ONE,), False)
    assert here.recall(NEXT, (), 129) == ((ONE,), False), "the object is gone, and this server about to have it"
    assert here.recall(NEXT, [there], 130) == ((ONE,), True)
    here.served(NEXT)
    assert here.recall(NEXT, (), 131) == ((), False)


def test_what_objects_say_is_taken_up_once() -> None:
    told = {ONE: replace(MINE[ONE], sticky="shop/web-0")}
    kept = Sticky(patience_s=120)
    kept.adopt({ONE: Lease(ONE)}, 0)  # from the file: no object was read yet
    kept.adopt(told, 0)
    assert kept.waiting() == {ONE}
    kept.review(NOBODY, (), lambda _: True, 1)
    kept.adopt(told, 2)
    assert not kept.waiting(), "the note on the object is old by now"
    kept.adopt({}, 3)
    kept.adopt(told, 4)
    assert kept.waiting() == {ONE}, "ours anew"


def test_the_notes_of_an_object_are_read_as_they_are_written() -> None:
    document: dict[str, Any] = {**addresses.new_object(ONE, rack="r1", node="s11", node_uid="n")}
    document["metadata"] |= {"uid": "u", "resourceVersion": "1"}
    assert (addresses.read(document).sticky, addresses.read(document).wanted) == ("", ())
    document["metadata"] |= addresses.notes("shop/web-0", (TWO, V6))["metadata"]
    lease = addresses.read(document)
    assert (lease.sticky, lease.wanted) == ("shop/web-0", (TWO, V6))
    document["metadata"]["annotations"]["routed.dev/wanted"] = "nonsense 10.101.0.8 fd00::1"
    assert addresses.read(document).wanted == (TWO,), "what makes no sense makes no lease void"
    assert set(addresses.notes("", ())["metadata"]["annotations"].values()) == {None}, "which removes them"


def test_addresses_are_scarce_when_hardly_one_is_nobodys() -> None:
    view = View([pool("10.9.0.0/28", "10.9.0.1")], "s11")
    mine = [ip_address(f"10.9.0.{number}") for number in range(2, 13)]
    assert not view.is_scarce(4, mine), "2 of 13 are free, with one server"
    view.hear(Lease(ip_address("10.9.0.13"), "s12", wanted=(ONE,)), exists=True)
    assert view.is_scarce(4, mine)
    assert view.wanted() == {ONE}
    assert view.is_scarce(6, mine), "no pool at all"

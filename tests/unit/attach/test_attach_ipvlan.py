"""Which devices inside a pod are whose, where pods share the server's uplink."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from routed.attach.answers import Device
from routed.attach.ipvlan import IpvlanWay
from routed.attach.slots import SlotSpace
from routed.attach.veth import inner_index, inner_name, outer_index, outer_name, wire_of

WAY = IpvlanWay(SlotSpace(Path("/run/slots")))


def slot(wire: str) -> Device:
    return Device(
        inner_index(wire),
        inner_name(wire),
        "veth",
        1500,
        "",
        "",
        up=True,
        carrier=True,
        parent=1,
        parent_elsewhere=False,
    )


def on(wire: str) -> Device:
    """Return a pod's interface that hangs on this wire."""
    return replace(slot(wire), index=2, name="eth0", kind="ipvlan", parent=inner_index(wire), parent_elsewhere=True)


def test_two_interfaces_of_one_pod_are_told_apart_whatever_they_are_called() -> None:
    assert WAY.holds(slot("rt3"), replace(on("rt3"), name="renamed"))
    assert not WAY.holds(slot("rt3"), on("rt4"))


def test_what_a_pod_has_made_for_itself_is_not_taken_for_ours() -> None:
    assert not WAY.holds(slot("rt3"), replace(on("rt3"), parent_elsewhere=False))
    assert not WAY.holds(slot("rt3"), replace(on("rt3"), kind="macvlan"))


def test_a_slot_is_known_by_the_index_of_either_end() -> None:
    assert outer_name(inner_index("rt3")) == "rt3"
    assert outer_name(7) is None
    assert wire_of(outer_index("rt3")) == "rt3"
    assert wire_of(inner_index("rt3")) is None

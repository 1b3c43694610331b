"""The links plane when pods end, slots are in use or work was cut short: nothing is lost, nothing is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from routed.attach.errors import (
    KernelError,
    SlotTaken,
)
from routed.attach.links import Links
from routed.attach.mark import Mark
from routed.attach.slots import SlotSpace
from routed.attach.veth import MacvlanWay
from routed.attach.wires import Wires
from routed.domain.wiring import Wire
from tests.fixtures.links import MTU, Slots, key, link_of
from tests.fixtures.pods import Pods

pytestmark = pytest.mark.system


async def test_remove_takes_the_interface_and_frees_the_slot(links: Links, pods: Pods, slots: Slots) -> None:
    pod, other = pods.make(), pods.make()
    await links.upsert({key(1): link_of(1, pod), key(2): link_of(2, other)})

    assert await links.remove([key(1), key(3)]) == {}
    assert await links.remove([key(1)]) == {}

    assert [device["ifname"] for device in pod.ip("link")] == ["lo"]
    assert slots.alias(1) == "routed"
    assert await links.observe() == {key(2): link_of(2, other)}
    assert await links.upsert({key(3): link_of(3, pod, slot=1)}) == {}


async def test_remove_succeeds_when_the_pod_is_gone(links: Links, pods: Pods, slots: Slots) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})
    pod.delete()

    assert await links.remove([key(1)]) == {}
    assert slots.alias(1) == "routed"


async def test_a_slot_is_usable_again_at_once_after_its_pod_died(links: Links, pods: Pods) -> None:
    for number in range(1, 8):
        pod = pods.make()
        wanted = {key(number): link_of(number, pod, slot=1)}
        assert await links.upsert(wanted) == {}
        assert await links.observe() == wanted
        pod.delete()


async def test_observe_cleans_the_mark_of_a_pod_that_died(links: Links, pods: Pods, slots: Slots) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})
    pod.delete()

    assert await links.observe() == {}
    assert slots.alias(1) == "routed"


async def test_not_being_able_to_look_is_an_error_and_keeps_the_mark(links: Links, pods: Pods, slots: Slots) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})
    pod.delete()
    Path(pod.path).symlink_to(pod.path)  # opening it fails, but not because it does not exist

    with pytest.raises(KernelError, match="symbolic links"):
        await links.observe()
    failures = await links.remove([key(1)])

    assert isinstance(failures[key(1)], KernelError)
    assert slots.alias(1) == Mark(key(1), pod.path).text()


async def test_a_renamed_slot_hides_only_itself(links: Links, pods: Pods, slots: Slots) -> None:
    await links.upsert({key(1): link_of(1, pods.make()), key(2): (second := link_of(2, pods.make()))})
    slots.run("ip", "link", "set", "rp1", "name", "stolen")

    assert await links.observe() == {key(2): second}


async def test_a_slot_in_use_is_not_given_to_another(links: Links, pods: Pods) -> None:
    pod = pods.make()
    await links.upsert({key(1): link_of(1, pod)})

    failures = await links.upsert({key(2): link_of(2, pods.make(), slot=1)})

    assert isinstance(failures[key(2)], SlotTaken)
    assert await links.observe() == {key(1): link_of(1, pod)}


async def test_a_namespace_that_lives_on_without_its_path_costs_the_wire_not_the_slot(
    links: Links, wires: Wires, pods: Pods
) -> None:
    hidden, pod = pods.make(), pods.make()
    await links.upsert({key(1): link_of(1, hidden)})
    with open(hidden.path):  # noqa: ASYNC230, PTH123  # an open file keeps the namespace alive
        hidden.delete()

        failures = await links.upsert({key(2): link_of(2, pod, slot=1)})

        assert isinstance(failures[key(2)], SlotTaken)
        assert "rt1" not in await wires.observe()
        await wires.upsert({"rt1": Wire(MTU)})
        assert await links.upsert({key(2): link_of(2, pod, slot=1)}) == {}


async def test_a_crash_between_mark_and_creation_leaves_nothing_unowned(
    links: Links, pods: Pods, slots: Slots, space: SlotSpace
) -> None:
    pod = pods.make()
    wanted = {key(1): link_of(1, pod)}
    slots.run("ip", "link", "set", "rp1", "alias", Mark(key(1), pod.path).text())

    assert await Links(MacvlanWay(space)).observe() == {}
    assert slots.alias(1) == "routed"
    assert await links.upsert(wanted) == {}
    assert await links.observe() == wanted


async def test_a_crash_before_configuration_is_repaired_or_removed(links: Links, pods: Pods, slots: Slots) -> None:
    for number in (1, 2):
        pod = pods.make()
        slots.run("ip", "link", "set", f"rp{number}", "alias", Mark(key(number), pod.path).text())
        slots.run("ip", "link", "add", "made", "link", f"rp{number}", "type", "macvlan", "mode", "passthru")
        slots.run("ip", "link", "set", "made", "netns", pod.path)
        pod.run("ip", "link", "set", "made", "name", "eth0")
        found = await links.observe()
        assert found[key(number)].addresses == ()
        if number == 1:
            assert await links.upsert({key(1): link_of(1, pod)}) == {}
            assert await links.observe() == {key(1): link_of(1, pod)}
        else:
            assert await links.remove([key(2)]) == {}
            assert [device["ifname"] for device in pod.ip("link")] == ["lo"]

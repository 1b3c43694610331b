"""The wires plane on the real kernel, in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from routed.attach.errors import ForeignDevice
from routed.attach.monitor import Monitor
from routed.attach.slots import SlotSpace
from routed.attach.wires import BROKEN, Wires
from routed.domain.wiring import Wire
from tests.fixtures.pods import run, server, slot_space

pytestmark = pytest.mark.system
Run = Callable[..., str]


@pytest.fixture
def space(tmp_path: Path) -> Iterator[SlotSpace]:
    with slot_space(tmp_path) as made:
        yield made


@pytest.fixture
def there(space: SlotSpace) -> Run:
    """Run a command where the slots wait, as an operator does."""
    return partial(run, "nsenter", f"--net={space.path}")


def show(name: str, where: Run = run) -> Any:
    (device,) = json.loads(where("ip", "-json", "-details", "link", "show", name))
    return device


def names(where: Run = run) -> set[str]:
    return {device["ifname"] for device in json.loads(where("ip", "-json", "link"))} - {"lo"}


@pytest_asyncio.fixture
async def woken() -> asyncio.Event:
    return asyncio.Event()


@pytest_asyncio.fixture
async def wires(woken: asyncio.Event, space: SlotSpace) -> AsyncIterator[Wires]:
    with server():
        async with Monitor() as monitor:
            yield Wires(woken.set, monitor, space, userspace_datapath=False)


async def test_observes_what_it_made(wires: Wires, there: Run) -> None:
    wanted = {f"rt{slot}": Wire(1500 + slot) for slot in (0, 7, 505)}

    assert await wires.upsert(wanted) == {}
    assert await wires.observe() == wanted
    assert names() == {"rt0", "rt7", "rt505"}
    assert names(there) == {"rp0", "rp7", "rp505"}
    for name, where in (("rt7", run), ("rp7", there)):
        device = show(name, where)
        assert {"UP", "NOARP", "LOWER_UP"} <= set(device["flags"])
        assert device["ifalias"] == "routed"
        assert where("sysctl", "-n", f"net.ipv6.conf.{name}.disable_ipv6").strip() == "1"
        assert json.loads(where("ip", "-json", "-6", "address", "show", "dev", name) or "[]") == []


async def test_upsert_changes_an_mtu_without_making_the_wire_anew(wires: Wires, there: Run) -> None:
    await wires.upsert({"rt1": Wire(1500)})
    index = show("rt1")["ifindex"]

    await wires.upsert({"rt1": Wire(9000)})

    assert (show("rt1")["mtu"], show("rp1", there)["mtu"], show("rt1")["ifindex"]) == (9000, 9000, index)
    assert await wires.observe() == {"rt1": Wire(9000)}


@pytest.mark.parametrize("damage", ["link set rp1 mtu 1400", "link set rt1 down", "link set rp1 down"])
async def test_sees_and_repairs_damage(wires: Wires, there: Run, damage: str) -> None:
    await wires.upsert({"rt1": Wire(1500)})
    (there if "rp1" in damage else run)("ip", *damage.split())

    assert await wires.observe() == {"rt1": BROKEN}
    assert await wires.upsert({"rt1": Wire(1500)}) == {}
    assert await wires.observe() == {"rt1": Wire(1500)}


async def test_replaces_a_wire_whose_other_end_was_taken_away(wires: Wires, there: Run) -> None:
    await wires.upsert({"rt1": Wire(1500)})
    there("ip", "link", "set", "rp1", "name", "stolen")

    assert await wires.observe() == {"rt1": BROKEN}
    assert await wires.upsert({"rt1": Wire(1500)}) == {}
    assert await wires.observe() == {"rt1": Wire(1500)}
    assert names(there) == {"rp1"}


async def test_replaces_a_wire_of_an_older_version(wires: Wires, there: Run) -> None:
    run("ip", "link", "add", "rt1", "up", "type", "veth", "peer", "name", "rp1")
    for end in ("rt1", "rp1"):
        run("ip", "link", "set", end, "up", "alias", "routed")

    assert await wires.observe() == {"rt1": BROKEN}
    assert await wires.upsert({"rt1": Wire(1500)}) == {}
    assert await wires.observe() == {"rt1": Wire(1500)}
    assert (names(), names(there)) == ({"rt1"}, {"rp1"})


async def test_a_wire_cut_short_at_birth_is_known_as_ours(wires: Wires, there: Run) -> None:
    await wires.upsert({"rt1": Wire(1500), "rt2": Wire(1500)})
    for number in (1, 2):  # what a crash right after the birth of the pair leaves
        run("ip", "link", "set", f"rt{number}", "down", "alias", "")

    assert await wires.observe() == {}
    assert await wires.upsert({"rt1": Wire(1500)}) == {}
    assert await wires.remove(["rt2"]) == {}
    assert await wires.observe() == {"rt1": Wire(1500)}
    assert (names(), names(there)) == ({"rt1"}, {"rp1"})


async def test_leaves_a_foreign_device_alone(wires: Wires) -> None:
    run("ip", "link", "add", "rt7", "type", "veth", "peer", "name", "theirs")
    run("ip", "link", "set", "rt7", "alias", "somebody else's")
    index = show("rt7")["ifindex"]

    failures = await wires.upsert({"rt7": Wire(1500), "rt8": Wire(1500)})
    removals = await wires.remove(["rt7", "rt8"])

    assert isinstance(failures["rt7"], ForeignDevice)
    assert "not ours" in str(failures["rt7"])
    assert "rt8" not in failures
    assert isinstance(removals["rt7"], ForeignDevice)
    assert show("rt7")["ifindex"] == index
    assert await wires.observe() == {}


async def test_remove_deletes_both_ends_and_is_content_with_nothing(wires: Wires, there: Run) -> None:
    await wires.upsert({"rt1": Wire(1500), "rt2": Wire(1500)})

    assert await wires.remove(["rt1", "rt9"]) == {}
    assert await wires.remove(["rt1"]) == {}
    assert (names(), names(there)) == ({"rt2"}, {"rp2"})
    assert await wires.observe() == {"rt2": Wire(1500)}


@pytest.mark.timeout(30)
async def test_wakes_when_a_wire_vanishes_and_makes_it_again(wires: Wires, there: Run, woken: asyncio.Event) -> None:
    await wires.upsert({"rt1": Wire(1500)})
    there("ip", "link", "delete", "rp1")

    await woken.wait()

    assert await wires.observe() == {}
    await wires.upsert({"rt1": Wire(1500)})
    assert await wires.observe() == {"rt1": Wire(1500)}


@pytest.mark.timeout(30)
async def test_wakes_when_events_were_lost(woken: asyncio.Event, space: SlotSpace) -> None:
    with server():
        async with Monitor() as monitor:
            lost: list[bool] = []
            Wires(woken.set, monitor, space, userspace_datapath=False)
            monitor.subscribe(lambda event: lost.append(event is None))
            small = monitor._events
            assert small is not None
            small._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            # the loop does not run meanwhile, so nobody reads
            for _ in range(10):
                run("ip", "link", "set", "lo", "down")
                run("ip", "link", "set", "lo", "up")

            await woken.wait()

            assert True in lost
            assert monitor._events is not small
            woken.clear()
            run("ip", "link", "add", "rt3", "type", "veth", "peer", "name", "rp3")
            run("ip", "link", "delete", "rt3")
            await woken.wait()  # the new socket works


async def test_a_userspace_datapath_gets_finished_checksums(space: SlotSpace, there: Run) -> None:
    with server():
        async with Monitor() as monitor:
            await Wires(lambda: None, monitor, space, userspace_datapath=True).upsert({"rt1": Wire(1500)})
            await Wires(lambda: None, monitor, space, userspace_datapath=False).upsert({"rt2": Wire(1500)})
        assert "tx-checksumming: off" in there("ethtool", "--show-offload", "rp1")
        assert "tx-checksumming: on" in there("ethtool", "--show-offload", "rp2")

"""Slots with their wires, and the links plane over them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from routed.attach.links import Links
from routed.attach.monitor import Monitor
from routed.attach.slots import SlotSpace
from routed.attach.veth import MacvlanWay
from routed.attach.wires import Wires
from routed.domain.wiring import Wire
from tests.fixtures.links import MTU, Slots
from tests.fixtures.pods import server, slot_space


@pytest.fixture
def space(tmp_path: Path) -> Iterator[SlotSpace]:
    with slot_space(tmp_path) as made:
        yield made


@pytest.fixture
def slots(tmp_path: Path) -> Slots:
    return Slots(tmp_path / "slots")


@pytest_asyncio.fixture
async def wires(space: SlotSpace) -> AsyncIterator[Wires]:
    with server():
        async with Monitor() as monitor:
            plane = Wires(lambda: None, monitor, space, userspace_datapath=False)
            await plane.upsert({f"rt{slot}": Wire(MTU) for slot in range(1, 5)})
            yield plane


@pytest.fixture
def links(wires: Wires, space: SlotSpace) -> Links:  # noqa: ARG001  # links need wires
    return Links(MacvlanWay(space))

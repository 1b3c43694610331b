"""When an agent without a bridge looks again, because its uplink is another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from routed.attach.answers import Device, DeviceEvent, Event
from routed.ipvlan import IpvlanDatapath
from routed.settings import load

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
BOND = Device(
    7, "bond0", "bond", 1500, "02:10:00:00:01:0c", "", up=True, carrier=True, parent=None, parent_elsewhere=False
)


class Events:
    """Stands in for the kernel's."""

    def __init__(self) -> None:
        self.tell: Callable[[Event | None], None] = lambda _: None

    def subscribe(self, callback: Callable[[Event | None], None]) -> None:
        self.tell = callback


@pytest.fixture
def looks() -> list[tuple[str, ...]]:
    return []


@pytest.fixture
def events(tmp_path: Path, looks: list[tuple[str, ...]]) -> Events:
    document = yaml.safe_load(EXAMPLE.read_text())
    del document["bridge"]
    document["ipvlan"] = {"uplink": "bond0", "members": ["etha", "ethb"]}
    file = tmp_path / "rack.yaml"
    file.write_text(yaml.safe_dump(document))
    events, datapath = Events(), IpvlanDatapath(load(file), lambda *planes: looks.append(planes))
    events.subscribe(datapath.notice)
    events.tell(DeviceEvent(BOND, gone=False))
    looks.clear()
    return events


@pytest.mark.parametrize("changed", [replace(BOND, mac="02:10:00:00:01:0d"), replace(BOND, index=8)])
def test_an_uplink_with_another_mac_address_or_index_is_looked_at(
    events: Events, looks: list[tuple[str, ...]], changed: Device
) -> None:
    events.tell(DeviceEvent(changed, gone=False))
    assert len(looks) == 1


def test_an_uplink_that_goes_and_comes_is_looked_at_both_times(events: Events, looks: list[tuple[str, ...]]) -> None:
    events.tell(DeviceEvent(BOND, gone=True))
    events.tell(DeviceEvent(BOND, gone=False))
    assert len(looks) == 2


def test_nothing_is_looked_at_for_what_filters_do_not_go_by(events: Events, looks: list[tuple[str, ...]]) -> None:
    events.tell(DeviceEvent(replace(BOND, carrier=False), gone=False))
    events.tell(DeviceEvent(replace(BOND, name="bond1", index=9), gone=False))
    assert looks == []

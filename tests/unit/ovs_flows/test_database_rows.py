"""What is read from rows of the database, with rows as OVS writes them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ovs_flows.errors import BridgeError, Unreachable
from ovs_flows.model import Port
from ovs_flows.rows import (
    FOR_COPIES,
    MARK,
    Stranger,
    UplinkPorts,
    is_ours,
    live_ofport,
    misplugged,
    read_uplink,
    version,
)


def interface(
    name: str, *ofport: int, mtu: int | None = 1500, ifindex: int = 7, error: str = "", lacp: bool | None = None
) -> Any:
    return SimpleNamespace(
        name=name,
        ofport=list(ofport),
        mtu=[] if mtu is None else [mtu],
        ifindex=[ifindex],
        error=[error] if error else [],
        mac_in_use=["02:aa:00:00:00:10"],
        lacp_current=[] if lacp is None else [lacp],
    )


def port(name: str, *interfaces: Any, **external_ids: str) -> Any:
    return SimpleNamespace(name=name, interfaces=list(interfaces), external_ids=external_ids, tag=[])


def bridge(*ports: Any, datapath_type: str = "") -> Any:
    own = port("br0", interface("br0", 0xFFFE))
    return SimpleNamespace(name="br0", ports=[own, *ports], datapath_type=datapath_type)


SWITCH = SimpleNamespace(other_config={})


@pytest.mark.parametrize(
    ("datapath_type", "configured", "offloads"),
    [
        ("", {"hw-offload": "true"}, True),
        ("system", {"hw-offload": "true"}, True),
        ("system", {"hw-offload": "false"}, False),
        ("system", {}, False),
        ("netdev", {"hw-offload": "true"}, False),
    ],
)
def test_only_the_kernels_datapath_offloads_and_only_when_told_to(
    datapath_type: str, configured: dict[str, str], offloads: bool
) -> None:
    found = bridge(port("bond0", interface("bond0", 1)), datapath_type=datapath_type)
    assert read_uplink(SimpleNamespace(other_config=configured), found, "bond0").offloads is offloads


def test_uplink_of_one_port() -> None:
    found = read_uplink(SWITCH, bridge(port("bond0", interface("bond0", 1, mtu=9000))), "bond0")
    assert found == UplinkPorts((1,), ("bond0",), 9000, "02:aa:00:00:00:10", "system")


def test_uplink_of_several_members_is_sorted_and_takes_the_smallest_mtu() -> None:
    members = [
        interface("b", 5, mtu=9000),
        interface("a", 3, mtu=4000),
        interface("gone", -1, mtu=None),
        interface("new"),
    ]
    found = read_uplink(SWITCH, bridge(port("bond0", *members), datapath_type="netdev"), "bond0")
    assert found == UplinkPorts((3, 5), ("a", "b"), 4000, "02:aa:00:00:00:10", "netdev")


def test_a_member_whose_lacp_partner_is_gone_has_lapsed() -> None:
    members = [interface("a", 3, lacp=True), interface("b", 5, lacp=False)]
    assert read_uplink(SWITCH, bridge(port("bond0", *members)), "bond0").lapsed == {"b"}
    assert read_uplink(SWITCH, bridge(port("bond0", interface("nic", 1))), "bond0").lapsed == frozenset()


def test_strangers_are_what_is_neither_ours_nor_the_uplink() -> None:
    access, trunk = port("v1", interface("v1", 9)), port("v2", interface("v2", 7))
    access.tag = [200]
    missing, ours = port("v3", interface("v3", -1)), port("rt0", interface("rt0", 1000), **MARK)
    copies = port("tap0", interface("tap0", 900), **FOR_COPIES)
    ports = access, trunk, missing, ours, copies
    found = read_uplink(SWITCH, bridge(port("bond0", interface("bond0", 1)), *ports), "bond0")
    assert found.strangers == (Stranger("v2", 7, None), Stranger("v1", 9, 200))


def test_uplink_without_any_device_keeps_the_bridges_mtu() -> None:
    found = read_uplink(SWITCH, bridge(port("bond0", interface("bond0", -1, mtu=None))), "bond0")
    assert (found.ofports, found.devices, found.mtu) == ((), (), 1500)


def test_an_uplink_is_not_known_before_the_switch_has_told_of_it() -> None:
    """The columns that only ovs-vswitchd writes are empty when ovsdb-server starts."""
    told, forgotten = bridge(port("bond0", interface("bond0", 1))), bridge(port("bond0", interface("bond0")))
    forgotten.ports[0].interfaces[0].mac_in_use = []
    assert read_uplink(SWITCH, told, "bond0").ofports == (1,)
    with pytest.raises(Unreachable, match="is ovs-vswitchd running"):
        read_uplink(SWITCH, forgotten, "bond0")


def test_uplink_that_is_not_there_is_refused_with_what_is() -> None:
    with pytest.raises(BridgeError, match="it has eth7"):
        read_uplink(SWITCH, bridge(port("eth7", interface("eth7", 1))), "bond0")


def test_mark_is_ours_whatever_stands_beside_it() -> None:
    assert is_ours(port("rt0", **MARK, site="x"))
    assert not is_ours(port("rt0"))
    assert not is_ours(port("rt0", owner="somebody"))


@pytest.mark.parametrize(
    ("noted", "ofport", "expected"), [("7", 1000, 1000), ("8", 1000, 0), ("", 1000, 0), ("7", -1, 0)]
)
def test_port_counts_while_it_holds_the_device_that_was_plugged(noted: str, ofport: int, expected: int) -> None:
    assert live_ofport(port("rt0", interface("rt0", ofport, ifindex=7), ifindex=noted)) == expected


def test_misplugged_ports_say_what_to_do() -> None:
    rows = {
        "good": interface("good", 1000),
        "other": interface("other", 7),
        "broken": interface("broken", -1, error="no such device"),
    }
    wanted = [Port("good", 1000), Port("other", 1001), Port("broken", 1002), Port("absent", 1003)]
    failed = {name: str(error) for name, error in misplugged(rows, wanted).items()}
    assert set(failed) == {"other", "broken", "absent"}
    assert "ofport=1001" in failed["other"]
    assert "no such device" in failed["broken"]
    assert "create its network device" in failed["absent"]


@pytest.mark.parametrize(
    ("text", "numbers"), [(["3.1.0"], (3, 1, 0)), ("3.5", (3, 5)), ([], ()), (["3.5.0-git"], (3, 5))]
)
def test_version(text: list[str] | str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers

"""Results in every version of the protocol, against goldens, and what chaining and CHECK make of them."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routed.cni.errors import InvalidConfig
from routed.cni.protocol import VERSIONS
from routed.cni.result import IP, Dns, Interface, Result, Route, chain, decode, differences, encode

GOLDEN = Path(__file__).parents[2] / "golden" / "cni"
NETNS = "/run/netns/pod"
FULL = Result(
    interfaces=(
        Interface(name="rt17", mac="0a:58:00:00:00:01", mtu=9000),
        Interface(name="eth0", mac="0a:58:0a:65:00:02", mtu=9000, sandbox=NETNS, pci_id="0000:03:00.2"),
    ),
    ips=(
        IP(address=ip_interface("10.101.0.2/32"), gateway=ip_address("10.101.0.1"), interface=1),
        IP(address=ip_interface("fd00:101::2/128"), gateway=ip_address("fd00:101::1"), interface=1),
    ),
    routes=(
        Route(dst=ip_network("0.0.0.0/0"), gw=ip_address("10.101.0.1"), mtu=9000, table=0),
        Route(dst=ip_network("::/0"), gw=ip_address("fd00:101::1"), priority=10, advmss=8940, scope=253),
    ),
    dns=Dns(nameservers=("10.0.0.10",), domain="cluster.local", search=("svc.cluster.local",), options=("ndots:5",)),
)


def test_there_is_a_golden_for_every_version() -> None:
    assert {path.stem for path in GOLDEN.glob("*.json")} == {f"result-{version}" for version in VERSIONS}


@pytest.mark.parametrize("version", VERSIONS)
def test_encodes_as_the_golden_says(version: str) -> None:
    assert encode(FULL, version) == json.loads((GOLDEN / f"result-{version}.json").read_text())


@pytest.mark.parametrize("version", VERSIONS)
def test_a_decoded_result_encodes_to_the_same(version: str) -> None:
    golden = json.loads((GOLDEN / f"result-{version}.json").read_text())
    assert encode(decode(golden), version) == golden


def test_only_the_newest_version_loses_nothing() -> None:
    assert decode(encode(FULL, "1.1.0")) == FULL
    assert decode(encode(FULL, "1.0.0")) != FULL


@pytest.mark.parametrize("version", VERSIONS)
def test_an_empty_result_has_only_its_version(version: str) -> None:
    assert encode(Result(), version) == {"cniVersion": version}


addresses = st.ip_addresses()
interfaces = st.builds(
    Interface,
    name=st.text(min_size=1, max_size=15),
    mac=st.sampled_from(["", "0a:58:00:00:00:01"]),
    mtu=st.none() | st.integers(0, 65535),
    sandbox=st.sampled_from(["", NETNS]),
)
routes = st.builds(
    Route,
    dst=addresses.map(ip_network),
    gw=st.none() | addresses,
    table=st.none() | st.integers(0, 2**32 - 1),
    priority=st.none() | st.integers(0, 2**32 - 1),
)


@st.composite
def results(draw: st.DrawFn) -> Result:
    held = draw(st.lists(interfaces, max_size=3))
    index = st.none() | st.integers(0, len(held) - 1) if held else st.none()
    ips = st.builds(IP, address=addresses.map(ip_interface), gateway=st.none() | addresses, interface=index)
    return Result(
        interfaces=tuple(held),
        ips=tuple(draw(st.lists(ips, max_size=3))),
        routes=tuple(draw(st.lists(routes, max_size=3))),
    )


@given(results())
def test_the_newest_version_round_trips(result: Result) -> None:
    assert decode(json.loads(json.dumps(encode(result, "1.1.0")))) == result


@given(results(), st.sampled_from(VERSIONS))
def test_an_older_version_is_stable_after_one_trip(result: Result, version: str) -> None:
    once = encode(result, version)
    assert encode(decode(once), version) == once


def test_null_means_absent() -> None:
    assert decode({"interfaces": None, "ips": None, "dns": None, "routes": [{"dst": "::/0", "gw": None}]}) == Result(
        routes=(Route(dst=ip_network("::/0")),)
    )


@pytest.mark.parametrize(
    ("document", "key"),
    [
        ([], "valid dictionary"),
        ({"ips": [{"address": "10.0.0.1"}]}, "ips.0.address"),
        ({"ips": [{"address": 5}]}, "ips.0.address"),
        ({"ips": [{"address": "10.0.0.999/32"}]}, "ips.0.address"),
        ({"ips": [{"address": "10.0.0.1/32", "interface": 0}]}, "interface 0 of 0"),
        ({"ips": [{"address": "10.0.0.1/32", "interface": -1}]}, "ips.0.interface"),
        ({"ips": {}}, "ips"),
        ({"routes": [{"dst": "default"}]}, "routes.0.dst"),
        ({"routes": [{"dst": "10.0.0.0/8", "gw": 1}]}, "routes.0.gw"),
        ({"routes": [{"dst": "10.0.0.0/8", "mtu": "1500"}]}, "routes.0.mtu"),
        ({"interfaces": [{"mac": "0a:58:00:00:00:01"}]}, "interfaces.0.name"),
        ({"dns": {"search": "local"}}, "dns.search"),
    ],
)
def test_a_malformed_previous_result_is_named(document: Any, key: str) -> None:
    with pytest.raises(InvalidConfig, match=key):
        decode(document)


def test_the_first_of_a_chain_answers_with_its_own() -> None:
    assert chain(None, FULL) is FULL


def test_a_later_one_of_a_chain_appends_and_moves_its_indices() -> None:
    previous = Result(
        interfaces=(Interface(name="lo0"),),
        ips=(IP(address=ip_interface("10.9.9.9/32"), interface=0),),
        dns=Dns(domain="first.local"),
    )
    both = chain(previous, FULL.model_copy(update={"dns": Dns()}))
    assert [interface.name for interface in both.interfaces] == ["lo0", "rt17", "eth0"]
    assert [(str(ip.address), ip.interface) for ip in both.ips] == [
        ("10.9.9.9/32", 0),
        ("10.101.0.2/32", 2),
        ("fd00:101::2/128", 2),
    ]
    assert both.routes == FULL.routes
    assert both.dns == Dns(domain="first.local")


def test_check_is_content_with_what_add_answered_in_any_version() -> None:
    for version in VERSIONS:
        assert differences(decode(encode(FULL, version)), FULL) == ()


def test_check_allows_what_later_plugins_added() -> None:
    later = chain(FULL, Result(interfaces=(Interface(name="ifb0"),), routes=(Route(dst=ip_network("10.0.0.0/8")),)))
    assert differences(later.model_copy(update={"routes": ()}), FULL) == ()


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"ips": FULL.ips[:1]}, "address fd00:101::2/128 is missing from eth0"),
        ({"ips": (*FULL.ips, IP(address=ip_interface("10.1.1.1/32"), interface=1))}, "10.1.1.1/32 of eth0 is not in"),
        ({"interfaces": (FULL.interfaces[0], Interface(name="eth1", sandbox=NETNS))}, "interface eth1 is not in"),
        (
            {"interfaces": (FULL.interfaces[0], Interface(name="eth0", mac="0a:58:ff:ff:ff:ff", sandbox=NETNS))},
            "eth0 has MAC 0a:58:ff:ff:ff:ff",
        ),
    ],
)
def test_check_names_each_difference(change: dict[str, Any], complaint: str) -> None:
    assert any(complaint in sentence for sentence in differences(FULL, FULL.model_copy(update=change)))

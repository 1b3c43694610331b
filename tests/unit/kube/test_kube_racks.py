from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from routed.agent import Agent
from routed.kube.errors import Malformed, NoRack
from routed.kube.racks import check, own_rack, pools_of, selects, server_addresses, settings_of
from routed.settings import SettingsError, load
from tests.kube.installed import rack

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
LOCAL = {"bridge": {"name": "br0", "uplink": "bond0", "members": ["etha", "ethb"]}}
HOSTS = (ip_network("10.1.0.0/24"), ip_network("fd00:1::/64"))
Edit = Callable[[dict[str, Any]], object]


def node(*addresses: str, annotation: str | None = None, **labels: str) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "s11",
            "uid": "n-1",
            "labels": {key.replace("__", "/").replace("_", "."): value for key, value in labels.items()},
            "annotations": {} if annotation is None else {"routed.dev/addresses": annotation},
        },
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def racks(*names: str, **selector: str) -> list[dict[str, Any]]:
    made = [rack(name) for name in names]
    for one in made if selector else ():
        one["spec"]["nodeSelector"] = selector
    return made


def test_a_rack_object_says_what_the_rack_file_says() -> None:
    file, found = load(EXAMPLE), settings_of(rack(), node("10.1.0.11", "fd00:1::11"), LOCAL)
    assert found.domain_rack() == file.domain_rack()
    assert found.domain_server("s11") == file.domain_server("s11")
    assert found.servers["s11"].owns is None  # leases say which addresses are whose
    assert (found.bgp, found.steering, found.ipam, found.bridge) == (file.bgp, file.steering, file.ipam, file.bridge)
    assert [pool.prefix for pool in pools_of(found)] == [pool.prefix for pool in file.pools]


def test_a_servers_own_file_says_which_resources_are_vfs() -> None:
    local = {**LOCAL, "sriov": {"resources": ["mellanox.com/*"]}}
    assert settings_of(rack(), node("10.1.0.11", "fd00:1::11"), local).sriov.resources == ("mellanox.com/*",)


def test_an_agent_can_be_composed_of_it() -> None:
    found = settings_of(rack(), node("10.1.0.11", "fd00:1::11"), LOCAL)
    Agent(found, found.domain_server("s11"))


def test_the_password_is_where_the_secret_is_mounted(tmp_path: Path) -> None:
    made = rack()
    made["spec"]["bgp"]["password_secret"] = {"name": "routed-bgp", "key": "r1"}
    assert settings_of(made, node("10.1.0.11"), LOCAL, tmp_path).bgp.password_file == tmp_path / "routed-bgp" / "r1"


def test_what_the_rack_says_does_not_belong_in_the_server_s_own_file() -> None:
    with pytest.raises(SettingsError, match="bgp, pools: on Kubernetes, that is for the Rack or the Node"):
        settings_of(rack(), node("10.1.0.11"), {**LOCAL, "pools": [], "bgp": {}})


def test_a_steered_rack_needs_a_member_for_each_tor() -> None:
    with pytest.raises(Malformed, match=r"Rack r1: steering: bridge.members must name one device per ToR"):
        settings_of(rack(), node("10.1.0.11"), {})


@pytest.mark.parametrize(
    ("selector", "labels", "wanted"),
    [
        (None, {"routed_dev__rack": "r1"}, True),
        (None, {"routed_dev__rack": "r2"}, False),
        (None, {}, False),
        ({"zone": "a", "row": "4"}, {"zone": "a", "row": "4", "more": "x"}, True),
        ({"zone": "a", "row": "4"}, {"zone": "a"}, False),
        ({}, {}, True),
    ],
)
def test_a_rack_selects_nodes_by_label(selector: dict[str, str] | None, labels: dict[str, str], wanted: bool) -> None:
    made = rack()
    if selector is not None:
        made["spec"]["nodeSelector"] = selector
    assert selects(made, node(**labels)) is wanted


def test_a_node_is_in_exactly_one_rack() -> None:
    assert own_rack(node(routed_dev__rack="r2"), racks("r1", "r2"))["metadata"]["name"] == "r2"
    with pytest.raises(NoRack, match=r"no Rack selects Node s11 \(there are: r1, r2\); label it routed.dev/rack=RACK"):
        own_rack(node(), racks("r1", "r2"))
    with pytest.raises(NoRack, match="there are: none"):
        own_rack(node(), [])
    with pytest.raises(NoRack, match="several Racks: r1, r2"):
        own_rack(node(zone="a"), racks("r2", "r1", zone="a"))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (node("10.1.0.11"), ["10.1.0.11"]),
        (node("fd00:1::11", "10.1.0.11", "192.0.2.7"), ["10.1.0.11", "fd00:1::11"]),
        (node("192.0.2.7", annotation="10.1.0.12, fd00:1::12"), ["10.1.0.12", "fd00:1::12"]),
        (node("10.1.0.11", "10.1.0.12", annotation="10.1.0.12"), ["10.1.0.12"]),
    ],
)
def test_a_server_s_addresses_are_those_in_the_rack_s_subnets(given: dict[str, Any], wanted: list[str]) -> None:
    assert list(server_addresses(given, HOSTS)) == [ip_address(text) for text in wanted]


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (node(), "Node s11: InternalIP: none: not inside the rack's hosts .10.1.0.0/24, fd00:1::/64.; name"),
        (node("192.0.2.7"), "InternalIP: 192.0.2.7: not inside"),
        (node("10.1.0.11", "10.1.0.12"), "10.1.0.11, 10.1.0.12: several of one family; name one in the annotation"),
        (node("10.1.0.11", annotation="10.1.0.300"), "annotation routed.dev/addresses: '10.1.0.300' does not appear"),
        (node("10.1.0.11", annotation=""), "annotation routed.dev/addresses: '' does not appear"),
        (node(annotation="10.1.0.11,192.0.2.7"), "10.1.0.11,192.0.2.7 is not all inside"),
        (node("10.1.0.11", "fd00:1::11%eth0"), "InternalIP: fd00:1::11%eth0 has a zone"),
    ],
)
def test_addresses_that_cannot_be_the_server_s_are_told_of(given: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Malformed, match=complaint):
        server_addresses(given, HOSTS)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda s: s["tors"][0].update(asn="x"), r"tors\[0\].asn"),
        (lambda s: s["hosts"][0].update(prefix="10.1.0.0"), "hosts"),
        (lambda s: s["hosts"][0].update(prefix="nothing"), "spec.hosts"),
        (lambda s: s["hosts"][0].update(prefix="10.1.0.1/32", gateway="10.1.0.1"), "taken by the gateway"),
        (lambda s: s.pop("bgp"), r"bgp.asn"),
        (
            lambda s: s["pools"][0].update(gateway="10.101.0.255"),
            "spec.pools: pool 10.101.0.0/24: gateway 10.101.0.255",
        ),
        (lambda s: s["pools"][0].update(reserved=["10.0.0.0/8"]), "reservation 10.0.0.0/8 is outside"),
        (lambda s: s.update(colour="blue"), "colour"),
    ],
)
def test_a_rack_that_no_server_could_use_is_told_of(edit: Edit, complaint: str) -> None:
    made = rack()
    check(made, [made])
    edit(made["spec"])
    with pytest.raises(Malformed, match=f"^Rack r1: .*{complaint}"):
        check(made, [made])


def test_of_two_racks_with_a_common_pool_the_older_one_is_right() -> None:
    old, new = racks("r2", "r1")
    old["metadata"]["creationTimestamp"], new["metadata"]["creationTimestamp"] = (
        "2026-01-01T00:00:00Z",
        "2026-01-02T00:00:00Z",
    )
    check(old, [old, new])
    with pytest.raises(Malformed, match=r"Rack r1: spec.pools: 10.101.0.0/23 is in a pool of Rack r2"):
        check(new, [old, new])
    new["spec"]["pools"] = [{"prefix": "10.102.0.0/24", "gateway": "10.102.0.1"}]
    check(new, [old, new])

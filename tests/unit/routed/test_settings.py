from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from routed.domain.rack import FlatNetwork
from routed.settings import Settings, SettingsError, load

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"
Edit = Callable[[dict[str, Any]], object]


def legacy(document: dict[str, Any], vlans: list[int], prefix: str, **more: Any) -> None:
    document.update(more)
    document["bridge"]["legacy"] = {"vlans": vlans, "prefixes": [prefix]}


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[Edit], Settings]:
    def load_edited(edit: Edit) -> Settings:
        document = yaml.safe_load(EXAMPLE.read_text())
        edit(document)
        file = tmp_path / "rack.yaml"
        file.write_text(yaml.safe_dump(document))
        return load(file)

    return load_edited


def test_the_example_is_a_whole_rack() -> None:
    settings = load(EXAMPLE)
    rack = settings.domain_rack()
    assert [tor.name for tor in rack.tors] == ["r1a", "r1b"]
    assert rack.gateway(ip_address("10.101.1.7")) == ip_address("10.101.1.1")
    server = settings.domain_server("s12")
    assert server.address(6) == ip_address("fd00:1::12")
    assert settings.servers["s12"].owns == (ip_network("10.101.1.0/24"), ip_network("fd00:101::2:0/112"))


def test_vfs_are_of_the_resources_that_are_named(edited: Callable[[Edit], Settings]) -> None:
    assert load(EXAMPLE).sriov.resources == (), "the kubelet is asked only where somebody says so"
    names = ["mellanox.com/cx5_sriov_switchdev", "yunsilicon.com/*", "intel.com/vf[0-3]"]
    assert edited(lambda d: d["sriov"].update(resources=names)).sriov.resources == tuple(names)


def test_a_flat_network_is_part_of_the_rack_only_when_the_file_names_one(
    edited: Callable[[Edit], Settings],
) -> None:
    flat = edited(lambda d: legacy(d, [200], "10.189.26.0/24")).domain_rack().flat
    assert flat == FlatNetwork((200,), (ip_network("10.189.26.0/24"),))
    assert load(EXAMPLE).domain_rack().flat is None


@pytest.mark.parametrize(
    ("edit", "key"),
    [
        (lambda d: d.update(rak="r1"), "rak"),
        (lambda d: d["bgp"].update(hold_time_s=2), "bgp.hold_time_s"),
        (lambda d: d["tors"][1].update(asn=0), r"tors\[1\].asn"),
        (lambda d: d["pools"][2].update(gateway="10.0.0.1"), r"pools\[2\]"),
        (lambda d: d["servers"]["s11"].update(addresses=["10.9.0.1"]), "servers.s11.addresses"),
        (lambda d: d["servers"]["s11"].update(addresses=["10.1.0.2", "10.1.0.3"]), "servers.s11"),
        (lambda d: d["tors"][1].update(address="10.255.1.1"), "tors"),
        (lambda d: d["tors"][1].update(name="r1a"), "tors: two have the same name"),
        (lambda d: d["servers"]["s12"].update(addresses=["10.1.0.11"]), "10.1.0.11 is taken by server s11"),
        (lambda d: d["servers"]["s12"].update(addresses=["10.1.0.1"]), "10.1.0.1 is taken by the gateway"),
        (lambda d: d["pools"][0].update(prefix="10.1.0.0/25", gateway="10.1.0.1"), r"pools\[0\].*overlaps 10.1.0.0/24"),
        (lambda d: d["tors"][0].update(address="10.101.1.9"), r"pools\[1\].*holds r1a's own 10.101.1.9"),
        (lambda d: d["ipam"].update(cooldown_s=10), "ipam.cooldown_s"),
        (lambda d: d.update(vlan=4095), "vlan"),
        (lambda d: d.update(sriov={"resources": ["a.b/c"]}, bridge={**d["bridge"], "vfs": "never"}), "sriov.resources"),
        (lambda d: d["sriov"].update(resources=["cx5"]), r"sriov.resources\[0\]"),
        (lambda d: d["sriov"].update(resources=["mellanox.com/a b"]), r"sriov.resources\[0\]"),
        (lambda d: legacy(d, [0], "10.189.26.0/24"), r"bridge.legacy.vlans\[0\]"),
        (lambda d: legacy(d, [], "10.189.26.0/24"), "bridge.legacy.vlans"),
        (lambda d: legacy(d, [200], "10.101.0.0/16"), "bridge.legacy.prefixes: .*overlaps 10.101.0.0/24 of pools"),
        (lambda d: legacy(d, [200], "10.1.0.0/25"), "bridge.legacy.prefixes: .*overlaps 10.1.0.0/24 of hosts"),
        (lambda d: legacy(d, [7, 200], "10.189.26.0/24", vlan=200), "200 is this rack's own vlan"),
        (lambda d: d["bridge"].update(name="a-name-longer-than-fifteen"), "bridge.name"),
    ],
)
def test_a_mistake_is_refused_with_its_key(edited: Callable[[Edit], Settings], edit: Edit, key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        edited(edit)


def test_a_server_that_is_not_listed_is_told_which_are() -> None:
    with pytest.raises(SettingsError, match=r"'s99' is not in the rack file \(it lists s11, s12\)"):
        load(EXAMPLE).domain_server("s99")


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"no\.yaml: No such file"):
        load(tmp_path / "no.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("rack: [")
    with pytest.raises(SettingsError, match="not YAML"):
        load(broken)
    broken.write_bytes(b"rack: \xff")
    with pytest.raises(SettingsError, match="not YAML"):
        load(broken)


def shared(**ipvlan: Any) -> Edit:
    """Change the example to a server without a bridge."""

    def change(document: dict[str, Any]) -> None:
        del document["bridge"]
        document["ipvlan"] = {"uplink": "bond0.108", **ipvlan}

    return change


def test_a_server_without_a_bridge_shares_its_uplink(edited: Callable[[Edit], Settings]) -> None:
    settings = edited(shared(members=["etha", "ethb"]))
    assert (settings.device, settings.uplink, settings.members) == ("bond0.108", "bond0.108", ("etha", "ethb"))
    assert settings.steering is not None


def test_a_bridge_and_a_shared_uplink_exclude_each_other(edited: Callable[[Edit], Settings]) -> None:
    with pytest.raises(SettingsError, match="leave one of them out"):
        edited(lambda document: document.update(ipvlan={"uplink": "bond0", "members": ["etha", "ethb"]}))


def test_steering_needs_the_members_of_a_shared_uplink(edited: Callable[[Edit], Settings]) -> None:
    with pytest.raises(SettingsError, match=r"steering: ipvlan\.members must name one device per ToR"):
        edited(shared())

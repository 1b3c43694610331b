"""Every vendor's text: samples are what the command renders, names used are names defined, placeholders stand out."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import yaml

from containerlab.topology import TWO_RACKS
from routed.settings import load
from routed.torconfig.model import Placeholder, Plan
from routed.torconfig.plan import plan
from routed.torconfig.render import Rendered, VendorError, render
from routed.torconfig.vendor_name import VendorName

ROOT = Path(__file__).parents[3]
LAB = TWO_RACKS.parent
SAMPLES = ROOT / "deploy" / "tor"
EXAMPLE = ROOT / "rack.example.yaml"
TORS = ("r1a", "r1b")
EVERY = [pytest.param(vendor, id=vendor.value) for vendor in VendorName]


def rack_file(vendor: VendorName) -> Path:
    return LAB / "racks" / "r1.yaml" if vendor is VendorName.FRR else SAMPLES / vendor / "rack.yaml"


def sample(vendor: VendorName, tor: str = "r1a") -> Plan:
    return plan(load(rack_file(vendor)), tor)


def text(vendor: VendorName, found: Plan | None = None) -> str:
    return "".join(file.text for file in render(found or sample(vendor), vendor))


@pytest.mark.parametrize("vendor", EVERY)
def test_the_samples_are_what_the_command_renders(vendor: VendorName) -> None:
    rendered = {file.name: file.text for tor in TORS for file in render(sample(vendor, tor), vendor)}
    kept = {path.name: path.read_text() for path in (SAMPLES / vendor).iterdir() if path.name != "rack.yaml"}
    assert kept == rendered, "make samples"


@pytest.mark.parametrize("tor", ["r1a", "r1b", "r2a", "r2b"])
def test_the_lab_runs_what_the_command_renders(tor: str) -> None:
    (file,) = render(plan(load(LAB / "racks" / f"{tor[:2]}.yaml"), tor), VendorName.FRR)
    assert (LAB / "configs" / tor / "frr.conf").read_text() == file.text, "make samples"


@pytest.mark.parametrize("vendor", [vendor for vendor in EVERY if vendor.id != "frr"])
def test_a_samples_rack_file_is_the_labs_but_for_its_fabric(vendor: VendorName) -> None:
    ours, labs = (yaml.safe_load(path.read_text()) for path in (rack_file(vendor), LAB / "racks" / "r1.yaml"))
    mine, its = ours.pop("fabric"), labs.pop("fabric")
    assert ours == labs
    assert mine["lacp"] == its["lacp"]
    assert mine["gateway"]["mac"] == its["gateway"]["mac"]


@pytest.mark.parametrize("vendor", EVERY)
def test_nothing_is_left_to_fill_in_when_the_rack_file_knows(vendor: VendorName) -> None:
    assert [file.placeholders for file in render(sample(vendor), vendor)] == [()] * len(render(sample(vendor), vendor))
    assert "FILL IN" not in text(vendor)


@pytest.mark.parametrize("vendor", EVERY)
def test_without_a_fabric_section_every_placeholder_is_listed_at_the_top(vendor: VendorName) -> None:
    for file in render(plan(load(EXAMPLE), "r1a"), vendor):
        listed = list(itertools.takewhile(lambda line: "<" in line, file.text.splitlines()[1:]))
        assert "TO FILL IN" in file.text.splitlines()[0]
        assert tuple(re.search(r"<\S+>", line)[0] for line in listed) == file.placeholders  # type: ignore[index]  # there is one
        assert file.text.count(file.placeholders[0]) > 1


@pytest.mark.parametrize("vendor", EVERY)
def test_the_policy_is_in_every_vendors_text(vendor: VendorName) -> None:
    found = text(vendor)
    for value in ("65000:911", "65011", "65500", "65100", "10.255.1.1", "10.101.0.0/24", "fd00:101::2/127"):
        assert value in found, value
    assert re.search(r"\b600\b", found), "the limit of routes"
    assert "summary-only" not in found, "nothing is suppressed"


@pytest.mark.parametrize("vendor", EVERY)
def test_both_tors_say_the_same_to_servers(vendor: VendorName) -> None:
    one, two = (text(vendor, sample(vendor, tor)) for tor in TORS)
    own = re.compile(r"r1[ab]|ToR [AB]|6501[12]|10\.255\.1\.\d|10\.254\.\d\.\d+|fd00:254:\d::\d")
    strip: Callable[[str], list[str]] = lambda found: own.sub("OWN", found).splitlines()  # noqa: E731 - one line
    differing = [pair for pair in zip(strip(one), strip(two), strict=True) if pair[0] != pair[1]]
    assert all("port" in left or "role" in left for left, _ in differing), "LACP keeps its port numbers apart"
    assert len(differing) == {"eos": 1, "nxos": 1, "junos": 2, "srlinux": 2}.get(vendor, 0)


DEFINED = {
    "frr": r"(?:prefix-list|community-list standard|^route-map|^ neighbor) (\S+) (?:seq|permit|deny|peer-group$)",
    "ios": r"(?:prefix-list (\S+)(?: seq|$)|community-list(?: standard)? (\S+) |^route-map (\S+) |"
    r"neighbor (\S+) peer group$|template peer (\S+))",
}
USED = {
    "frr": r"(?:prefix-list (\S+)$|match community (\S+)|comm-list (\S+) delete|route-map (\S+)(?: in| out)?$|"
    r"peer-group (\S+)$)",
    "ios": r"(?:(?:address|next-hop) prefix-list (\S+)|match community (\S+)|list (\S+) delete|"
    r" route-map (\S+)(?: in| out)?$|resolution policy (\S+)|peer group (\S+)$|inherit peer (\S+))",
}


def names(pattern: str, found: str) -> set[str]:
    return {name for match in re.finditer(pattern, found, re.MULTILINE) for name in match.groups() if name}


@pytest.mark.parametrize(
    ("vendor", "words"),
    [("frr", "frr"), ("sonic", "frr"), ("cumulus", "frr"), ("eos", "ios"), ("nxos", "ios")],
)
def test_lists_and_maps_that_are_used_are_defined_and_the_other_way_round(vendor: str, words: str) -> None:
    found = text(VendorName(vendor))
    used, defined = names(USED[words], found), names(DEFINED[words], found)
    assert used - defined == set()
    assert defined - used == set()
    assert len(used) > 10


def test_junos_is_balanced_and_its_policies_are_defined_and_used() -> None:
    found = re.sub(r"/\*.*?\*/", "", text(VendorName.JUNOS), flags=re.DOTALL)
    depth = 0
    for line in filter(None, map(str.strip, found.splitlines())):
        assert line[-1] in "{};", line
        depth += {"{": 1, "}": -1}.get(line[-1], 0)
        assert depth >= 0
    assert depth == 0
    defined = names(r"policy-statement (\S+)|community (\S+) members|as-path (\S+) \d", found)
    assert defined == names(r"(?:import|export|policy|delete|community|as-path) (\S+);", found)
    assert len(defined) > 6


def test_sr_linux_is_commands_and_its_policies_are_defined_and_used() -> None:
    lines = [line for line in text(VendorName.SRLINUX).splitlines() if line and not line.startswith("#")]
    assert all(line.startswith("set / ") for line in lines)
    found = "\n".join(lines)
    defined = names(r"/ routing-policy (?:policy|prefix-set|community-set) (\S+)", found)
    used = names(r"(?:prefix-set|community-set|remove) (\S+)$|(?:import|export)-policy \[ (\S+) \]", found)
    assert defined == used
    interfaces = names(r"network-instance default interface (\S+)\.\d+$", found)
    assert interfaces == {"system0", "irb0", "ethernet-1/49", "ethernet-1/50"}


@pytest.mark.parametrize(
    ("vendor", "change", "key"),
    [
        ("eos", {"gateway_interface": "gw"}, "fabric.gateway.interface: 'gw' .* looks like Vlan10"),
        ("junos", {"gateway_interface": "irb.9999"}, "there is no VLAN 9999"),
        ("nxos", {"vlan": 108}, "Vlan10 is not in VLAN 108"),
        ("nxos", {"community": "65000:9:11"}, "steering.community"),
        ("sonic", {"system_id": Placeholder("x"), "gateway_interface": "vlan10"}, "looks like Vlan10"),
    ],
)
def test_what_a_vendor_cannot_express_is_refused_with_its_key(vendor: str, change: dict[str, Any], key: str) -> None:
    with pytest.raises(VendorError, match=key):
        render(replace(sample(VendorName(vendor)), **change), VendorName(vendor))


@pytest.mark.parametrize("vendor", [vendor for vendor in EVERY if vendor.id != "frr"])
def test_another_vendors_names_of_interfaces_are_refused_all_at_once(vendor: VendorName) -> None:
    with pytest.raises(VendorError) as caught:
        render(sample(VendorName.FRR), vendor)
    message = str(caught.value)
    for key in ("gateway.interface", "tors.r1a.uplinks[0].interface", "tors.r1a.uplinks[1].interface", "ports.s12"):
        assert f"fabric.{key}" in message or f"fabric.tors.r1a.{key}" in message


@pytest.mark.parametrize("vendor", ["eos", "nxos", "junos", "srlinux"])
def test_ipv6_over_an_ipv4_session_is_refused_where_its_next_hop_would_be_none(vendor: str) -> None:
    found = sample(VendorName(vendor))
    uplinks = tuple(
        replace(uplink, sessions=(replace(uplink.sessions[0], families=(4, 6)),)) for uplink in found.uplinks
    )
    with pytest.raises(VendorError, match=r"fabric.tors.r1a.uplinks\[0\].peers: sp1 has no IPv6 one"):
        render(replace(found, uplinks=uplinks), VendorName(vendor))


@pytest.mark.parametrize("vendor", [vendor for vendor in EVERY if vendor.id != "nxos"])
def test_a_large_community_steers_as_well(vendor: VendorName) -> None:
    found = text(vendor, replace(sample(vendor), community="65000:9:11"))
    assert "65000:9:11" in found
    if vendor is not VendorName.SRLINUX:
        assert "large" in found


@pytest.mark.parametrize("vendor", EVERY)
def test_without_steering_no_pods_host_route_leaves_the_rack(vendor: VendorName) -> None:
    found = text(vendor, replace(sample(vendor), community=None))
    assert "STEER" not in found
    exported = re.findall(r"TO-SPINE.*permit.*\n.*(?:PODS)|TO-SPINE.*PODS", found)
    assert exported == []


@pytest.mark.parametrize(
    ("vendor", "change", "shown", "hidden"),
    [
        ("frr", {"passive": True}, "neighbor SERVER passive", None),
        ("frr", {"md5": "s3cret"}, "neighbor SERVER password s3cret", "No MD5"),
        ("frr", {"restart_s": 0}, "SERVER graceful-restart-disable", "graceful-restart-helper"),
        ("eos", {"passive": True}, "neighbor SERVER passive", None),
        ("eos", {"vlan": 10}, "switchport trunk allowed vlan 10", "switchport access"),
        ("nxos", {"passive": True}, "transport connection-mode passive", None),
        ("nxos", {"md5": "s3cret"}, "password 0 s3cret", "No MD5"),
        ("junos", {"passive": True}, "passive;", None),
        ("junos", {"vlan": 10}, "interface-mode trunk", "interface-mode access"),
        ("srlinux", {"passive": True}, "transport passive-mode true", None),
        ("srlinux", {"vlan": 10}, "vlan encap single-tagged vlan-id 10", None),
        ("srlinux", {"restart_s": 0}, "group SERVER graceful-restart admin-state disable", None),
        ("sonic", {"vlan": 10}, "config vlan member add 10 PortChannel11", "member add -u"),
        ("cumulus", {"vlan": 10}, "    bridge-vids 10\n    mstpctl", "bridge-access"),
    ],
)
def test_an_option_of_the_rack_file_shows(vendor: str, change: dict[str, Any], shown: str, hidden: str | None) -> None:
    found = text(VendorName(vendor), replace(sample(VendorName(vendor)), **change))
    assert shown in found
    assert hidden is None or hidden not in found


@pytest.mark.parametrize("vendor", EVERY)
def test_a_rack_of_one_family_says_nothing_of_the_other(vendor: VendorName) -> None:
    found = sample(vendor)
    only = replace(
        found,
        hosts=tuple(host for host in found.hosts if host.version == 4),
        pools=found.pools_of(4),
        servers=tuple(replace(server, addresses={4: server.addresses[4]}) for server in found.servers),
        uplinks=tuple(
            replace(
                uplink,
                addresses={4: uplink.addresses[4]},
                sessions=tuple(replace(entry, families=(4,)) for entry in uplink.sessions if entry.transport == 4),
            )
            for uplink in found.uplinks
        ),
    )
    assert "fd00:" not in text(vendor, only)
    assert isinstance(ip_address("10.101.0.1"), type(found.pools[0].gateway))


def test_a_rendered_file_knows_its_placeholders_in_order() -> None:
    assert Rendered("r1a.cfg", "", "a <second-one> b <first> a <second-one> 1<2").placeholders == (
        "<second-one>",
        "<first>",
    )

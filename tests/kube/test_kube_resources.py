from __future__ import annotations

import itertools
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest

from routed.kube.addresses import object_name
from tests.kube.control_plane import ControlPlane
from tests.kube.installed import ADDRESSES, RACKS, address, rack

Edit = Callable[[dict[str, Any]], object]
_NUMBERS = itertools.count()
_V6_NAME = "fd00-101-0-0-0-0-0-5"


def _edited(edit: Edit) -> dict[str, Any]:
    made = rack(f"edited-{next(_NUMBERS)}")
    edit(made["spec"])
    return made


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (
            lambda s: s["tors"][0].update(address="10.255.1"),
            'spec.tors[0].address: Invalid value: "10.255.1": must be one IPv4',
        ),
        (lambda s: s["tors"][0].update(address="10.255.1.2"), "two ToRs have the same address"),
        (lambda s: s["tors"][0].update(name="r1b"), 'spec.tors[1]: Duplicate value: {"name":"r1b"}'),
        (lambda s: s["tors"].append({"name": "r1c", "asn": 1, "address": "10.255.1.3"}), "must have at most 2 items"),
        (lambda s: s["tors"][0].update(asn=2**32), "less than or equal to 4294967295"),
        (lambda s: s["tors"][0].update(address="10.101.0.9"), "a ToR's own address lies in a pool"),
        (lambda s: s["hosts"].pop(0), "a family that no subnet in hosts has"),
        (lambda s: s["hosts"][1].update(prefix="10.2.0.0/24", gateway="10.2.0.1"), "at most one subnet per family"),
        (lambda s: s["hosts"][0].update(prefix="10.101.0.0/16", gateway="10.101.9.1"), "a pool overlaps a subnet"),
        (lambda s: s["hosts"][0].update(gateway="10.2.0.1"), "the gateway must be inside the prefix"),
        (
            lambda s: s["hosts"][0].update(gateway="10.1"),
            'spec.hosts[0].gateway: Invalid value: "10.1": must be one IPv4',
        ),
        (lambda s: s["hosts"][0].update(prefix="10.1.0.1/24"), "must be a prefix without host bits"),
        (lambda s: s["pools"][0].update(gateway="10.101.1.1"), "the gateway must be inside the prefix"),
        (lambda s: s["pools"][0].update(gateway="10.101.0.0"), "the gateway must not be the network address"),
        (
            lambda s: s["pools"][0].update(gateway="10.101.0"),
            'spec.pools[0].gateway: Invalid value: "10.101.0": must be one IPv4',
        ),
        (lambda s: s["pools"][0].update(prefix="10.101.0.1/24"), "must be a prefix without host bits"),
        (lambda s: s["pools"][0].update(prefix="10.101.0.1/32"), "a prefix of one address leaves none"),
        (lambda s: s["pools"][0].update(prefix="10.101.0.0/23"), "two pools overlap"),
        (lambda s: s["pools"][0].update(reserved=["10.101.1.0/28"]), "reserved ranges must be inside the prefix"),
        (lambda s: s["pools"][0].update(reserved=["10.101.0.3/28"]), "must be an address, or a prefix"),
        (lambda s: s.update(pools=[]), "should have at least 1 items"),
        (lambda s: s.update(services=["10.96.0.1/16"]), "must be a prefix without host bits"),
        (lambda s: s.update(vlan=4095), "spec.vlan: Invalid value"),
        (lambda s: s["bgp"].pop("asn"), "spec.bgp.asn: Required value"),
        (lambda s: s["bgp"].update(hold_time_s=2), "spec.bgp.hold_time_s"),
        (lambda s: s["bgp"].update(graceful_restart_s=61), "must not be shorter than bgp.graceful_restart_s"),
        (
            lambda s: s.pop("ipam") and s["bgp"].update(graceful_restart_s=61),
            "must not be shorter than bgp.graceful_re",
        ),
        (lambda s: s["bgp"].update(password_secret={"name": "routed-bgp", "key": "../r1"}), "password_secret.key"),
        (lambda s: s["bgp"].update(password_secret={"name": "routed-bgp", "key": ".."}), "a Secret has no such key"),
        (lambda s: s["steering"].update(community="911"), "spec.steering.community"),
        (lambda s: s["steering"].update(hold_s=0), "spec.steering.hold_s"),
        (lambda s: s["steering"].update(probe_s=0), "spec.steering.probe_s"),
        (lambda s: s["ipam"].update(cooldown_s=-1), "spec.ipam.cooldown_s"),
    ],
)
def test_a_rack_that_makes_no_sense_is_refused_and_told_why(cluster: ControlPlane, edit: Edit, complaint: str) -> None:
    answer = cluster.admin.post(f"{RACKS}?dryRun=All", _edited(edit))
    assert answer.status == 422, answer.body
    assert complaint in answer.message


@pytest.mark.parametrize(
    "edit",
    [
        lambda _: None,
        lambda s: s.update(nodeSelector={"topology.example.org/rack": "r1"}, vlan=108),
        lambda s: (s.pop("steering"), s.pop("ipam"), s.pop("services"), s["bgp"].pop("graceful_restart_s")),
        lambda s: s["bgp"].update(graceful_restart_s=300) or s["ipam"].update(cooldown_s=300),
        lambda s: s["bgp"].update(graceful_restart_s=300) or s["ipam"].update(cooldown_s=0),
        lambda s: s["bgp"].update(password_secret={"name": "routed-bgp", "key": "r1"}, listen_port=None),
        lambda s: s["steering"].update(probe_s=None),
        lambda s: s["pools"][0].update(prefix="10.101.0.0/31", gateway="10.101.0.0"),
        lambda s: s["pools"][0].update(reserved=["10.101.0.7", "10.101.0.16/28"]),
        lambda s: s.update(tors=s["tors"][:1]),
        lambda s: s.update(pools=[{"prefix": f"10.{n}.0.0/16", "gateway": f"10.{n}.0.1"} for n in range(100, 132)]),
    ],
)
def test_a_rack_that_makes_sense_is_taken(cluster: ControlPlane, edit: Edit) -> None:
    cluster.admin.post(f"{RACKS}?dryRun=All", _edited(edit)).granted()


def test_the_name_of_a_rack_fits_a_label(cluster: ControlPlane) -> None:
    cluster.admin.post(f"{RACKS}?dryRun=All", rack("r" * 63)).granted()
    assert "63 characters at most" in cluster.admin.post(f"{RACKS}?dryRun=All", rack("r" * 64)).message


@pytest.mark.parametrize(
    ("text", "name", "complaint"),
    [
        ("10.9.0.1", "10.9.0.2", "the name of an IPv4 address must be the address itself"),
        ("10.9.0.1", "lease-1", "the name of an IPv4 address must be the address itself"),
        ("fd00:101::5", "fd00-101-0-0-0-0-0-6", "the name of an IPv6 address must be its eight groups"),
        ("fd00:101::5", "fd00-101-0-0-0-0-0-05", "the name of an IPv6 address must be its eight groups"),
        ("fd00:101::5", "fd00-101--5", "the name of an IPv6 address must be its eight groups"),
        ("fd00:101::5", "10.9.0.1", "the name of an IPv6 address must be its eight groups"),
        ("fd00:101:0::5", _V6_NAME, "in its canonical form"),
        ("FD00:101::5", _V6_NAME, "in its canonical form"),
        ("10.9.0.1/32", "10.9.0.1", "in its canonical form"),
        ("10.9.0.01", "10.9.0.1", "in its canonical form"),
        ("fe80::1%eth0", "fe80-0-0-0-0-0-0-1", "in its canonical form"),
    ],
)
def test_an_address_has_exactly_one_name(cluster: ControlPlane, text: str, name: str, complaint: str) -> None:
    answer = cluster.admin.post(f"{ADDRESSES}?dryRun=All", address(text, node="n1", name=name))
    assert answer.status == 422, answer.body
    assert complaint in answer.message


@pytest.mark.parametrize("text", ["10.9.0.1", "fd00:101::5", "::", "2001:db8:0:1:2:3:4:5", "::1.2.3.4"])
def test_the_name_that_the_agent_gives_is_that_one(cluster: ControlPlane, text: str) -> None:
    found = ip_address(text)
    wanted = address(str(found), node="n1", name=object_name(found))
    cluster.admin.post(f"{ADDRESSES}?dryRun=All", wanted).granted()


@pytest.mark.parametrize("missing", ["address", "rack", "node", "nodeUID"])
def test_an_address_says_whose_it_is(cluster: ControlPlane, missing: str) -> None:
    made = address("10.9.0.1", node="n1")
    del made["spec"][missing]
    answer = cluster.admin.post(f"{ADDRESSES}?dryRun=All", made)
    assert f"spec.{missing}: Required value" in answer.message


@pytest.mark.parametrize(
    ("change", "complaint"),
    [({"node": "n2"}, "a lease cannot change hands"), ({"rack": "r2"}, "a lease cannot change hands")],
)
def test_a_lease_does_not_change_hands(cluster: ControlPlane, change: dict[str, str], complaint: str) -> None:
    name = f"10.9.1.{next(_NUMBERS)}"
    cluster.admin.post(ADDRESSES, address(name, node="n1")).granted()
    answer = cluster.admin.patch(f"{ADDRESSES}/{name}", {"spec": change})
    assert answer.status == 422
    assert complaint in answer.message
    cluster.admin.patch(f"{ADDRESSES}/{name}", {"spec": {"nodeUID": "registered anew"}}).granted()


def test_who_uses_an_address_is_written_and_taken_back(cluster: ControlPlane) -> None:
    path = f"{ADDRESSES}/10.9.2.1"
    cluster.admin.post(ADDRESSES, address("10.9.2.1", node="n1")).granted()
    pod = {"namespace": "shop", "name": "web-0", "uid": "u"}
    assert cluster.admin.patch(f"{path}/status", {"status": {"pod": pod}}).granted()["status"]["pod"] == pod
    assert "spec.node" not in cluster.admin.patch(f"{path}/status", {"spec": {"node": "n2"}}).message
    assert cluster.admin.get(path).granted()["spec"]["node"] == "n1"  # status says nothing about the spec
    refused = cluster.admin.patch(f"{path}/status", {"status": {"pod": {"name": None}}})
    assert "status.pod.name: Required value" in refused.message
    said = cluster.admin.patch(f"{path}/status", {"status": {"pod": None}}).granted()
    assert said.get("status", {}).get("pod") is None


def test_kubectl_get_answers_who_has_an_address(cluster: ControlPlane) -> None:
    cluster.admin.post(ADDRESSES, address("10.9.3.1", node="n3", rack="r3")).granted()
    pod = {"namespace": "shop", "name": "web-0", "uid": "u"}
    cluster.admin.patch(f"{ADDRESSES}/10.9.3.1/status", {"status": {"pod": pod}}).granted()
    (row,) = cluster.admin.table(f"{ADDRESSES}?fieldSelector=spec.node=n3", wide=True)
    assert {key: row[key] for key in row if key != "Age"} == {
        "Name": "10.9.3.1",
        "Node": "n3",
        "Namespace": "shop",
        "Pod": "web-0",
        "Rack": "r3",
        "Address": "10.9.3.1",
        "Pod UID": "u",
    }
    assert cluster.admin.table(f"{ADDRESSES}?fieldSelector=spec.rack=r3,spec.node=n4") == []

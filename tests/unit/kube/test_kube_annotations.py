from __future__ import annotations

import json
from ipaddress import ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routed.domain.rack import Rack, Subnet
from routed.domain.workload import StaticRoute, Wishes
from routed.kube.annotations import EGRESS, INGRESS, IP, MTU, RDMA, ROUTES, STICKY, check, wishes
from routed.kube.errors import Malformed

SET = {"kind": "StatefulSet", "name": "web", "controller": True}


def pod(*owners: dict[str, Any], **annotations: str) -> dict[str, Any]:
    return {"metadata": {"name": "web-0", "annotations": annotations, "ownerReferences": list(owners)}}


def test_a_pod_without_annotations_asks_for_nothing() -> None:
    assert wishes({"metadata": {"name": "web-0"}}) == wishes(pod(colour="blue")) == Wishes()


def test_a_pod_may_ask_for_all_of_it() -> None:
    routes = '[{"dst": "10.50.0.0/16"}, {"dst": "fd00:50::/48", "gw": "fd00:101::1"}]'
    asked = pod(**{IP: "fd00:101::7, 10.101.0.7", MTU: "9000", INGRESS: "10M", EGRESS: "1.5G", ROUTES: routes})
    assert wishes(asked) == Wishes(
        addresses=(ip_address("10.101.0.7"), ip_address("fd00:101::7")),
        mtu=9000,
        ingress_bps=10_000_000,
        egress_bps=1_500_000_000,
        routes=(
            StaticRoute(ip_network("10.50.0.0/16")),
            StaticRoute(ip_network("fd00:50::/48"), ip_address("fd00:101::1")),
        ),
    )
    assert wishes(pod(**{RDMA: "true"})) == Wishes(rdma=True)
    assert wishes(pod(**{RDMA: "false"})) == Wishes()
    assert wishes(pod(SET, **{STICKY: "true"})).sticky
    assert not wishes(pod(**{STICKY: "false", IP: "10.101.0.7"})).sticky


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        (IP, "10.101.0.300", "does not appear to be an IPv4 or IPv6 address; write one address"),
        (IP, "10.101.0.7/24", "does not appear"),
        (IP, "", "does not appear"),
        (IP, "10.101.0.7,10.101.0.8", "a pod gets one address of each family"),
        (STICKY, "yes", 'write "true" or "false"'),
        (STICKY, "true", "only a StatefulSet's pods come back under the same name"),
        (RDMA, "yes", 'write "true" or "false"'),
        (MTU, "1279", "from 1280 to 65535"),
        (MTU, "65536", "from 1280 to 65535"),
        (MTU, "9k", "from 1280 to 65535"),
        (INGRESS, "fast", "write bits a second, such as 10M"),
        (INGRESS, "10 M", "write bits a second, such as 10M"),
        (INGRESS, "10m", "write bits a second, such as 10M"),
        (INGRESS, "999", "from 1k to 1P"),
        (EGRESS, "1.1P", "from 1k to 1P"),
        (EGRESS, "-1M", "write bits a second"),
        (IP, "fd00:101::5%1", "write it without %ZONE"),
        (MTU, "9" * 5000, "a number of bytes from 1280"),
        (ROUTES, '[{"dst": "fd00:50::%eth0/48"}]', "write it without %ZONE"),
        (ROUTES, "10.50.0.0/16", 'write a list such as [{"dst"'),
        (ROUTES, '["10.50.0.0/16"]', "write a list such as"),
        (ROUTES, '{"dst": "10.50.0.0/16"}', "write a list such as"),
        (ROUTES, '[{"gw": "10.101.0.1"}]', "'dst'"),
        (ROUTES, '[{"dst": "10.50.0.1/16"}]', "has host bits set"),
        (ROUTES, '[{"dst": "10.50.0.0/16", "via": "10.101.0.1"}]', "unknown key via"),
        (ROUTES, '[{"dst": "10.50.0.0/16", "gw": "fd00::1"}]', "10.50.0.0/16 cannot have the gateway fd00::1"),
        (ROUTES, '[{"dst": "0.0.0.0/0"}]', "every pod has a default route already"),
        (ROUTES, '[{"dst": "10.50.0.0/16"}, {"dst": "10.50.0.0/16", "gw": "10.101.0.1"}]', "each destination once"),
        (ROUTES, json.dumps([{"dst": f"10.50.{number}.0/24"} for number in range(33)]), "at most 32 routes"),
    ],
)
def test_what_makes_no_sense_fails_the_pod_and_says_why(key: str, text: str, complaint: str) -> None:
    with pytest.raises(Malformed) as caught:
        wishes(pod(**{key: text}))
    assert f"annotation {key}: {text!r}: " in str(caught.value)
    assert complaint in str(caught.value)


RACK = Rack("r1", (), (), (Subnet(ip_network("10.101.0.0/24"), ip_address("10.101.0.1")),))


@pytest.mark.parametrize(
    ("key", "text", "complaint"),
    [
        (MTU, "1501", "the uplink of this server takes 1500 bytes; write at most that"),
        (IP, "10.101.0.7, fd00:101::7", "fd00:101::7 is in no pool of this rack (10.101.0.0/24)"),
        (ROUTES, '[{"dst": "fd00:50::/48"}]', "this rack has no IPv6 pool"),
        (ROUTES, '[{"dst": "10.50.0.0/16", "gw": "10.101.0.9"}]', r"nothing but the rack's gateway (10.101.0.1)"),
        (ROUTES, '[{"dst": "10.101.0.1/32"}]', "a gateway is reached without a route"),
    ],
)
def test_what_this_server_cannot_do_is_refused_and_says_what_to_write(key: str, text: str, complaint: str) -> None:
    asked = wishes(pod(**{key: text}))
    with pytest.raises(Malformed) as caught:
        check(asked, RACK, 1500)
    assert str(caught.value).startswith(f"annotation {key}: ")
    assert complaint in str(caught.value)


def test_what_this_server_can_do_is_no_matter() -> None:
    routes = '[{"dst": "10.50.0.0/16"}, {"dst": "10.60.0.0/16", "gw": "10.101.0.1"}, {"dst": "10.101.0.0/24"}]'
    check(wishes(pod(**{MTU: "1500", ROUTES: routes, IP: "10.101.0.7"})), RACK, 1500)
    check(Wishes(), RACK, 1280)


def test_an_address_is_fixed_or_sticky() -> None:
    with pytest.raises(Malformed, match="already says which address the pod gets"):
        wishes(pod(SET, **{STICKY: "true", IP: "10.101.0.7"}))


@pytest.mark.parametrize(
    ("text", "bits"),
    [("1k", 1000), ("1Ki", 1024), ("512Ki", 524_288), (".5M", 500_000), ("1e6", 10**6), ("1500", 1500), ("1P", 10**15)],
)
def test_bandwidth_is_a_quantity_of_kubernetes(text: str, bits: int) -> None:
    assert wishes(pod(**{INGRESS: text})).ingress_bps == bits


@given(st.dictionaries(st.sampled_from([IP, STICKY, MTU, ROUTES, INGRESS, EGRESS]), st.text(max_size=40)))
def test_no_text_at_all_is_more_than_an_error(annotations: dict[str, str]) -> None:
    try:
        found = wishes(pod(**annotations))
    except Malformed:
        return
    assert isinstance(found, Wishes)

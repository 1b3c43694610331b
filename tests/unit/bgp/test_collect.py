"""A switch's table, event by event: complete at the last End-of-RIB, never before."""

from __future__ import annotations

import asyncio
import json
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

import pytest

from bgp.collect import Received, _Table, collect
from bgp.errors import ProtocolError, UnavailableError
from bgp.model import Neighbor, SpeakerConfig

BOTH = frozenset({4, 6})


def said(kind: str, **body: Any) -> bytes:
    return json.dumps({"type": kind, "neighbor": {"address": {"peer": "10.255.1.1"}, **body}}).encode()


def update(**message: Any) -> bytes:
    return said("update", direction="receive", message={"update": message})


def negotiated(*families: str) -> bytes:
    return said("negotiated", negotiated={"families": list(families)})


def eor(afi: str) -> bytes:
    return said("update", direction="receive", message={"eor": {"afi": afi, "safi": "unicast"}})


UP = said("state", state="up")
ROUTE = update(
    attribute={
        "as-path": {"0": {"element": "as-sequence", "value": [65500]}},
        "community": [[65000, 911]],
        "large-community": [[1, 2, 3]],
    },
    announce={"ipv4 unicast": {"10.1.0.11": [{"nlri": "10.101.0.2/32"}]}},
)
PREFIX = ip_network("10.101.0.2/32")


def heard(*lines: bytes) -> _Table:
    table = _Table(BOTH)
    for line in lines:
        table.hear(line)
    return table


def test_a_route_is_what_the_switch_said() -> None:
    table = heard(negotiated("ipv4 unicast", "ipv6 unicast"), UP, ROUTE)
    assert table.routes == {PREFIX: Received((ip_address("10.1.0.11"),), (65500,), frozenset({"65000:911", "1:2:3"}))}


def test_a_table_is_complete_with_the_last_end_of_rib() -> None:
    table = heard(UP, ROUTE, eor("ipv4"))
    assert not table.complete
    assert table.lack() == "no End-of-RIB for IPv6 unicast"
    table.hear(eor("ipv6"))
    assert table.complete


def test_a_route_that_is_taken_back_is_gone() -> None:
    assert heard(UP, ROUTE, update(withdraw={"ipv4 unicast": [{"nlri": str(PREFIX)}]})).routes == {}


def test_a_session_that_ends_takes_what_it_told_with_it() -> None:
    table = heard(UP, ROUTE, eor("ipv4"), eor("ipv6"), said("state", state="down", reason="peer reset"))
    assert (table.complete, table.routes, table.lack()) == (False, {}, "no session (peer reset)")


def test_a_family_that_is_not_spoken_is_not_an_empty_one() -> None:
    with pytest.raises(UnavailableError, match="does not speak IPv6 unicast"):
        heard(negotiated("ipv4 unicast"))


@pytest.mark.parametrize("message", [update(announce={"ipv4 unicast": {"x": [{}]}}), update(attribute=[])])
def test_junk_is_not_silence(message: bytes) -> None:
    with pytest.raises(ProtocolError):
        heard(UP, message)


NOWHERE = SpeakerConfig(
    65011,
    IPv4Address("127.0.0.1"),
    ip_address("127.0.0.1"),
    (Neighbor(ip_address("127.0.0.2"), 65011, "r1a"),),
)


async def test_nobody_listens() -> None:
    with pytest.raises(UnavailableError, match="no session"):
        await collect(NOWHERE, BOTH, timeout_s=3)


async def test_an_exabgp_that_never_speaks_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")  # its Python ends at once
    async with asyncio.timeout(30):
        with pytest.raises(UnavailableError, match="no session within 1 s"):
            await collect(NOWHERE, BOTH, timeout_s=1)

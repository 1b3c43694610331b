"""The files of the two racks are written by hand, once per switch: they must agree with each other."""

from __future__ import annotations

import re
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from containerlab.topology import TWO_RACKS, load

FOLDER = TWO_RACKS.parent
TORS = {"r1a": (1, 1), "r1b": (1, 2), "r2a": (2, 1), "r2b": (2, 2)}


def config(node: str) -> str:
    return (FOLDER / "configs" / node / "frr.conf").read_text()


def rack(number: int) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / "racks" / f"r{number}.yaml").read_text())
    return document


def generic(node: str) -> str:
    """A ToR's configuration with what is its own taken out."""
    number, side = TORS[node]
    here, twin, port = "ab"[side - 1], "ba"[side - 1], 4 * (number - 1) + 2 * side
    text = config(node)
    for pattern, name in (
        (rf"\br{number}{here}\b", "TOR"),
        (rf"\br{number}{twin}\b", "TWIN"),
        (rf"ToR {here.upper()} of rack {number}", "ToR"),
        (rf"\b650{number}{side}\b", "ASN"),
        (rf"10\.255\.{number}\.{side}\b", "LOOPBACK"),
        (rf"\b(10\.254\.[12]\.|fd00:254:[12]::){port + 1:x}\b", r"\1OWN"),
        (rf"\b(10\.254\.[12]\.|fd00:254:[12]::){port:x}\b", r"\1SPINE"),
        (rf"\b10\.{number}\.0\.{number}([12])\b", r"SERVER\1"),
        (rf"\bfd00:{number}::{number}([12])\b", r"SERVER6\1"),
        (rf"\bs{number}([12])\b", r"s\1"),
        (rf"\b10\.{number}\.", "HOSTS."),
        (rf"\b10\.10{number}\.", "PODS."),
        (rf"\bfd00:{number}:", "HOSTS6:"),
        (rf"\bfd00:10{number}:", "PODS6:"),
    ):
        text = re.sub(pattern, name, text)
    return text


@pytest.mark.parametrize("tor", ["r1b", "r2a", "r2b"])
def test_tors_differ_in_their_numbers_only(tor: str) -> None:
    assert generic(tor) == generic("r1a")


def test_spines_differ_in_their_numbers_only() -> None:
    texts = [
        re.sub(
            rf"\bsp{number}\b|10\.255\.0\.{number}\b|10\.254\.{number}\.|fd00:254:{number}:", "X", config(f"sp{number}")
        )
        for number in (1, 2)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("tor", TORS)
def test_a_tor_agrees_with_the_agents_rack_file(tor: str) -> None:
    number, side = TORS[tor]
    document, text = rack(number), config(tor)
    me = document["tors"][side - 1]
    assert me["name"] == tor
    assert f"router bgp {me['asn']}\n" in text
    assert f" ip address {me['address']}/32\n" in text
    assert f" neighbor SERVER remote-as {document['bgp']['asn']}\n" in text
    for subnet in document["hosts"]:
        assert f"address {subnet['gateway']}/{ip_network(subnet['prefix']).prefixlen}\n" in text
    for pool in document["pools"]:
        assert f"aggregate-address {pool['prefix']} summary-only\n" in text
        assert f"address {pool['gateway']}/{ip_address(pool['gateway']).max_prefixlen}\n" in text
    for server in document["servers"].values():
        assert f" neighbor {server['addresses'][0]} peer-group SERVER\n" in text


@pytest.mark.parametrize("tor", TORS)
def test_a_tors_ports_are_its_links_and_its_racks_servers(tor: str) -> None:
    plan, document = load(TWO_RACKS), rack(TORS[tor][0])
    lines = (FOLDER / "configs" / tor / "ports.conf").read_text().splitlines()
    ports = {line.split()[0]: line.split()[2:] for line in lines if not line.startswith("#")}
    assert ports == {name: server["addresses"] for name, server in document["servers"].items()}
    interfaces = {end.interface for link in plan.links for end in link.ends if end.node == tor}
    assert set(ports) <= interfaces
    for name in ports:
        assert f"/etc/routed/rack.yaml:{FOLDER / 'racks' / document['rack']}.yaml" in [
            f"{bind.target}:{bind.source}" for bind in plan.nodes[name].binds
        ]


@pytest.mark.parametrize("number", [1, 2])
def test_servers_environment_is_the_rack_files(number: int) -> None:
    plan, document = load(TWO_RACKS), rack(number)
    for name, server in document["servers"].items():
        env = plan.nodes[name].env
        assert [address.partition("/")[0] for address in env["ADDRESSES"].split()] == server["addresses"]
        assert env["GATEWAYS"].split() == [subnet["gateway"] for subnet in document["hosts"]]


def test_routers_address_their_links_from_one_subnet() -> None:
    plan = load(TWO_RACKS)
    addresses = {node: dict(interfaces(config(node))) for node in plan.nodes if (FOLDER / "configs" / node).is_dir()}
    for link in plan.links:
        left, right = link.ends
        if left.node in addresses and right.node in addresses:
            networks = [
                {ip_network(text, strict=False) for text in addresses[end.node][end.interface]} for end in link.ends
            ]
            assert networks[0] == networks[1]
            assert not set(addresses[left.node][left.interface]) & set(addresses[right.node][right.interface])


def interfaces(text: str) -> list[tuple[str, list[str]]]:
    blocks = re.findall(r"^interface (\S+)\n((?: .*\n)*)", text, re.MULTILINE)
    return [(name, re.findall(r"address (\S+)", body)) for name, body in blocks]


def test_start_scripts_are_executable() -> None:
    scripts = [
        *Path(FOLDER / "images").rglob("start.sh"),
        FOLDER / "images" / "daemon.sh",
        FOLDER / "images" / "healthy.py",
    ]
    assert len(scripts) == 5
    assert all(script.stat().st_mode & 0o111 for script in scripts)

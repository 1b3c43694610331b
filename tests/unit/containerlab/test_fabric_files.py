"""The files of the two racks must agree with each other; the ToRs' frr.conf is rendered (tests/unit/torconfig)."""

from __future__ import annotations

import re
from ipaddress import ip_network
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


def test_spines_differ_in_their_numbers_only() -> None:
    texts = [
        re.sub(
            rf"\bsp{number}\b|10\.255\.0\.{number}\b|10\.254\.{number}\.|fd00:254:{number}:", "X", config(f"sp{number}")
        )
        for number in (1, 2)
    ]
    assert texts[0] == texts[1]


@pytest.mark.parametrize("tor", TORS)
def test_a_tors_environment_and_ports_are_those_of_its_racks_fabric_section(tor: str) -> None:
    plan, fabric = load(TWO_RACKS), rack(TORS[tor][0])["fabric"]
    env, lines = plan.nodes[tor].env, (FOLDER / "configs" / tor / "ports.conf").read_text().splitlines()
    assert env["GATEWAY_MAC"] == fabric["gateway"]["mac"]
    assert env["LACP_SYSTEM_ID"] == fabric["lacp"]["system_id"]
    keys = {line.split()[0]: int(line.split()[1]) for line in lines if not line.startswith("#")}
    assert keys == {fabric["tors"][tor]["ports"][server]: key for server, key in fabric["lacp"]["keys"].items()}


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
    assert len(scripts) == 8
    assert all(script.stat().st_mode & 0o111 for script in scripts)

"""The interoperability rack is rack 1 with other daemons: its files must agree with those of the two racks."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

from containerlab.topology import TWO_RACKS, load

FOLDER = TWO_RACKS.parent
CONFIGS = FOLDER / "configs" / "interop"
OF_THE_LAB = {"ROUTING": "", "UPLINK_DELAY_S": ""}
"""What may differ."""


def rack(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(path.read_text())
    return document


def test_the_rack_file_differs_from_rack_1_in_its_password_only() -> None:
    plain, other = rack(FOLDER / "racks" / "r1.yaml"), rack(CONFIGS / "rack.yaml")
    assert other["bgp"].pop("password_file") == "/etc/routed/password"
    assert plain["bgp"].pop("password_file") is None
    assert other == plain


def test_nodes_are_those_of_rack_1() -> None:
    plain, other = load(TWO_RACKS), load(FOLDER / "interop.clab.yml")
    for name in ("r1a", "r1b", "s11", "s12"):
        assert {**other.nodes[name].env, **OF_THE_LAB} == {**plain.nodes[name].env, **OF_THE_LAB}
        assert other.nodes[name].sysctls == plain.nodes[name].sysctls


def test_both_daemons_have_the_servers_password() -> None:
    password = (CONFIGS / "password").read_text().strip()
    gobgp = tomllib.loads((CONFIGS / "r1b" / "gobgpd.toml").read_text())
    assert gobgp["peer-groups"][0]["config"]["auth-password"] == password
    assert f'password "{password}";' in (CONFIGS / "r1a" / "bird.conf").read_text()

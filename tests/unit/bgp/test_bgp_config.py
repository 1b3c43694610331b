"""ExaBGP's configuration file, against a golden one and against ExaBGP's own parser."""

from __future__ import annotations

import dataclasses
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest

from bgp import config
from bgp.errors import PasswordError
from bgp.model import Neighbor, SpeakerConfig

GOLDEN = Path(__file__).parents[2] / "golden" / "exabgp.conf"
TOR1 = Neighbor(IPv4Address("10.255.1.1"), 65011, "r1a", "s3cret#")
TOR2 = Neighbor(IPv4Address("10.255.1.2"), 65012, "r1b", direct=True)
CONFIG = SpeakerConfig(65500, IPv4Address("10.1.0.11"), IPv4Address("10.1.0.11"), (TOR1, TOR2))
RELAY = ("/usr/bin/python3", "/usr/lib/routed/relay.py", "/run/routed/bgp/relay.sock")


def test_the_file_is_the_golden_one() -> None:
    assert config.render(config.sections(CONFIG).values(), RELAY) == GOLDEN.read_text()


def test_the_file_splits_into_what_it_was_made_of() -> None:
    sections = config.sections(CONFIG)
    assert config.split(config.render(sections.values(), RELAY)) == sections


@pytest.mark.parametrize(
    ("change", "touched"),
    [
        ({"hold_time_s": 30}, {TOR1.address, TOR2.address}),
        ({"graceful_restart_s": None}, {TOR1.address, TOR2.address}),
        ({"neighbors": (dataclasses.replace(TOR1, password="other"), TOR2)}, {TOR1.address}),  # noqa: S106
        ({"neighbors": (TOR1, dataclasses.replace(TOR2, asn=65013))}, {TOR2.address}),
    ],
)
def test_a_digest_changes_with_what_its_session_depends_on(change: dict[str, Any], touched: set[IPv4Address]) -> None:
    before, after = config.sections(CONFIG), config.sections(dataclasses.replace(CONFIG, **change))
    assert {address for address in before if config.digest(before[address]) != config.digest(after[address])} == touched


def test_a_new_name_is_a_new_generation_of_the_same_session() -> None:
    renamed = config.section(CONFIG, dataclasses.replace(TOR1, name="other"))
    before = config.section(CONFIG, TOR1)
    assert config.generation(renamed) != config.generation(before)
    assert config.digest(renamed) == config.digest(before)


def test_identity_is_what_exabgp_files_its_routes_under() -> None:
    before = config.section(CONFIG, TOR1)
    assert config.identity(before) == config.identity(config.section(dataclasses.replace(CONFIG, hold_time_s=30), TOR1))
    moved = dataclasses.replace(CONFIG, router_id=IPv4Address("10.1.0.12"))
    assert config.identity(before) != config.identity(config.section(moved, TOR1))


def test_a_password_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret\nremark\n")
    assert config.read_password(file) == "s3cret"


@pytest.mark.parametrize("content", [None, "", "\n\n", "  \n"])
def test_without_a_password_in_the_file_there_is_an_error_and_no_session(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "password"
    if content is not None:
        file.write_text(content)
    with pytest.raises(PasswordError, match="password"):
        config.read_password(file)

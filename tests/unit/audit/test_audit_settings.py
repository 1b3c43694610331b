"""The audit file: what it says, and how it is told what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from routed.audit.settings import AuditSettings, load
from routed.settings import SettingsError

NAPALM = {"source": "napalm", "driver": "eos", "user": "audit"}
WHOLE = """
racks: [racks/*.yaml]
agents: {command: [ssh, "root@{server}", routed, audit, export]}
switches:
  defaults: {source: frr, command: [ssh, "{name}", sudo, vtysh]}
  spines: [sp1, sp2]
  r2a: {source: bird, command: [ssh, r2a, sudo, birdc]}
timeout_s: 10
parallel: 32
pools: {low: 0.9}
"""


def written(folder: Path, text: str) -> AuditSettings:
    path = folder / "audit.yaml"
    path.write_text(text)
    return load(path)


def test_a_whole_file(tmp_path: Path) -> None:
    settings = written(tmp_path, WHOLE)
    assert settings.switches.spines == ("sp1", "sp2")
    bird, frr = settings.switches.of("r2a"), settings.switches.of("r1a")
    assert bird is not None
    assert frr is not None
    assert (bird.source, frr.source) == ("bird", "frr")
    assert settings.switches.named == {"r2a"}


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    settings = written(tmp_path, WHOLE)
    with pytest.raises(SettingsError, match=r"there is no .*/racks/\*\.yaml"):
        settings.rack_files()
    (tmp_path / "racks").mkdir()
    for name in ("b.yaml", "a.yaml"):
        (tmp_path / "racks" / name).touch()
    assert settings.rack_files() == (tmp_path / "racks/a.yaml", tmp_path / "racks/b.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"racks": []}, "either racks or kubernetes"),
        ({"kubernetes": {}}, "either racks or kubernetes"),
        ({"partial": True}, "partial is about holdings"),
        ({"agents": {}}, "agents: Value error, name either a command or a file"),
        ({"agents": {"command": ["ssh", "{host}"]}}, r"agents\.command: .*\{host\} is not known here"),
        ({"agents": {"command": []}}, r"agents\.command: "),
        ({"switches": {"r1a": {"source": "ios", "command": ["x"]}}}, r"switches\.r1a\.source: "),
        ({"switches": {"r1a": {"source": "bird"}}}, r"switches\.r1a: .*source bird wants command"),
        ({"switches": {"r1a": {"source": "bgp", "command": ["x"]}}}, r"switches\.r1a: .*wants asn and sessions"),
        (
            {"switches": {"r1a": {"source": "bgp", "asn": 1, "sessions": []}}},
            r"switches\.r1a: .*source bgp wants sessions",
        ),
        ({"switches": {"r1a": {"source": "frr", "command": ["x"], "asn": 1}}}, r"switches\.r1a: .*frr has no asn"),
        ({"switches": {"r1a": {"source": "mrt"}}}, r"switches\.r1a: .*source mrt wants file"),
        ({"switches": {"r1a": {"source": "napalm", "user": "x"}}}, r"switches\.r1a: .*wants driver"),
        (
            {"switches": {"r1a": NAPALM | {"options": {"enable_password": "x"}}}},
            r"options\.enable_password: secrets stand in no audit file",
        ),
        (
            {"switches": {"r1a": {"source": "bgp", "asn": 1, "sessions": [{"address": "::1", "local": "127.0.0.1"}]}}},
            r"switches\.r1a\.sessions\[0\]: .*same IP version",
        ),
        ({"switches": {"defaults": {"source": "frr", "command": ["{server}"]}}}, r"switches\.defaults\.command: "),
        ({"timeout_s": 0}, "timeout_s: "),
        ({"steering": "explained"}, "steering: unknown key$"),
        ({"timeout": 5}, r"timeout: unknown key; did you mean timeout_s\?"),
        (
            {"switches": {"r1a": {"source": "frr", "comand": ["x"]}}},
            r"switches\.r1a\.comand: unknown key; did you mean command\?",
        ),
        ({"pools": {"low": 2}}, r"pools\.low: "),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    document = yaml.safe_load(WHOLE) | change
    with pytest.raises(SettingsError, match=message):
        written(tmp_path, yaml.safe_dump(document))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "none.yaml")

"""Of a folder of files, a server takes its own, else the shared one, else the rack file that lists it, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from routed.cli.prepare import own_file, own_rack
from routed.settings import SettingsError

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"


def write(folder: Path, name: str, *servers: str) -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    addresses = (f"10.1.0.{number}" for number in range(11, 99))
    document |= {"rack": name, "servers": {server: {"addresses": [next(addresses)]} for server in servers}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(document))


def test_the_file_that_lists_the_server(tmp_path: Path) -> None:
    write(tmp_path, "r1", "s11", "s12")
    write(tmp_path, "r2", "s21")
    file, settings = own_rack(tmp_path, "s21")
    assert (file.name, settings.rack) == ("r2.yaml", "r2")


def test_no_file_lists_it(tmp_path: Path) -> None:
    write(tmp_path, "r1", "s11")
    with pytest.raises(SettingsError, match=r"server 's99' is in none of the 1 rack files in "):
        own_rack(tmp_path, "s99")


def test_two_files_list_it(tmp_path: Path) -> None:
    write(tmp_path, "r1", "s11")
    write(tmp_path, "r2", "s11")
    with pytest.raises(SettingsError, match=r"server 's11' is in two rack files: r1\.yaml, r2\.yaml"):
        own_rack(tmp_path, "s11")


def test_what_kubelet_keeps_beside_a_config_map_s_files_is_no_rack(tmp_path: Path) -> None:
    """The files are links into a folder of each version; a change swaps one link (`..data`)."""
    version = tmp_path / "..2026_01_01"
    version.mkdir()
    write(version, "r1", "s11")
    (tmp_path / "..data").symlink_to(version.name)
    (tmp_path / "r1.yaml").symlink_to("..data/r1.yaml")
    assert own_rack(tmp_path, "s11")[0].name == "r1.yaml"


def test_a_server_s_own_file_comes_before_what_all_others_share(tmp_path: Path) -> None:
    """One whose NICs have other names, or that has no bridge, beside those that have all in common."""
    for name, run in (("agent.yaml", "/run/routed"), ("agent-s12.yaml", "/run/other")):
        (tmp_path / name).write_text(yaml.safe_dump({"kubernetes": {}, "paths": {"run": run}}))
    assert own_file(tmp_path, "s12") == (tmp_path / "agent-s12.yaml", Path("/run/other"))
    for other in ("s11", "s1", "s12x"):
        assert own_file(tmp_path, other) == (tmp_path / "agent.yaml", Path("/run/routed"))


def test_the_others_are_found_in_a_rack_file_when_nothing_is_shared(tmp_path: Path) -> None:
    (tmp_path / "agent-s12.yaml").write_text("kubernetes: {}\n")
    write(tmp_path, "r1", "s11")
    assert own_file(tmp_path, "s12")[0].name == "agent-s12.yaml"
    assert own_file(tmp_path, "s11")[0].name == "r1.yaml"
    with pytest.raises(SettingsError, match="server 's13' is in none of the 1 rack files in "):
        own_file(tmp_path, "s13")


def test_a_rack_file_is_no_server_s_own(tmp_path: Path) -> None:
    write(tmp_path, "agent-s12", "s12")
    with pytest.raises(SettingsError, match=r"agent-s12\.yaml: 1 problem.*\n.*kubernetes"):
        own_file(tmp_path, "s12")

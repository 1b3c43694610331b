"""Of a folder of rack files, a server takes the one that lists it, or none."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from routed.cli.prepare import own_rack
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

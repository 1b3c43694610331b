"""What an agent in a container tells runtimes of host ports, by what is in their folder of plugins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from routed.agent import Container
from routed.cni.install import CONFIGURATION, PORTMAP, HostPorts, conflist


@pytest.mark.parametrize(
    ("there", "host_ports"),
    [
        (lambda _: None, HostPorts.REFUSED),
        (lambda file: file.write_bytes(b"json:snat"), HostPorts.REFUSED),
        (lambda file: file.write_bytes(b"json:masqAll"), HostPorts.MAPPED),
        (Path.mkdir, HostPorts.REFUSED),  # what cannot be read keeps no other pod from starting
    ],
)
def test_host_ports_follow_the_plugins(tmp_path: Path, there: Callable[[Path], object], host_ports: HostPorts) -> None:
    there(tmp_path / PORTMAP)
    Container(cni_conf_dir=tmp_path, cni_bin_dir=tmp_path).publish()
    assert (tmp_path / CONFIGURATION).read_text() == conflist(host_ports)


def test_a_plugin_that_cannot_be_read_now_stays_in_the_chain(tmp_path: Path) -> None:
    """Else pods that run would end without it, and their rules would stay."""
    container = Container(cni_conf_dir=tmp_path, cni_bin_dir=tmp_path)
    (tmp_path / PORTMAP).write_bytes(b"json:masqAll")
    container.publish()
    (tmp_path / PORTMAP).unlink()
    (tmp_path / PORTMAP).mkdir()
    container.publish()
    assert (tmp_path / CONFIGURATION).read_text() == conflist(HostPorts.MAPPED)


def test_without_a_folder_of_plugins_host_ports_are_ignored(tmp_path: Path) -> None:
    Container(cni_conf_dir=tmp_path).publish()
    assert (tmp_path / CONFIGURATION).read_text() == conflist(HostPorts.IGNORED)


def test_without_a_folder_of_configurations_nothing_is_told(tmp_path: Path) -> None:
    Container(cni_bin_dir=tmp_path).publish()
    assert list(tmp_path.iterdir()) == []

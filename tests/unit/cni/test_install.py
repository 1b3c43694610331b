"""What a runtime finds of us is whole at any moment, and an operator's own configuration stays."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import structlog

from routed.cni.install import CONFIGURATION, PLUGIN, PORTMAP, HostPorts, can_map, conflist, install_plugin, publish

PACKAGED = Path(__file__).parents[3] / "deploy/cni" / CONFIGURATION


def test_the_configuration_is_the_one_in_deploy(tmp_path: Path) -> None:
    publish(tmp_path / "net.d", HostPorts.IGNORED)
    assert (tmp_path / "net.d" / CONFIGURATION).read_bytes() == PACKAGED.read_bytes()
    assert (tmp_path / "net.d" / CONFIGURATION).stat().st_mode & 0o777 == 0o644


def test_a_configuration_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / CONFIGURATION).write_text("an operator's own")
    with structlog.testing.capture_logs() as logs:
        publish(tmp_path, HostPorts.MAPPED)
    assert (tmp_path / CONFIGURATION).read_text() == "an operator's own"
    assert [one["event"] for one in logs] == ["cni.kept"], "what it is to say was not published"


@pytest.mark.parametrize("before", HostPorts)
@pytest.mark.parametrize("after", HostPorts)
def test_a_configuration_of_ours_follows_what_the_server_can(
    tmp_path: Path, before: HostPorts, after: HostPorts
) -> None:
    publish(tmp_path, before)
    first = (tmp_path / CONFIGURATION).stat().st_ino
    with structlog.testing.capture_logs() as logs:
        publish(tmp_path, after)
    assert (tmp_path / CONFIGURATION).read_text() == conflist(after)
    assert ((tmp_path / CONFIGURATION).stat().st_ino == first) == (before is after), "runtimes watch the folder"
    warned = "portmap.unchained" in [one["event"] for one in logs if one["log_level"] == "warning"]
    assert warned == (before is HostPorts.MAPPED and after is not before), "rules of running pods outlive them"
    assert (logs[-1]["event"], logs[-1]["host_ports"]) == ("cni.published", after)


@pytest.mark.parametrize("before", HostPorts)
def test_a_configuration_of_ours_outlives_a_look_that_failed(tmp_path: Path, before: HostPorts) -> None:
    publish(tmp_path, before)
    with structlog.testing.capture_logs() as logs:
        publish(tmp_path, None)
    assert (tmp_path / CONFIGURATION).read_text() == conflist(before)
    assert [(one["event"], one["host_ports"]) for one in logs] == [("cni.published", before)]


def test_who_is_told_of_host_ports() -> None:
    told = {
        host_ports: [one["type"] for one in json.loads(conflist(host_ports))["plugins"] if "capabilities" in one]
        for host_ports in HostPorts
    }
    assert told == {HostPorts.MAPPED: [PORTMAP], HostPorts.REFUSED: [PLUGIN], HostPorts.IGNORED: []}


@pytest.mark.parametrize(
    ("program", "able"), [(None, None), (b'json:"snat"', False), (b'json:"snat"json:"masqAll"', True)]
)
def test_a_portmap_without_the_option_counts_as_unable(
    tmp_path: Path, program: bytes | None, able: bool | None
) -> None:
    if program is not None:
        (tmp_path / PORTMAP).write_bytes(program)
    assert can_map(tmp_path) is able


def test_a_portmap_that_is_a_link_counts_as_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / PORTMAP).symlink_to("elsewhere/portmap")
    with pytest.raises(OSError, match="links to elsewhere/portmap"):  # not mounted into a container, say
        can_map(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / PORTMAP).write_bytes(b"json:masqAll")
    assert can_map(tmp_path)


def test_a_plugin_that_runs_can_be_replaced(tmp_path: Path) -> None:
    shutil.copy("/bin/sleep", tmp_path / PLUGIN)
    running = subprocess.Popen([tmp_path / PLUGIN, "60"])
    try:
        new = tmp_path / "new"
        new.write_bytes(b"#!/bin/sh\necho new\n")
        install_plugin(new, tmp_path)
        assert subprocess.run([tmp_path / PLUGIN], capture_output=True, text=True, check=True).stdout == "new\n"
        assert running.poll() is None
    finally:
        running.kill()
        running.wait()


def test_what_a_crash_left_half_written_is_in_nobody_s_way(tmp_path: Path) -> None:
    (tmp_path / f".{CONFIGURATION}.new").write_text("half")
    publish(tmp_path, HostPorts.REFUSED)
    assert [path.name for path in tmp_path.iterdir()] == [CONFIGURATION]

"""systemd's units call commands that exist, in the order that NICs need."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.manifests import DEPLOY, container

SYSTEMD = DEPLOY / "systemd"
FILE = "kubernetes: {}\nbridge: {name: nobridge, uplink: nobond, members: [nodeva, nodevb]}\n"


def entries(unit: str) -> list[tuple[str, str]]:
    lines = (SYSTEMD / unit).read_text().splitlines()
    return [
        (key, value) for line in lines if "=" in line and line[0] not in "#[" for key, _, value in [line.partition("=")]
    ]


@pytest.mark.parametrize("unit", ["routed-nic.service", "routed-uplink.service"])
def test_a_unit_s_command_is_understood(unit: str, tmp_path: Path) -> None:
    (tmp_path / "rack.yaml").write_text(FILE)
    commands = [value for key, value in entries(unit) if key.startswith("Exec") and "routed" in value]
    assert commands
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "/usr/bin/routed"
        arguments[arguments.index("/etc/routed/rack.yaml")] = str(tmp_path / "rack.yaml")
        run = [str(Path(sys.executable).with_name("routed")), *arguments, "--dry-run"]
        environment = {"ROUTED_NIC_VFS": "8", "ROUTED_SYSFS": str(tmp_path), "PATH": "/usr/bin:/bin"}
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert (done.returncode, done.stderr) == (1, "")
        assert "obstacle: there is no device nodeva" in done.stdout


def test_hardware_comes_before_the_network_and_the_uplink_before_it_is_online() -> None:
    hardware, uplink = dict(entries("routed-nic.service")), dict(entries("routed-uplink.service"))
    assert {"network-pre.target", "openvswitch-switch.service", "routed.service"} <= set(hardware["Before"].split())
    assert {"routed-nic.service", "openvswitch-switch.service"} <= set(uplink["After"].split())
    assert {"network-online.target", "routed.service"} <= set(uplink["Before"].split())
    assert hardware["EnvironmentFile"] == uplink["EnvironmentFile"]
    assert "--hardware-only" in hardware["ExecStart"]
    assert "--hardware-only" not in uplink["ExecStart"]


def test_the_agent_starts_whatever_a_nic_lacks() -> None:
    agent = dict(entries("routed.service"))
    assert agent.keys().isdisjoint({"ExecStartPre", "ExecCondition", "Requires", "Requisite", "BindsTo"})
    assert list(SYSTEMD.rglob("*.conf")) == [], "a drop-in could add one"
    assert {dict(entries(unit))["Type"] for unit in ("routed-nic.service", "routed-uplink.service")} == {"oneshot"}


def test_the_agent_may_do_what_the_daemonset_s_may_and_exabgp_is_not_root() -> None:
    unit = dict(entries("routed.service"))
    granted = container("agent")["securityContext"]["capabilities"]["add"]
    assert sorted(unit["CapabilityBoundingSet"].split()) == sorted(f"CAP_{name}" for name in granted)
    assert unit["Environment"] == "ROUTED_BGP_USER=exabgp"
    assert "useradd" in (SYSTEMD / "routed.service").read_text().partition("[Unit]")[0]


def test_an_agent_whose_exabgp_has_no_user_says_so_before_it_touches_anything() -> None:
    run = [str(Path(sys.executable).with_name("routed")), "agent", "--config", "/nowhere"]
    for user, complaint in (
        ("no-such-user", "no user no-such-user for ExaBGP: `useradd --system"),
        ("root", "/nowhere"),
    ):
        environment = {"ROUTED_BGP_USER": user, "PATH": "/usr/bin:/bin"}
        done = subprocess.run(run, capture_output=True, text=True, check=False, timeout=60, env=environment)
        assert done.returncode == 2
        assert complaint in done.stderr

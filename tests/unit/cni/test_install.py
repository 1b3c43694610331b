"""What a runtime finds of us is whole at any moment, and an operator's own configuration stays."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from routed.cni.install import CONFIGURATION, PLUGIN, install_plugin, publish

PACKAGED = Path(__file__).parents[3] / "deploy/cni" / CONFIGURATION


def test_the_configuration_is_the_one_in_deploy(tmp_path: Path) -> None:
    publish(tmp_path / "net.d")
    assert (tmp_path / "net.d" / CONFIGURATION).read_bytes() == PACKAGED.read_bytes()
    assert (tmp_path / "net.d" / CONFIGURATION).stat().st_mode & 0o777 == 0o644


def test_a_configuration_that_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / CONFIGURATION).write_text("an operator's own")
    publish(tmp_path)
    assert (tmp_path / CONFIGURATION).read_text() == "an operator's own"


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
    publish(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [CONFIGURATION]

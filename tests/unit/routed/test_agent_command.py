"""What `routed agent` says of a rack file that no agent can start with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import yaml

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"


def test_shares_that_make_no_sense_are_told_of_in_one_line(tmp_path: Path) -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    document["servers"]["s12"]["owns"] = ["10.99.0.0/24"]
    document["paths"] = {"state": str(tmp_path), "run": str(tmp_path)}
    file = tmp_path / "rack.yaml"
    file.write_text(yaml.safe_dump(document))
    command = (sys.executable, "-c", "from routed.cli.main import main; main()", "agent", "--server", "s11")
    done = subprocess.run([*command, "--config", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "10.99.0.0/24" in line

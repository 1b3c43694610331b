"""Labs by containerlab: what is known without Docker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from containerlab.containers import Container, ContainerLab, renamed
from containerlab.errors import NodeError
from containerlab.runners import Runner
from containerlab.topology import TWO_RACKS, load


def test_a_copy_of_the_file_is_the_same_lab_under_another_name(tmp_path: Path) -> None:
    original = load(TWO_RACKS)
    path = tmp_path / "copy.clab.yml"
    path.write_text(yaml.safe_dump(renamed(original, "another")))
    copy = load(path)
    assert copy.name == "another"
    assert copy.nodes == original.nodes
    assert copy.links == original.links


def test_no_node_is_privileged() -> None:
    defaults = yaml.safe_load(TWO_RACKS.read_text())["topology"]["defaults"]
    assert defaults["privileged"] is False
    assert set(defaults["cap-add"]) == {"NET_ADMIN", "NET_RAW", "SYS_ADMIN", "SYS_NICE"}


def test_a_number_that_another_process_has_by_now_is_no_container(tmp_path: Path) -> None:
    document = {"container": "f" * 64, "pid": 1, "host": "unix:///nowhere", "env": {}, "group": "tor"}
    (tmp_path / "spec.json").write_text(json.dumps(document))
    with pytest.raises(NodeError, match="stopped"):
        _ = Container(tmp_path).pid


def test_a_machine_without_the_programs_says_which(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ContainerLab.obstacle() == "containerlab needs docker, go, debootstrap: not installed"


def test_both_runners_have_labs_of_one_protocol() -> None:
    assert all(hasattr(runner.lab, verb) for runner in Runner for verb in ("up", "find", "named", "down", "wait_ready"))

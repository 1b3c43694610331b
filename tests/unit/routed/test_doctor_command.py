"""`routed doctor` as a command: what it prints, how it ends, what it reads of files itself."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from ipam.leases import EmbeddedLeases
from ipam.ledger import Ledger
from ipam.model import Pool
from routed.cli.findings import summary, table
from routed.doctor.facts import Unseen
from routed.doctor.findings import Finding, error, exit_status, ok, unknown, warning
from routed.doctor.gather import _is_ledger, has_driver
from routed.settings import load

EXAMPLE = Path(__file__).parents[3] / "rack.example.yaml"


@pytest.mark.parametrize(
    ("findings", "status"),
    [
        ([], 0),
        ([ok("a", "")], 0),
        ([ok("a", ""), warning("b", "", "do")], 0),
        ([warning("b", "", "do"), unknown("c", "", "do")], 3),
        ([unknown("c", "", "do"), error("d", "", "do")], 1),
    ],
)
def test_the_exit_status_tells_the_worst(findings: list[Finding], status: int) -> None:
    assert exit_status(findings) == status


def test_the_table_has_the_advice_below_and_keeps_brackets() -> None:
    findings = [ok("a", "fine"), error("b", "wrong", "set members: [etha, ethb]"), error("c", "wrong", "mend")]
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(table(findings))
    lines = [line.rstrip() for line in console.export_text().splitlines()]
    assert lines[2] == "error  b      wrong"
    assert lines[3].strip() == "-> set members: [etha, ethb]"
    assert summary(findings) == "2 errors, 1 ok"


# --- looking ---------------------------------------------------------------------------------------------------------


def test_a_ledger_is_told_by_its_first_bytes_while_an_agent_has_it_open(tmp_path: Path) -> None:
    pool = Pool(load(EXAMPLE).pools[0].prefix, load(EXAMPLE).pools[0].gateway)
    path = tmp_path / "ledger.db"
    with Ledger(path, [pool], EmbeddedLeases([pool])):
        assert _is_ledger(path) is True
    assert _is_ledger(path) is True
    assert _is_ledger(tmp_path / "none.db") is None
    (tmp_path / "other.db").write_text("something else")
    assert _is_ledger(tmp_path / "other.db") is False
    assert isinstance(_is_ledger(tmp_path), Unseen)


def test_a_driver_that_no_kernel_has_is_missed() -> None:
    assert has_driver("routednosuchdriver", "0.0.0") in (False, None)


def doctor(rack: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    binary = Path(sys.executable).with_name("routed")
    command = [str(binary), "doctor", "--config", str(rack), "--server", "s11", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_new_server_with_nothing_on_it_is_told_so(tmp_path: Path) -> None:
    document = yaml.safe_load(EXAMPLE.read_text())
    document |= {"bridge": {"name": "nobridge", "uplink": "nouplink"}, "steering": None}
    document["paths"] = {name: str(tmp_path / name) for name in ("state", "run", "ovs")}
    document["cni"]["socket"] = str(tmp_path / "cni.sock")
    rack = tmp_path / "rack.yaml"
    rack.write_text(yaml.safe_dump(document))
    done = doctor(rack, "-o", "json")
    assert done.returncode == 1
    levels = {one["check"]: one["level"] for one in json.loads(done.stdout)}
    assert levels["ovs"] == levels["agent"] == levels["member nouplink"] == "error"
    assert levels["bridge"] == levels["tor r1a"] == levels["address 10.1.0.11"] == "unknown"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == [rack], "something was made"


@pytest.mark.parametrize("text", ["rack: [", "rack: r1", None])
def test_a_file_that_cannot_be_used_is_told_from_a_sick_server(tmp_path: Path, text: str | None) -> None:
    rack = tmp_path / "rack.yaml"
    if text is not None:
        rack.write_text(text)
    done = doctor(rack)
    assert done.returncode == 2
    assert str(rack) in done.stderr

"""The benchmark runs: what it measures is not judged here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.figures import OURS, UNPLUGGED

pytestmark = pytest.mark.system


def test_a_quick_run_measures_every_contender() -> None:
    command = [sys.executable, "-m", "tests.bench", "--quick", "--output", "json"]
    report = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert set(report["attach"]) == {"bridge", "ptp", OURS, UNPLUGGED}
    assert set(report["routes"]) == {"gobgpd (gRPC)", "FRR network (vty)", "FRR redistribute kernel", "routed"}
    assert {figures["add"]["count"] for figures in report["attach"].values()} == {32}
    assert {figures["fib"]["count"] for figures in report["routes"].values()} == {3}
    assert {racks: figures["host_routes"] for racks, figures in report["audits"].items()} == {"1": 1012, "2": 2024}
    assert len(report["goals"]) == 4
    assert all(figures["fib"]["p50"] > figures["wire"]["p50"] for figures in report["routes"].values())

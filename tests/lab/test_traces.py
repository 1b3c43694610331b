from __future__ import annotations

import pytest

from containerlab.lab import STATE, Lab
from containerlab.traces import Traces

pytestmark = pytest.mark.lab


def test_a_lab_that_runs_leaves_traces_and_one_that_never_was_leaves_none(lab: Lab) -> None:
    traces = Traces(lab)
    inits = {f"process {node.pid}" for node in lab.nodes.values()}
    assert traces.namespaces >= 3 * len(inits)
    assert {f"folder {STATE / lab.name}", *inits} <= set(traces.left())
    nowhere = Traces(Lab.named("never-was"))
    assert (nowhere.namespaces, nowhere.left()) == (0, [])

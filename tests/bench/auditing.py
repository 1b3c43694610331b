"""The audit's comparison at scale: synthetic racks, full of pods, streamed through it one after the other.

Every rack has 40 servers and 506 pods; each of its ToRs has a host route per pod and a route to every pool of every
other rack. Two spines have all pools. Each size runs in a process of its own, whose peak memory is all that it took:
the racks are made one at a time, which costs time that is not the comparison's and is counted apart.

``python -m tests.bench.auditing RACKS`` measures one size.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

from routed.audit.compare import PoolMap, RackResult, compare_fabric, compare_rack
from routed.audit.model import Kind, RackPlan, RackView, Route, SwitchView
from tests.bench.figures import Audit
from tests.fixtures import audits

PODS = 506
SERVERS = 40


def measure(sizes: Sequence[int], progress: Callable[[str], None]) -> dict[int, Audit]:
    """Measure fabrics of these numbers of racks."""
    found = {}
    for racks in sizes:
        progress(f"auditing {racks} racks")
        command = [sys.executable, "-m", "tests.bench.auditing", str(racks)]
        found[racks] = Audit(**json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
    return found


def run(racks: int) -> Audit:
    """Compare a fabric; AssertionError when anything but full pools is found in it."""
    plans = [audits.plan(number, SERVERS) for number in range(1, racks + 1)]
    everywhere = [route for plan in plans for route in audits.pool_routes(plan)]
    spines = {name: audits.spine(name, plans) for name in ("sp1", "sp2")}
    making, comparing = Stopwatch(), Stopwatch()
    host_routes = routes = 0
    results: list[RackResult] = []
    with comparing:
        pools = PoolMap(plans)
    for plan in plans:
        with making:
            view = _rack(plan, everywhere)
        with comparing:
            results.append(compare_rack(view, pools))
        host_routes += sum(number or 0 for number in results[-1].summary.host_routes.values())
        routes += sum(len(tor.routes) for tor in view.tors.values() if isinstance(tor, SwitchView))
    with comparing:
        beyond = list(compare_fabric(plans, results, spines))
    kinds = Counter(finding.kind for result in results for finding in result.findings)
    assert not beyond
    assert kinds == {Kind.POOL_EXHAUSTED: racks}, kinds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Audit(host_routes, routes, making.cpu_s, comparing.cpu_s, comparing.wall_s, peak)


class Stopwatch:
    """Adds up the time spent inside, by the clock and of this process."""

    def __init__(self) -> None:
        self.wall_s = self.cpu_s = 0.0

    def __enter__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        wall, cpu = self._began
        self.wall_s += time.perf_counter() - wall
        self.cpu_s += time.process_time() - cpu


def _rack(plan: RackPlan, everywhere: Sequence[Route]) -> RackView:
    """Return a full rack whose ToRs know every pool; its own are told twice, which changes nothing."""
    view = audits.healthy(plan, PODS)
    for tor in plan.rack.tors:
        view = audits.with_route(view, tor.name, *everywhere)
    return view


if __name__ == "__main__":
    print(json.dumps(asdict(run(int(sys.argv[1])))))  # noqa: T201 - the answer to the process that measures

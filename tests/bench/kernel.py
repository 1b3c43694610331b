"""`make kernel-bench`: what forwards pods' packets on one server, beside other ways, in a kernel that has all of them.

The kernel is User-Mode Linux: one CPU, no NIC. Its figures are good for ratios and for nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench.report import Grid, markdown, put, table
from tests.kernel.machine import Machine, MachineError, missing
from tests.kernel.relay import FOLDER, REPORTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

BEGIN = "<!-- ratios: written by make kernel-bench, do not edit -->"
END = "<!-- end of ratios -->"
BASELINE = "kernel bridge + veth"
_FILE = "tests/kernel/ratios.py"
_PATIENCE_S = 600.0


def main() -> None:
    """Measure, print, and write what was asked for."""
    parser = argparse.ArgumentParser(prog="make kernel-bench", description="Ratios of ways between pods of one server.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the table between the markers of this document")
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    try:
        samples = measured()
    except MachineError as error:
        sys.exit(str(error))
    grid = ratios(samples, load)
    Console(width=None if sys.stdout.isatty() else 120).print(table(grid))
    if arguments.write:
        put(arguments.write, markdown(grid), BEGIN, END)


def measured() -> Mapping[str, Mapping[str, Sequence[int]]]:
    """Boot a machine, return each way's samples of each test; MachineError when it does not get that far."""
    if (reason := missing()) is not None:
        raise MachineError(reason)
    with TemporaryDirectory(prefix="kernel-bench-") as folder:
        environment = {FOLDER: folder, "HOME": os.environ.get("HOME", "/root"), "LANG": "C.UTF-8"}
        machine = Machine(Path(folder), ["-p", "no:cacheprovider", _FILE], environment)
        try:
            for report in machine.lines(REPORTS, _PATIENCE_S):
                if report["outcome"] == "failed":
                    raise MachineError(f"{_FILE}: {report['longrepr']['reprcrash']['message']}")
                found = dict(report["user_properties"])
                if "ratios" in found:
                    samples: Mapping[str, Mapping[str, Sequence[int]]] = json.loads(found["ratios"])
                    return samples
            raise MachineError(f"the machine has ended; its console ends with:\n{machine.tail()}")
        finally:
            machine.kill()


def ratios(samples: Mapping[str, Mapping[str, Sequence[int]]], load: float) -> Grid:
    """Return each way's figures over the baseline's.

    The median is of ratios of the same round. The best is best round over best round: what else the machine does only
    ever makes a round worse.
    """
    rows = tuple(
        (
            way,
            *_cells(found["tcp_bw"], samples[BASELINE]["tcp_bw"], max),
            *_cells(found["tcp_lat"], samples[BASELINE]["tcp_lat"], min),
        )
        for way, found in samples.items()
    )
    rounds = len(samples[BASELINE]["tcp_bw"])
    head = ("pod to pod by", "throughput ÷ bridge, median", "best", "latency ÷ bridge, median", "best")
    return Grid(f"Pods of one server, in one kernel: {rounds} rounds, load {load:.1f} when they began", head, rows)


def _cells(ours: Sequence[int], theirs: Sequence[int], best: Callable[[Sequence[int]], int]) -> tuple[str, str]:
    found = [one / other for one, other in zip(ours, theirs, strict=True)]
    return f"{median(found):.2f}", f"{best(ours) / best(theirs):.2f}"


if __name__ == "__main__":
    main()

"""`make bench`: figures of routed beside the standard plugins and other BGP speakers, all taken in one run.

What counts are ratios: each round meets every contender, so whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench import attaching, auditing, contenders, leasing, machine, routes, speakers
from tests.bench.agent import Attaching, routed
from tests.bench.figures import FABRIC, OURS
from tests.bench.report import Report, write
from tests.gotools import GoMissingError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


def main() -> None:
    """Measure, print, and write what was asked for."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leave nothing behind then, either
    arguments = _arguments()
    described = machine.describe()
    console = Console(stderr=True)
    with ExitStack() as stack, console.status("") as status:

        def progress(step: str) -> None:
            status.update(step)
            if not console.is_terminal:
                console.print(step, highlight=False)

        report = _measure(arguments, described, stack, progress)
    out = Console(width=None if sys.stdout.isatty() else 120)
    if arguments.output == "json":
        out.print_json(report.json())
    else:
        out.print(*(f"{key}: {value}" for key, value in described.items()), *report.tables(), sep="\n", highlight=False)
    if arguments.write:
        write(arguments.write, report)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description="Figures beside other plugins and other speakers.")
    parser.add_argument("--quick", action="store_true", help="few samples: shows that it works, proves nothing")
    parser.add_argument("--output", choices=("table", "json"), default="table")
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help="put the tables between the markers of this document"
    )
    parser.add_argument("--others-only", action="store_true", help=f"leave {OURS} out")
    return parser.parse_args()


def _measure(
    arguments: argparse.Namespace, described: Mapping[str, str], stack: ExitStack, progress: Callable[[str], None]
) -> Report:
    pods, attach_rounds, route_rounds = (16, 2, 3) if arguments.quick else (50, 4, 100)
    leases = (5, 20, 10) if arguments.quick else (40, 506, 200)  # servers, addresses, pods
    racks = (1, 2) if arguments.quick else (10, 100, FABRIC)
    progress("starting ToRs, speakers and plugins")
    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
    ours, bare, frr_rack, gobgp_rack = routes.racks(stack, 4)
    plugins = [
        stack.enter_context(contenders.bridge(scratch, pods)),
        stack.enter_context(contenders.ptp(scratch, pods)),
    ]
    announcers = [*stack.enter_context(speakers.gobgp(gobgp_rack)), *stack.enter_context(speakers.frr(frr_rack))]
    if not arguments.others_only:
        contender = stack.enter_context(routed(ours, pods))
        plugins += [contender, stack.enter_context(routed(bare, pods, ready_slots=0))]
        announcers.append(Attaching(ours, contender.plugin, contender.pods[0]))
    attach = attaching.measure(plugins, attach_rounds, progress)
    announced = routes.measure(announcers, route_rounds, progress)
    if arguments.others_only:
        return Report(described, attach, announced)
    audits = auditing.measure(racks, progress)
    try:
        claims, allocation = asyncio.run(leasing.measure(scratch, *leases, progress))
    except GoMissingError as error:
        progress(f"leases: not measured: {error}")
        return Report(described, attach, announced, audits=audits)
    return Report(described, attach, announced, claims, allocation, audits)


if __name__ == "__main__":
    main()

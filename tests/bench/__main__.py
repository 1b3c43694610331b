"""`make bench`: figures of routed beside the standard plugins and other BGP speakers, all taken in one run.

What counts are ratios: each round meets every contender, so whatever else the machine does meets them alike.
"""

from __future__ import annotations

import argparse
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from rich.console import Console

from tests.bench import attaching, auditing, contenders, machine, routes, speakers
from tests.bench.agent import Attaching, routed
from tests.bench.figures import FABRIC, OURS
from tests.bench.report import Report, write

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
    racks = (1, 2) if arguments.quick else (10, 100, FABRIC)
    progress("starting ToRs, speakers and plugins")
    scratch = Path(stack.enter_context(TemporaryDirectory(prefix="bench-")))
    ours, frr_rack, gobgp_rack = routes.racks(stack, 3)
    plugins = [
        stack.enter_context(contenders.bridge(scratch, pods)),
        stack.enter_context(contenders.ptp(scratch, pods)),
    ]
    announcers = [*stack.enter_context(speakers.gobgp(gobgp_rack)), *stack.enter_context(speakers.frr(frr_rack))]
    if not arguments.others_only:
        contender = stack.enter_context(routed(ours, pods))
        plugins.append(contender)
        announcers.append(Attaching(ours, contender.plugin, contender.pods[0]))
    return Report(
        machine=described,
        attach=attaching.measure(plugins, attach_rounds, progress),
        routes=routes.measure(announcers, route_rounds, progress),
        audits={} if arguments.others_only else auditing.measure(racks, progress),
    )


if __name__ == "__main__":
    main()

"""`make chaos`: random faults and pods that come and go, for a time; then everything must be as if nothing had been."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from containerlab.errors import LabError
from tests.lab.chaos.invariants import Invariant
from tests.lab.chaos.runner import Run, Verdict, prepared


def main() -> None:
    """Print the seed, then what happens, then the verdict; exit 1 when something is not as it must be."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leave nothing behind then, either
    arguments = _arguments()
    console = Console(width=None if sys.stdout.isatty() else 200, highlight=False)
    console.print(f"seed {arguments.seed}: make chaos SEED={arguments.seed} SECONDS={arguments.seconds:g}")

    def report(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    with prepared(arguments.name, report) as (lab, servers):
        verdict = Run(lab, servers, arguments.seed, report).play(arguments.seconds)
    _show(verdict, console)
    if not verdict.good:
        with tempfile.NamedTemporaryFile("w", prefix=f"chaos-{arguments.seed}-", suffix=".json", delete=False) as file:
            file.write(verdict.json())
        console.print(f"steps, findings and the ends of the agents' logs: {Path(file.name)}", markup=False)
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make chaos", description="Faults and churn from a seed on the lab.")
    parser.add_argument("--seconds", type=float, default=120, help="the run ends with the step that passes this time")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000), help="default: any")
    parser.add_argument("--name", default=f"chaos-{os.getpid()}", help="of the lab")
    return parser.parse_args()


def _show(verdict: Verdict, console: Console) -> None:
    counts = Counter(finding.invariant for finding in verdict.findings)
    table = Table("invariant", "violations", title=f"After {len(verdict.steps)} steps", title_justify="left")
    for invariant in Invariant:
        table.add_row(invariant, f"[red]{counts[invariant]}[/]" if counts[invariant] else "[green]0[/]")
    console.print(table)
    for finding in verdict.findings:
        console.print(str(finding), markup=False, soft_wrap=True)
    if verdict.failure:
        console.print(f"The run could not go on: {verdict.failure}", markup=False, soft_wrap=True)
    console.print(f"All was well again {verdict.slowest_s:.1f} s after the last mend, at the latest.")
    console.print(f"seed {verdict.seed}: {'good' if verdict.good else 'BAD'}")


if __name__ == "__main__":
    try:
        main()
    except LabError as error:
        sys.exit(f"chaos: {error}")

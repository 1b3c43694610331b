"""`make matrix`: everything that may happen to a rack, and what it costs, packet by packet.

Exit status 0 when every goal is met, every control bites and nothing stays black; 1 otherwise.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from containerlab.lab import Lab, silent
from tests.bench import machine
from tests.lab.matrix import anatomy, catalog, measure
from tests.lab.matrix.model import Detection, Detector, Event, Row
from tests.lab.matrix.report import Report, write
from tests.lab.matrix.site import MEMBERS, Site
from tests.lab.matrix.traffic import FABRIC

LACP_MS = 3000.0
"""Three missed LACPDUs, one a second (IEEE 802.1AX, short timeout)."""
REFERENCES = 3
"""Link cuts that the carrier's detection time is the worst of."""
Say = Callable[[str], None]


def main() -> int:
    """Measure, print, and write what was asked for."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # leave nothing behind then, either
    arguments = _arguments()
    begin = time.monotonic()

    def say(line: str) -> None:
        sys.stdout.write(f"{time.monotonic() - begin:7.1f} s  {line}\n")
        sys.stdout.flush()

    chosen = [catalog.BY_NAME[name] for name in arguments.only or catalog.BY_NAME]
    described = machine.describe()
    with Lab.up(name=f"matrix-{os.getpid()}", report=say) as lab:
        lab.wait_ready()
        lab.report = silent
        site = Site.build(lab)
        report = _measure(site, chosen, say, described, repeat=arguments.repeat)
    Console(width=None if sys.stdout.isatty() else 240).print(report.table())
    for row in report.missed:
        say(f"missed: {row.event}: {row.title}: {report.verdict(row)}")
    if arguments.write:
        write(arguments.write, report, catalog.EVENTS)
    return 1 if report.missed else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.lab.matrix", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=sorted(catalog.BY_NAME), help="this event; again for more")
    parser.add_argument("--repeat", type=int, default=1, metavar="N", help="measure every step N times, keep the worst")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures into this page, JSON beside it")
    return parser.parse_args()


def _measure(site: Site, chosen: list[Event], say: Say, described: dict[str, str], *, repeat: int) -> Report:
    site.rest()
    steady, spread = _steady(site, say)
    # The reference comes next, whatever was chosen: budgets that a detector sets are multiples of it.
    cuts = measure.run(catalog.LINK_CUT, site, say, repeat=max(repeat, REFERENCES))
    milestones = anatomy.link_cut(site)
    times = {
        Detector.CARRIER: cuts[0].losses[FABRIC].worst_ms,
        Detector.PROBE: anatomy.probe_ms(site),
        Detector.LACP: LACP_MS,
        Detector.BFD: anatomy.bfd_ms(site.lab),
    }
    detection = Detection({str(name): value for name, value in times.items()}, milestones)
    say(", ".join(f"{name}: {value:.0f} ms" for name, value in detection.times.items()))
    rows: list[Row] = [steady, *cuts]
    for event in chosen:
        if event not in (catalog.STEADY, catalog.LINK_CUT):
            rows += _event(event, site, say, repeat)
    return Report(described, detection, rows, spread)


def _event(event: Event, site: Site, say: Say, repeat: int) -> list[Row]:
    """Measure an event; one that fails is a row that says why, and the next one runs all the same."""
    try:
        return measure.run(event, site, say, repeat=repeat)
    except measure.FAILURES as error:
        said = str(error).splitlines()[0]
        say(f"{event.name}: FAILED: {said}")
        return [Row(event=event.name, title=event.about, losses={}, healed=False, took_s=0, error=said)]


def _steady(site: Site, say: Say) -> tuple[Row, dict[str, dict[str, float]]]:
    """Send steady traffic for a while; return what it lost and the share of each of the bond's members."""
    before = site.members()
    [row] = measure.run(catalog.STEADY, site, say)
    after = site.members()
    moved = {member: {way: after[member][way] - before[member][way] for way in after[member]} for member in MEMBERS}
    shares = {
        member: {way: number / sum(moved[one][way] for one in MEMBERS) for way, number in ways.items()}
        for member, ways in moved.items()
    }
    say("shares: " + ", ".join(f"{name} rx {share['rx']:.0%} tx {share['tx']:.0%}" for name, share in shares.items()))
    return row, shares


if __name__ == "__main__":
    sys.exit(main())

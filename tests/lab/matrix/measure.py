"""Measures events: traffic before, the deed, traffic until all flows arrive again, and what was lost since the deed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from containerlab.errors import LabError
from tests.lab.matrix.model import Control, Directions, Event, Row, Step, worst
from tests.lab.matrix.site import Site
from tests.lab.matrix.traffic import HEALED_S, STEADY_S, Traffic

SETTLE_S = 60
"""Before an event, everything must arrive within this time."""
Say = Callable[[str], None]


class NotSteadyError(Exception):
    """Traffic did not flow before anything had happened."""


@contextmanager
def usual(site: Site) -> Iterator[Directions]:
    """Send on all directions between the pods that are there."""
    yield site.directions()


def run(event: Event, site: Site, say: Say, *, repeat: int = 1, controls: bool = True) -> list[Row]:
    """Measure an event's steps as often as asked for, its controls once; the site is put right whatever happens."""
    runs: dict[str, list[Row]] = {step.title: [] for step in event.steps}
    for _ in range(repeat):
        with _put_right(event.undo, site), (event.scene or usual)(site) as directions:
            site.rest()
            for step in event.steps:
                row = measure(step, site, directions, event.name)
                say(f"{event.name}: {row.title}: {brief(row)}")
                runs[step.title].append(row)
    rows = [worst(found) for found in runs.values()]
    if controls:
        rows += [_control(control, event, site, say) for control in event.controls]
    return rows


def measure(step: Step, site: Site, directions: Directions, event: str) -> Row:
    """Measure one step."""
    with Traffic(directions, site.rate_hz) as traffic:
        if not step.dark and not traffic.await_arrival(STEADY_S, time.monotonic() + SETTLE_S, share=1):
            raise NotSteadyError(f"{step.title}: packets are lost before it: {', '.join(traffic.lossy(STEADY_S))}")
        site.traffic = traffic
        traffic.probe.mark()
        begin = time.monotonic()
        step.do(site)
        took_s = time.monotonic() - begin
        # However long the deed took, there is time afterwards to see that all flows arrive.
        until = begin + max(step.limit_s, took_s + 5 * HEALED_S)
        healed = traffic.await_arrival(HEALED_S, until, not_before=begin + step.watch_s)
        losses = traffic.stop()
    return Row(
        event=event,
        title=step.title,
        losses=losses,
        healed=healed or step.stays_dark,
        took_s=round(took_s, 2),
        load=round(os.getloadavg()[0], 1),
        budget=step.budget,
        facts=step.facts,
    )


def brief(row: Row) -> str:
    """Say in one line what was lost."""
    lost = [f"{name} {loss}" for name, loss in row.losses.items() if loss.packets]
    return (", ".join(lost) or "nothing lost") + ("" if row.healed else "; NOT HEALED")


def _control(control: Control, event: Event, site: Site, say: Say) -> Row:
    # What the deed broke is mended first: the scene ends with an agent that needs its sessions.
    with control.scene(site) as directions, _put_right(control.undo, site):
        site.rest()
        control.prepare(site)
        row = measure(control.step, site, directions, event.name)
    bites = control.bites(row.losses)
    say(f"{event.name}: control {control.title}: {brief(row)}: {'bites' if bites else 'DOES NOT BITE'}")
    return Row(
        event=event.name,
        title=control.title,
        losses=row.losses,
        healed=row.healed,
        took_s=row.took_s,
        load=row.load,
        control=True,
        bites=bites,
        facts=row.facts,
    )


@contextmanager
def _put_right(undo: Callable[[Site], None], site: Site) -> Iterator[None]:
    try:
        yield
    finally:
        undo(site)


FAILURES = (NotSteadyError, LabError, AssertionError, OSError)
"""What a measurement may end with; the others still run."""

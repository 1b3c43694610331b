"""Time single routes, one way to announce after the other, so that noise of the machine meets all alike."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.bench.figures import Route, Summary
from tests.bench.watch import Watch
from tests.fixtures.tors import Rack, until

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.bench.speakers import Announcer

_SESSION_TIMEOUT_S = 60.0


def measure(announcers: Sequence[Announcer], rounds: int, progress: Callable[[str], None]) -> Mapping[str, Route]:
    """Announce ``rounds`` routes with each announcer; sessions must come up within a minute."""
    samples: defaultdict[str, list[tuple[float, ...]]] = defaultdict(list)
    with ExitStack() as stack:
        watches: dict[int, Watch] = {}
        for announcer in announcers:
            if id(announcer.rack) not in watches:
                watches[id(announcer.rack)] = stack.enter_context(Watch(announcer.rack.tors))
            for tor in announcer.rack.tors:
                until(tor.established, f"{announcer.name}: session with {tor.name}", _SESSION_TIMEOUT_S)
        for number in range(rounds + 1):
            for announcer in announcers:
                sample = _one(announcer, watches[id(announcer.rack)])
                if number:  # the first round warms up
                    samples[announcer.name].append(sample)
            progress(f"routes: {number} of {rounds}")
    return {name: Route(*(Summary.of(column) for column in zip(*rows, strict=True))) for name, rows in samples.items()}


def _one(announcer: Announcer, watch: Watch) -> tuple[float, ...]:
    """Announce and withdraw one route; returns the four figures of a `Route` in ms."""
    watch.forget()
    route = announcer.announce()
    wire_ns, fib_ns = watch.wait("wire", route.prefix), watch.wait("fib", route.prefix)
    announcer.withdraw(route)
    watch.wait("gone", route.prefix)
    durations_ns = (
        route.returned_ns - route.called_ns,
        wire_ns - route.called_ns,
        wire_ns - route.returned_ns,
        fib_ns - route.returned_ns,
    )
    return tuple(duration / 1e6 for duration in durations_ns)


def racks(stack: ExitStack, count: int) -> list[Rack]:
    """Start racks, each a host and two ToRs, that live as long as the stack."""
    started = []
    for _ in range(count):
        rack = Rack()
        stack.callback(rack.close)
        rack.start()
        started.append(rack)
    return started

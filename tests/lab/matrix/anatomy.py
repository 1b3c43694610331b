"""How fast this lab notices: one link cut taken apart, and the timers that the switches were told.

Times are those of the kernels' own messages (``ip -ts monitor``) and of the agent's log: one clock, the machine's.
"""

from __future__ import annotations

import contextlib
import json
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from statistics import median

from containerlab import faults
from containerlab.agents import LOG
from containerlab.lab import Lab
from tests.fabric import eventually
from tests.lab.matrix.site import Site

CUT, PORT, MEMBER, TOR = "r1a:s11", "s11", "etha", "r1a"
SPINES = ("sp1", "sp2")
WATCHED = (TOR, "s11", *SPINES)
NEIGHBOUR = "10.254.1.2"
"""The spine, as the ToR sees it."""
_LINE = re.compile(r"^\[([^]]+)\] (.*)\n", re.MULTILINE)
_READY = "192.0.2.255"
Sighting = tuple[str, str, float]
"""Node, what its kernel said, when."""


def bfd_ms(lab: Lab) -> float:
    """Return how long BFD between the switches takes to miss a neighbour, as they agreed on it."""
    [peer] = [peer for peer in json.loads(lab.vtysh(TOR, "show bfd peers json")) if peer["peer"] == NEIGHBOUR]
    return float(peer["remote-detect-multiplier"] * max(peer["remote-transmit-interval"], peer["receive-interval"]))


def link_cut(site: Site, times: int = 3) -> dict[str, float]:
    """Cut the tested server's cable a few times and return the milestones: the median of each, ms after the cut."""
    seen: dict[str, list[float]] = {}
    for _ in range(times):
        site.rest()
        for what, at_ms in _once(site).items():
            seen.setdefault(what, []).append(at_ms)
    site.rest()
    return dict(sorted(((what, median(found)) for what, found in seen.items()), key=lambda item: item[1]))


def _once(site: Site) -> dict[str, float]:
    host, pod = str(site.tested.rack.servers["s11"].addresses[0]), site.pods["s11"][0].address(4)
    milestones: Mapping[str, Callable[[str, str], bool]] = {
        "the server's kernel: carrier lost": lambda node, said: node == "s11" and f" {MEMBER}@" in said,
        "the ToR daemon: the server's host route removed": lambda node, said: (
            node == TOR and said.startswith(f"Deleted {host} dev gw")
        ),
        "ToR A's kernel: the server by way of the spines": lambda node, said: (
            node == TOR and said.startswith(f"{host} proto bgp")
        ),
        "ToR A's kernel: the pod by way of the spines": lambda node, said: (
            node == TOR and said.startswith(f"{pod} proto bgp") and "up" in said
        ),
        "both spines' kernels: the server behind ToR B alone": lambda node, said: (
            node in SPINES and said.startswith(f"{host} via") and "to-r1b" in said
        ),
        "both spines' kernels: the pod behind ToR B": lambda node, said: (
            node in SPINES and said.startswith(f"{pod} via") and "to-r1b" in said
        ),
    }
    noticed = _listener(site)
    with _monitors(site.lab) as sightings:
        site.lab.cut(CUT)
        try:
            eventually(
                lambda: noticed() and all(_complete(sightings(), told) for told in milestones.values()),
                "every milestone of a link cut",
                10,
            )
        finally:
            site.lab.restore(CUT)
        found = sightings()
    begin = min(at for node, said, at in found if node == TOR and f" {PORT}@" in said)
    result = {what: (max(_first_of_each_node(found, told)) - begin) * 1000 for what, told in milestones.items()}
    result["the agent: the side is cut"] = ((noticed() or begin) - begin) * 1000
    return result


def _complete(found: list[Sighting], told: Callable[[str, str], bool]) -> bool:
    nodes = {node for node, said, _ in found if told(node, said)}
    return bool(nodes) and (not nodes & set(SPINES) or nodes >= set(SPINES))


def _first_of_each_node(found: list[Sighting], told: Callable[[str, str], bool]) -> list[float]:
    first: dict[str, float] = {}
    for node, said, at in found:
        if told(node, said):
            first.setdefault(node, at)
    return list(first.values())


def _listener(site: Site) -> Callable[[], float | None]:
    """Return what tells when the agent has said, from now on, that the side is cut; None while it has not."""
    log = site.tested.node.path(LOG)
    before = len(log.read_text())

    def noticed() -> float | None:
        for line in log.read_text()[before:].splitlines():
            entry = json.loads(line)
            if entry["event"] == "side.changed" and entry["tor"] == TOR and entry["health"] == "cut":
                return datetime.fromisoformat(entry["timestamp"]).timestamp()
        return None

    return noticed


@contextmanager
def _monitors(lab: Lab) -> Iterator[Callable[[], list[Sighting]]]:
    """Let the watched kernels tell of links and routes; yields a function that returns what they have told so far."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for node in WATCHED:
            stack.enter_context(_monitor(lab, node, Path(folder, node)))

        def told() -> list[Sighting]:
            return [sighting for node in WATCHED for sighting in _parse(node, Path(folder, node).read_text())]

        def awake(node: str) -> bool:
            """Make and remove a route: once a monitor has told of one, it misses nothing that comes later."""
            for verb in ("replace", "delete"):
                lab.node(node).run(["ip", "route", verb, "blackhole", _READY])
            return any(where == node and _READY in said for where, said, _ in told())

        for node in WATCHED:
            eventually(lambda node=node: awake(node), f"{node}'s kernel telling")
        yield told


@contextmanager
def _monitor(lab: Lab, node: str, out: Path) -> Iterator[None]:
    with out.open("w") as file:
        process = lab.node(node).popen(["ip", "-o", "-ts", "monitor", "link", "route"], stdout=file)
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _parse(node: str, text: str) -> Iterator[Sighting]:
    for at, said in _LINE.findall(text):
        yield node, said, datetime.fromisoformat(at).timestamp()


def probe_ms(site: Site, times: int = 3) -> float:
    """Return how long the agent's probe takes to notice that a link is silent: the median."""
    found = []
    for _ in range(times):
        site.rest()
        noticed = _listener(site)
        begin = time.time()
        faults.mute(site.lab, CUT)
        try:
            at = eventually(noticed, "the agent noticing a silent link", 10)
        finally:
            faults.unmute(site.lab, CUT)
        found.append((at - begin) * 1000)
    return median(found)

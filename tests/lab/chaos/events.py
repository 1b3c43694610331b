"""What befalls the lab, drawn from a seed: faults, and the pods that come and go meanwhile. Pure.

A run is a sequence of steps. Which ones, depends on the seed and on nothing else: the draw keeps its own books of the
pods that exist, so neither the clock nor what the lab does to an event changes the next one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

POD_LIMIT = 12
"""Pods on a server; above, pods rather go than come."""
CROWD = 6
"""Pods that come or go at once, at most."""
HEAD_START_S = 0.3
"""About what a crowd needs: faults strike in the middle of it."""
LONGEST_S = 4.0
"""Longer than a BGP hold time's third, shorter than the restart time; what lasts longer is the failure matrix's."""


@dataclass(frozen=True, slots=True)
class Site:
    """The names that events can be about."""

    tors: Mapping[str, tuple[str, ...]]
    """Server -> its ToRs."""
    spines: tuple[str, ...]

    @property
    def servers(self) -> tuple[str, ...]:
        """All servers."""
        return tuple(self.tors)

    @property
    def switches(self) -> tuple[str, ...]:
        """All ToRs."""
        return tuple(dict.fromkeys(tor for pair in self.tors.values() for tor in pair))


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that breaks, and what it is done to: a node, a link "node:interface", a pod "server/name"."""

    kind: str
    target: str

    @property
    def victim(self) -> str:
        """The node that has to live with it; of a server's link, the server."""
        node, _, rest = self.target.replace("/", ":").partition(":")
        return rest if KINDS[self.kind].on == "link" else node

    def clashes(self, other: Fault) -> bool:
        """Whether one of the two would undo the other: they are about the same part of the same node."""
        parts = {KINDS[self.kind].part, KINDS[other.kind].part}
        return self.victim == other.victim and (len(parts) == 1 or EVERYTHING in parts)

    def __str__(self) -> str:
        return f"{self.kind}: {self.target}"


@dataclass(frozen=True, slots=True)
class Churn:
    """What a kubelet does with some pods of a server, all at once."""

    kind: str
    server: str
    pods: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.kind} on {self.server}: {' '.join(self.pods) or '-'}"


@dataclass(frozen=True, slots=True)
class Step:
    """Faults and churn at the same time; afterwards everything is mended and must converge."""

    number: int
    faults: tuple[Fault, ...]
    churns: tuple[Churn, ...]
    """About different pods."""
    head_start_s: float | None
    """How long the churn goes on when the faults strike; None: it begins when they have."""
    lasts_s: float
    mended: tuple[Fault, ...]
    """The faults in the order in which they are undone."""


@dataclass(frozen=True, slots=True)
class Kind:
    """How a kind of fault is drawn."""

    on: str
    """What it is done to: server, tor, router, link (of a server), uplink (of a ToR), pod."""
    part: str
    """Two faults of one step never share a part of a victim: the first would be undone by the second."""
    weight: int = 2


EVERYTHING = "everything"
"""The part that all others belong to."""
KINDS: Mapping[str, Kind] = {
    "agent killed": Kind("server", "agent", 4),
    "agent stopped": Kind("server", "agent", 3),
    "agent and ExaBGP killed": Kind("server", "agent", 3),
    "agent killed and started": Kind("server", "agent", 3),
    "agent hangs": Kind("server", "agent"),
    "ExaBGP killed": Kind("server", "speaker", 3),
    "ExaBGP hangs": Kind("server", "speaker"),
    "vswitchd killed": Kind("server", "ovs"),
    "ovsdb-server killed": Kind("server", "ovs"),
    "Open vSwitch killed": Kind("server", "ovs"),
    "vswitchd hangs": Kind("server", "ovs"),
    "ovsdb-server hangs": Kind("server", "ovs"),
    "link flaps": Kind("link", "links"),
    "link cut": Kind("link", "links", 3),
    "silent towards the server": Kind("link", "links"),
    "silent towards the ToR": Kind("link", "links"),
    "both links cut": Kind("server", "links", 1),
    "power lost": Kind("tor", EVERYTHING),
    "bgpd killed": Kind("router", "bgpd"),
    "sessions cleared": Kind("tor", "bgpd"),
    "uplink cut": Kind("uplink", "uplinks"),
    "all uplinks cut": Kind("tor", "uplinks", 1),
    "all flows deleted": Kind("server", "flows"),
    "flow of nobody": Kind("server", "flows"),
    "stray port": Kind("server", "ports"),
    "port of somebody else": Kind("server", "ports", 1),
    "slots unmounted": Kind("server", "slots"),
    "flows of a pod deleted": Kind("pod", "flows"),
    "wire deleted": Kind("pod", "wires"),
    "interface deleted": Kind("pod", "interface"),
    "addresses flushed": Kind("pod", "interface"),
}
"""Every fault that there is; how each is done and undone is in `faults`."""


@dataclass
class Draw:
    """An endless sequence of steps."""

    site: Site
    random: random.Random
    pods: dict[str, list[str]] = field(default_factory=dict)
    """Server -> the pods that it has after the step."""
    _named: int = 0

    def __iter__(self) -> Iterator[Step]:
        """Draw step after step; the first one only brings pods."""
        first = tuple(self._add(server, 3) for server in self.site.servers)
        yield Step(0, (), first, head_start_s=None, lasts_s=0.0, mended=())
        number = 0
        while True:
            number += 1
            yield self._step(number)

    def _step(self, number: int) -> Step:
        churns, busy = self._churns()
        faults = self._faults(busy)
        return Step(
            number,
            faults,
            churns,
            head_start_s=self.random.choice((None, round(self.random.uniform(0.0, HEAD_START_S), 2))),
            lasts_s=round(self.random.uniform(0.0, LONGEST_S), 1),
            mended=tuple(self.random.sample(faults, len(faults))),
        )

    def _faults(self, busy: set[str]) -> tuple[Fault, ...]:
        found: list[Fault] = []
        for _ in range(self.random.choice((1, 1, 2, 2, 3))):
            names, weights = zip(*((name, kind.weight) for name, kind in KINDS.items()), strict=True)
            [name] = self.random.choices(names, weights)
            targets = self._targets(KINDS[name].on, busy)
            if not targets:
                continue
            fault = Fault(name, self.random.choice(targets))
            if not any(fault.clashes(other) for other in found):
                found.append(fault)
        return tuple(found)

    def _targets(self, on: str, busy: set[str]) -> Sequence[str]:
        site = self.site
        match on:
            case "server":
                return site.servers
            case "tor":
                return site.switches
            case "router":
                return (*site.switches, *site.spines)
            case "link":
                return [f"{tor}:{server}" for server, tors in site.tors.items() for tor in tors]
            case "uplink":
                return [f"{tor}:up{number}" for tor in site.switches for number in range(1, len(site.spines) + 1)]
        return [f"{server}/{pod}" for server, pods in self.pods.items() for pod in pods if pod not in busy]

    def _churns(self) -> tuple[tuple[Churn, ...], set[str]]:
        """Draw what happens to pods, each of them at most once; returns also which are concerned."""
        found: list[Churn] = []
        busy: set[str] = set()
        for _ in range(self.random.randint(1, 4)):
            server = self.random.choice(self.site.servers)
            free = [pod for pod in self.pods[server] if pod not in busy]
            kinds: list[tuple[Callable[[str, list[str]], Churn], int]] = [(self._more, 4), (self._almost, 1)]
            if free:
                kinds += [(self._less, 4), (self._again, 1)]
            if len(self.pods[server]) > POD_LIMIT:
                del kinds[0]
            [make] = self.random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])
            churn = make(server, free)
            busy.update(churn.pods)
            found.append(churn)
        if self.random.random() < 0.2:
            found.append(Churn("GC", self.random.choice(self.site.servers), ()))
        return tuple(found), busy

    def _more(self, server: str, _free: list[str]) -> Churn:
        return self._add(server, self.random.choice((1, 1, 2, CROWD)))

    def _add(self, server: str, number: int) -> Churn:
        names = self._names(number)
        self.pods.setdefault(server, []).extend(names)
        return Churn("ADD", server, names)

    def _almost(self, server: str, _free: list[str]) -> Churn:
        return Churn("ADD and DEL at once", server, self._names(self.random.choice((1, 2, CROWD))))

    def _names(self, number: int) -> tuple[str, ...]:
        names = tuple(f"p{self._named + index}" for index in range(number))
        self._named += number
        return names

    def _less(self, server: str, free: list[str]) -> Churn:
        gone = self.random.sample(free, min(len(free), self.random.choice((1, 2, CROWD))))
        self.pods[server] = [pod for pod in self.pods[server] if pod not in gone]
        kinds = ("DEL", "DEL twice", "namespace gone, then DEL", "namespace gone, then GC")
        return Churn(self.random.choices(kinds, (4, 2, 2, 2))[0], server, tuple(gone))

    def _again(self, server: str, free: list[str]) -> Churn:
        return Churn("ADD again", server, (self.random.choice(free),))


def draw(seed: int, site: Site) -> Iterator[Step]:
    """Return the steps of a seed, without end."""
    return iter(Draw(site, random.Random(seed)))  # noqa: S311 - a reproducible draw is the point

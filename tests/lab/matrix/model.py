"""What the matrix is made of, as values: events, their steps and budgets, controls, and the rows of them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from containerlab.probe import Flow
from tests.lab.matrix.traffic import FABRIC, RATE_HZ, Loss

if TYPE_CHECKING:
    from tests.lab.matrix.site import Site

Deed = Callable[["Site"], None]
Directions = Mapping[str, list[Flow]]
Scene = Callable[["Site"], AbstractContextManager[Directions]]
"""Prepares the site for a measurement, says which flows to send, and puts the site right again."""
PACKET_MS = 1000 / RATE_HZ
"""Nothing shorter can be told apart."""
FACTOR = 1.5


class Detector(StrEnum):
    """What notices a failure; how long that takes is measured in the same run."""

    CARRIER = "carrier"
    BFD = "BFD"
    LACP = "LACP"
    PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a step may lose, in any direction but the fabric's own."""

    packets: int | None = None
    detector: Detector | None = None
    """As long as this takes, times FACTOR."""
    within_s: float | None = None
    directions: tuple[str, ...] | None = None
    """Only these count: the others are dark by nature."""

    def limit_ms(self, detection: Mapping[str, float]) -> float | None:
        """Return the longest gap that keeps the budget; None where packets are counted, or nothing is promised."""
        if self.detector is not None:
            return FACTOR * detection[self.detector] + PACKET_MS
        return None if self.within_s is None else self.within_s * 1000

    def kept(self, losses: Mapping[str, Loss], detection: Mapping[str, float]) -> bool:
        """Tell whether the losses of a step keep it."""
        counted = [
            loss for name, loss in losses.items() if name != FABRIC and name in (self.directions or losses.keys())
        ]
        limit = self.limit_ms(detection)
        if self.packets is not None and sum(loss.packets for loss in counted) > self.packets:
            return False
        return not any(loss.open or (limit is not None and loss.worst_ms > limit) for loss in counted)

    def text(self, detection: Mapping[str, float]) -> str:
        """Say it, for a table."""
        limit = self.limit_ms(detection)
        if limit is None:
            what = f"{self.packets} packets lost" if self.packets is not None else "heals"
        else:
            what = f"≤ {limit:.0f} ms"
        where = "" if self.directions is None else f", {', '.join(self.directions)}"
        return f"{what} ({self.detector} times {FACTOR:g}){where}" if self.detector else f"{what}{where}"


NONE_LOST = Budget(packets=0)
HEALS = Budget()


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that happens while traffic flows; a row of the table."""

    title: str
    do: Deed
    budget: Budget
    limit_s: float = 30
    """All flows must arrive again within this time, whatever the budget says."""
    watch_s: float = 3
    """How long to look at least."""
    dark: bool = False
    """It begins while not all flows arrive."""
    stays_dark: bool = False
    """It cannot heal before the next step: a server without any cable."""
    facts: str = ""
    """What was measured with hand-made steps before there was an agent: the directions in their order, in ms."""


def no_deed(_site: Site) -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Control:
    """The same without the safeguard: what it saves."""

    title: str
    scene: Scene
    step: Step
    bites: Callable[[Mapping[str, Loss]], bool]
    """Whether the losses show that the safeguard was missing."""
    undo: Deed = no_deed
    prepare: Deed = no_deed


@dataclass(frozen=True, slots=True)
class Event:
    """Something that may happen to a rack: struck, watched, mended."""

    name: str
    about: str
    steps: tuple[Step, ...]
    undo: Deed = no_deed
    """Puts right what the steps have done; called whatever happens, so also when there is nothing to put right."""
    scene: Scene | None = None
    """None: pods that are there, all directions."""
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """A step that was measured, perhaps several times: the worst of all."""

    event: str
    title: str
    losses: Mapping[str, Loss]
    healed: bool
    took_s: float
    """How long the deed itself took."""
    load: float = 0
    """Of the machine, over the minute that ended with it."""
    budget: Budget = HEALS
    facts: str = ""
    control: bool = False
    bites: bool | None = None
    runs: int = 1
    error: str = ""

    def met(self, detection: Mapping[str, float]) -> bool:
        """Tell whether the row is as it should be: the budget kept, or the control lossy."""
        if self.error:
            return False
        return bool(self.bites) if self.control else self.healed and self.budget.kept(self.losses, detection)


def worst(rows: Sequence[Row]) -> Row:
    """Return one row for all runs of a step."""
    names = list(rows[0].losses)
    losses = {name: _worst(row.losses[name] for row in rows if name in row.losses) for name in names}
    return replace(
        rows[0],
        losses=losses,
        healed=all(row.healed for row in rows),
        took_s=max(row.took_s for row in rows),
        load=max(row.load for row in rows),
        bites=all(row.bites for row in rows) if rows[0].control else None,
        runs=len(rows),
        error="; ".join(row.error for row in rows if row.error),
    )


def _worst(losses: Iterable[Loss]) -> Loss:
    return max(losses, key=lambda loss: (loss.open, loss.worst_ms, loss.packets))


@dataclass(frozen=True, slots=True)
class Detection:
    """How long this lab takes to notice, in ms; all of it measured or asked in the same run."""

    times: Mapping[str, float] = field(default_factory=dict)
    anatomy: Mapping[str, float] = field(default_factory=dict)
    """Milestones of one link cut: what happened, and how long after the cut."""

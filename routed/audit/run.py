"""One audit from beginning to end: looks, compares rack by rack, looks again at what seems wrong.

A rack is compared as soon as its sources have answered, and what they said is forgotten then, so that memory does not
grow with the fabric. What is wrong in one look alone was in motion, and is not reported.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from routed.audit.compare import PoolMap, RackResult, compare_fabric, compare_rack
from routed.audit.compare.faults import worst_first
from routed.audit.look import Looker
from routed.audit.model import Audit, Finding, Holding, Kind, RackPlan, SwitchView, Unobserved
from routed.audit.settings import AuditSettings

_LOOKS = 3
"""The third one only when the second saw what the first could not."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an audit is."""

    looked_at: str
    """Whoever has just answered, or not; empty while nobody is asked."""
    done: int
    of: int
    look: int
    """1, then 2 for what is looked at again."""


async def run(settings: AuditSettings, progress: Callable[[Progress], None] = lambda _: None) -> Audit:
    """Audit everything that a file names.

    Raises:
        CouldNotObserve: not even the racks could be found out.
        SettingsError: a rack file is wrong, or the audit file does not fit the racks.
    """
    at, began = datetime.now(UTC), time.monotonic()
    audit = _Run(settings, progress)
    findings = await audit.findings()
    return Audit(
        at=at,
        took_s=time.monotonic() - began,
        racks=tuple(audit.results[name].summary for name in sorted(audit.results)),
        findings=tuple(sorted(findings, key=worst_first)),
        observed=len(audit.heard),
        recorded=dict(sorted(audit.recorded.items())),
    )


class _Run:
    def __init__(self, settings: AuditSettings, progress: Callable[[Progress], None]) -> None:
        self._settings, self._progress = settings, progress
        self._looker = Looker(settings, self._note)
        self._plans: Sequence[RackPlan] = ()
        self._pools = PoolMap(())
        self._spines: Mapping[str, SwitchView | Unobserved] = {}
        self._look, self._done, self._of = 0, 0, 0
        self.results: dict[str, RackResult] = {}
        """By rack; the last look's."""
        self.heard: set[str] = set()
        """Who answered the last time."""

    @property
    def recorded(self) -> Mapping[str, datetime]:
        """Who was read from a recording, and of when that is."""
        return self._looker.recorded

    async def findings(self) -> list[Finding]:
        """Return what is wrong in two looks in a row."""
        self._plans = await self._looker.plans()
        self.heard.add("racks")
        self._pools = PoolMap(self._plans)
        found = await self._compare(self._plans)
        while found and self._look < _LOOKS:
            before = found
            await asyncio.sleep(self._settings.confirm_after_s)
            found = await self._compare(_concerned(self._plans, before))
            if not _blind(before) - _blind(found):
                return confirmed(before, found)
        return confirmed(before, found) if found else []

    async def _compare(self, plans: Sequence[RackPlan]) -> list[Finding]:
        """Look at these racks and at the spines; return all that is wrong now, as far as known."""
        self._look += 1
        self._done, self._of = 0, len(self._settings.switches.spines) + sum(map(self._looker.sources, plans))
        holdings = await self._looker.holdings()
        waiting = iter(plans)
        async with asyncio.TaskGroup() as tasks:
            spines = tasks.create_task(self._looker.spines())
            for _ in range(min(self._settings.parallel, len(plans))):
                tasks.create_task(self._work(waiting, holdings))
        self._spines = spines.result()
        beyond = compare_fabric(self._plans, self.results.values(), self._spines)
        return [*(finding for result in self.results.values() for finding in result.findings), *beyond]

    async def _work(
        self, waiting: Iterable[RackPlan], holdings: Mapping[str, Sequence[Holding]] | Unobserved | None
    ) -> None:
        for plan in waiting:
            view = await self._looker.rack(plan, holdings)
            result = compare_rack(view, self._pools, low=self._settings.pools.low)
            if self._look > 1 and any(finding.kind is Kind.MISSING for finding in result.findings):
                view = await self._looker.refusals(view)
                result = compare_rack(view, self._pools, low=self._settings.pools.low)
            self.results[plan.rack.name] = result

    def _note(self, name: str, answered: bool) -> None:
        (self.heard.add if answered else self.heard.discard)(name)
        self._done += name != "holdings"
        self._progress(Progress(name, self._done, self._of, self._look))


def confirmed(before: Iterable[Finding], now: Iterable[Finding]) -> list[Finding]:
    """Return the findings of two looks that hold.

    What could not be observed in either look was not observed; of everything else, some part has to be seen twice: how
    many other faults there are decides how they are grouped, and that may change from look to look.
    """
    earlier, later = list(before), list(now)
    known = frozenset(part for finding in earlier for part in _parts(finding))
    blind = _blind(later)
    return [
        *(one for one in later if one.kind is Kind.UNOBSERVED or not known.isdisjoint(_parts(one))),
        *(one for one in earlier if one.kind is Kind.UNOBSERVED and one.key not in blind),
    ]


def _parts(finding: Finding) -> frozenset[str]:
    return finding.parts or frozenset({finding.key})


def _concerned(plans: Iterable[RackPlan], findings: Iterable[Finding]) -> list[RackPlan]:
    """Return the racks that findings are about, or show in."""
    names = {name for finding in findings for name in (finding.rack, *finding.where)}
    return [plan for plan in plans if plan.rack.name in names or any(tor.name in names for tor in plan.rack.tors)]


def _blind(findings: Iterable[Finding]) -> set[str]:
    return {finding.key for finding in findings if finding.kind is Kind.UNOBSERVED}

"""Looks at what one address needs, and has its story told: its rack and the spines. A pod is found by its name first.

An address that is in no rack's plan may be on the ToRs of any: all are looked at, and the first that has it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ipam.model import IPAddress
from routed.audit.compare.claims import claims
from routed.audit.compare.rack import judge_address
from routed.audit.explain import Seen, Story, explain, see
from routed.audit.look import Looker
from routed.audit.model import Holding, Kind, RackPlan, RackView, SwitchView, Unobserved
from routed.audit.places import locate
from routed.audit.run import Progress
from routed.audit.settings import AuditSettings
from routed.audit.sources import CouldNotObserve
from routed.settings import SettingsError


async def ask(
    address: IPAddress, settings: AuditSettings, progress: Callable[[Progress], None] = lambda _: None
) -> Story:
    """Return the story of an address as one look sees it. Raises CouldNotObserve and SettingsError as `run` does."""
    return await _Asker(settings, progress).story(address)


async def ask_pod(
    pod: str, settings: AuditSettings, progress: Callable[[Progress], None] = lambda _: None
) -> tuple[Story, ...]:
    """Return the stories of all addresses of a pod, ``namespace/name``.

    Raises as `ask`; CouldNotObserve also when somebody who may know the pod did not answer, or partial holdings, which
    do not name it, are all there is; SettingsError also when everybody answered and nobody has it.
    """
    asker = _Asker(settings, progress)
    return tuple([await asker.story(address) for address in await asker.addresses(pod)])


class _Asker:
    """One question to whoever an audit file names."""

    def __init__(self, settings: AuditSettings, progress: Callable[[Progress], None]) -> None:
        self._progress = progress
        self._looker = Looker(settings, self._note)
        self._spines = len(settings.switches.spines)
        self._heard: set[str] = set()
        self._total = 0
        self._views: dict[str, RackView] = {}
        """Racks that were looked at for a pod; without ToRs until one of its addresses is asked about."""
        self._seen: Mapping[str, SwitchView | Unobserved] | None = None
        """The spines."""

    async def addresses(self, pod: str) -> Sequence[IPAddress]:
        """Return the addresses of a pod, in whichever rack it is."""
        looker = self._looker
        plans, holdings = await looker.plans(), await looker.holdings()
        self._total = sum(map(looker.sources, plans))
        async with asyncio.TaskGroup() as looks:
            tasks = [looks.create_task(looker.intent(plan, holdings)) for plan in plans]
        views = [task.result() for task in tasks]
        self._views = {view.plan.rack.name: view for view in views}
        found = [one.address for view in views for one in claims(view).every() if one.pod == pod]
        if found:
            return found
        silent = {name for view in views for name, seen in view.servers.items() if isinstance(seen, Unobserved)}
        blind = [view.plan.rack.name for view in views if isinstance(view.holdings, Unobserved)]
        if silent or blind:
            who = ", ".join(sorted(silent)) or f"who has what in {', '.join(blind)}"
            raise CouldNotObserve(f"nobody who answered has a pod {pod}; not seen: {who}")
        if any(view.partial and not view.servers for view in views):
            raise CouldNotObserve(f"the holdings are partial and do not name a pod {pod}; ask about its address")
        raise SettingsError(f"no rack has a pod {pod}")

    async def story(self, address: IPAddress) -> Story:
        """Look, where nobody has looked yet, and tell of one address."""
        looker = self._looker
        plans = await looker.plans()
        rack = locate(address, plans).rack
        asked = [plan for plan in plans if plan.rack.name == rack] or plans  # anybody may know an address of nobody
        self._heard.clear()
        self._total = self._spines + sum(map(looker.sources, asked))
        holdings = await looker.holdings()
        elsewhere: list[Seen] = []

        async def look(plan: RackPlan) -> RackView | None:
            view = await self._view(plan, holdings)
            found = list(judge_address(view, address))
            if any(finding.kind is Kind.MISSING for finding in found):
                view = await looker.refusals(view)
            if rack or found:
                return view
            elsewhere.extend(see(address, name, seen) for name, seen in view.tors.items())
            return None

        async with asyncio.TaskGroup() as looks:
            spines = looks.create_task(self._beyond())
            views = [looks.create_task(look(plan)) for plan in asked]
        view = next((view for one in views if (view := one.result()) is not None), None)
        story = explain(address, plans, view, spines.result(), elsewhere)
        known = {*story.silent, *story.sides, *(seen.switch for seen in (*story.tors, *story.beyond))}
        return replace(story, recorded={name: at for name, at in sorted(looker.recorded.items()) if name in known})

    async def _view(self, plan: RackPlan, holdings: Mapping[str, Sequence[Holding]] | Unobserved | None) -> RackView:
        """Return a rack; for all addresses of a pod from one look."""
        before = self._views.get(plan.rack.name)
        if before is None:
            return await self._looker.rack(plan, holdings)
        if not before.tors:
            before = replace(before, tors=await self._looker.switches(tor.name for tor in plan.rack.tors))
            self._views[plan.rack.name] = before
        return before

    async def _beyond(self) -> Mapping[str, SwitchView | Unobserved]:
        if self._seen is None:
            self._seen = await self._looker.spines()
        return self._seen

    def _note(self, name: str, _: bool) -> None:
        self._heard.add(name)
        self._progress(Progress(name, len(self._heard - {"holdings"}), self._total, 1))

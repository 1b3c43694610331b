"""Looks at what one address needs, and has its story told: its rack and the spines.

An address that is in no rack's plan may be on the ToRs of any: all are looked at, and the first that has it tells.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from ipam.model import IPAddress
from routed.audit.compare.rack import judge_address
from routed.audit.explain import Story, explain
from routed.audit.look import Looker
from routed.audit.model import Kind, RackPlan, RackView
from routed.audit.places import locate
from routed.audit.run import Progress
from routed.audit.settings import AuditSettings


async def ask(
    address: IPAddress, settings: AuditSettings, progress: Callable[[Progress], None] = lambda _: None
) -> Story:
    """Return the story of an address as one look sees it. Raises CouldNotObserve and SettingsError as `run` does."""
    heard: set[str] = set()
    total = len(settings.switches.spines)

    def note(name: str, _: bool) -> None:
        heard.add(name)
        progress(Progress(name, len(heard - {"holdings"}), total, 1))

    looker = Looker(settings, note)
    plans = await looker.plans()
    rack = locate(address, plans).rack
    asked = [plan for plan in plans if plan.rack.name == rack] or plans  # of an address of nobody, anybody may know
    total += sum(map(looker.sources, asked))
    holdings = await looker.holdings()

    async def look(plan: RackPlan) -> RackView | None:
        view = await looker.rack(plan, holdings)
        found = list(judge_address(view, address))
        if any(finding.kind is Kind.MISSING for finding in found):
            view = await looker.refusals(view)
        return view if rack or found else None

    async with asyncio.TaskGroup() as looks:
        spines = looks.create_task(looker.spines())
        views = [looks.create_task(look(plan)) for plan in asked]
    view = next((view for one in views if (view := one.result()) is not None), None)
    story = explain(address, plans, view, spines.result())
    known = {*story.silent, *story.sides, *(seen.switch for seen in (*story.tors, *story.beyond))}
    return replace(story, recorded={name: at for name, at in sorted(looker.recorded.items()) if name in known})

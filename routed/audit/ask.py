"""Looks at what one address needs, its rack and the spines, and has its story told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ipam.model import IPAddress
from routed.audit.explain import Story, explain
from routed.audit.look import Looker
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
    plan = next((plan for plan in plans if plan.rack.name == rack), None)
    if plan is None:
        return explain(address, plans, None, await looker.spines())
    total += looker.sources(plan)
    async with asyncio.TaskGroup() as looks:
        spines = looks.create_task(looker.spines())
        view = looks.create_task(looker.rack(plan, await looker.holdings()))
    return explain(address, plans, view.result(), spines.result())

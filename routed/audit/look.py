"""Looks at racks and spines: puts the sources together that an audit file names, and bounds how many are asked at once.

What does not answer is Unobserved, and so is what was recorded too long ago; nothing else is concluded here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from ipam.model import IPNetwork
from routed.audit.ages import ago
from routed.audit.compare import doubts
from routed.audit.model import Asked, Holding, RackPlan, RackView, ServerView, SwitchView, Unobserved
from routed.audit.settings import AgentsSettings, AuditSettings
from routed.audit.sources import (
    CouldNotObserve,
    HoldingSource,
    PlanSource,
    ServerSource,
    SwitchSource,
)
from routed.audit.sources.agent import AgentByCommand, AgentByFile
from routed.audit.sources.bird import Bird
from routed.audit.sources.collector import Collector
from routed.audit.sources.command import Command, filled
from routed.audit.sources.frr import Frr
from routed.audit.sources.mrt import Mrt
from routed.audit.sources.napalm import Login, Napalm
from routed.audit.sources.plan import HoldingsFile, KubernetesPlan, RackFiles
from routed.settings import SettingsError

Heard = Callable[[str, bool], None]
"""Told of every source once it has answered, or not."""
LIVE_S = 300.0
"""What was recorded that long ago, or ahead, counts as asked just now: clocks differ, and a look takes time."""
NOBODY = "nobody can be asked who should have which address"


class Looker:
    """All ways to look that one audit file names."""

    def __init__(self, settings: AuditSettings, heard: Heard) -> None:
        self._settings, self._heard = settings, heard
        self._room = asyncio.Semaphore(settings.parallel)
        self.recorded: dict[str, datetime] = {}
        """Who was not asked but read from a recording, and of when that is."""

    async def plans(self) -> Sequence[RackPlan]:
        """Return every rack. Raises CouldNotObserve, and SettingsError when the files are wrong."""
        settings = self._settings
        source: PlanSource = self._api() or RackFiles(settings.rack_files())
        plans = await source.plans()
        switches = {tor.name for plan in plans for tor in plan.rack.tors} | set(settings.switches.spines)
        for name in sorted(settings.switches.named - switches):
            raise SettingsError(f"switches.{name}: no rack has such a ToR, and it is not in switches.spines")
        for name in sorted(switches):
            if settings.switches.of(name) is None:
                raise SettingsError(f"switches: nothing says how to look at {name}; add defaults, or {name} itself")
        return plans

    async def holdings(self) -> Mapping[str, Sequence[Holding]] | Unobserved | None:
        """Return by rack who should have which address; None when nobody but the agents is there to ask."""
        path = self._settings.holdings
        source: HoldingSource | None = self._api() if path is None else HoldingsFile(self._settings.path(path))
        if source is None:
            return None
        try:
            found = await source.holdings()
        except CouldNotObserve as error:
            self._heard("holdings", False)
            return Unobserved(str(error))
        self._heard("holdings", True)
        return found

    async def rack(self, plan: RackPlan, holdings: Mapping[str, Sequence[Holding]] | Unobserved | None) -> RackView:
        """Look at the ToRs and agents of a rack, all at once. `holdings` is what the method of that name returned."""
        async with asyncio.TaskGroup() as looks:
            intent = looks.create_task(self.intent(plan, holdings))
            tors = looks.create_task(self.switches(tor.name for tor in plan.rack.tors))
        return replace(intent.result(), tors=tors.result())

    async def intent(self, plan: RackPlan, holdings: Mapping[str, Sequence[Holding]] | Unobserved | None) -> RackView:
        """Look at the agents of a rack alone, all at once: its ToRs are left out."""
        said = self._settings.agents
        async with asyncio.TaskGroup() as looks:
            servers = {
                name: looks.create_task(self._look(name, partial(self._agent, said, name, plan.rack.name)))
                for name in plan.servers
                if said is not None
            }
        agents = {name: look.result() for name, look in servers.items()}
        held = self._held(plan.rack.name, holdings, agents.values())
        return RackView(plan, held, agents, {}, self._settings.partial)

    async def refusals(self, view: RackView) -> RackView:
        """Ask the ToRs of a rack what they refused of agents whose routes they lack; without such, ask nobody."""
        async with asyncio.TaskGroup() as looks:
            tasks = {tor: looks.create_task(self._refused(tor, asked)) for tor, asked in doubts(view).items()}
        tors = {
            name: replace(seen, refused=tasks[name].result())
            if name in tasks and isinstance(seen, SwitchView)
            else seen
            for name, seen in view.tors.items()
        }
        return replace(view, tors=tors)

    async def spines(self) -> Mapping[str, SwitchView | Unobserved]:
        """Look at the spines, all at once."""
        return await self.switches(self._settings.switches.spines)

    async def switches(self, names: Iterable[str]) -> Mapping[str, SwitchView | Unobserved]:
        """Look at these switches, all at once."""
        async with asyncio.TaskGroup() as looks:
            tasks = {name: looks.create_task(self._look(name, partial(self._switch, name))) for name in names}
        return {name: look.result() for name, look in tasks.items()}

    def sources(self, plan: RackPlan) -> int:
        """Return how many are asked about a rack."""
        return len(plan.rack.tors) + (len(plan.servers) if self._settings.agents is not None else 0)

    async def _refused(self, tor: str, asked: Iterable[Asked]) -> Mapping[Asked, frozenset[IPNetwork]]:
        """Return what a ToR refused; nothing where it cannot say: the routes that it has were seen all the same."""
        source = self._switch(tor)
        if not isinstance(source, Frr):
            return {}
        async with self._room:
            with suppress(CouldNotObserve):
                return await source.refused(asked)
        return {}

    async def _look(self, name: str, source: Callable[[], ServerSource | SwitchSource]) -> Any:
        async with self._room:
            try:
                view = await source().observe()
                self._check_age(name, view)
            except CouldNotObserve as error:
                self._heard(name, False)
                return Unobserved(str(error))
        self._heard(name, True)
        return view

    def _check_age(self, name: str, view: ServerView | SwitchView) -> None:
        """Remember what is a recording; CouldNotObserve when it is too old, or of the future."""
        self.recorded.pop(name, None)
        if view.at is None or abs(age := datetime.now(UTC) - view.at) < timedelta(seconds=LIVE_S):
            return
        if age < timedelta(0):
            raise CouldNotObserve(f"{name} is dated in the future, {view.at:%Y-%m-%d %H:%M} UTC; is its clock right?")
        if age > timedelta(seconds=self._settings.max_age_s):
            raise CouldNotObserve(f"{name} was recorded {ago(age)}; record it again, or raise max_age_s")
        self.recorded[name] = view.at

    def _held(
        self,
        rack: str,
        holdings: Mapping[str, Sequence[Holding]] | Unobserved | None,
        agents: Iterable[ServerView | Unobserved],
    ) -> tuple[Holding, ...] | Unobserved:
        """Return a rack's holdings; the agents' own where nobody else was there to ask."""
        if isinstance(holdings, Unobserved):
            return holdings
        if holdings is not None:
            path = self._settings.holdings
            if path is not None and rack not in holdings:
                return Unobserved(f"{self._settings.path(path)} says nothing about rack {rack}; not even []")
            return tuple(holdings.get(rack, ()))
        heard = [agent for agent in agents if isinstance(agent, ServerView)]
        return tuple(one for agent in heard for one in agent.holdings) if heard else Unobserved(NOBODY)

    def _api(self) -> KubernetesPlan | None:
        said, timeout_s = self._settings.kubernetes, self._settings.timeout_s
        if said is None:
            return None
        kubeconfig = None if said.kubeconfig is None else self._settings.path(said.kubeconfig)
        return KubernetesPlan(kubeconfig, said.context, timeout_s)

    def _switch(self, name: str) -> SwitchSource:
        said = self._settings.switches.of(name)
        if said is None:
            raise SettingsError(f"switches: nothing says how to look at {name}")
        timeout_s = self._settings.timeout_s
        password_file = None if said.password_file is None else self._settings.path(said.password_file)
        if said.asn is not None:
            sessions = tuple((session.address, session.local) for session in said.sessions)
            return Collector(name, said.asn, sessions, password_file, timeout_s)
        if said.file is not None:
            return Mrt(name, self._settings.path(*filled((said.file,), {"name": name})), said.peer, timeout_s)
        if said.driver is not None:
            (host,) = filled((said.host,), {"name": name})
            login = Login(said.driver, host, said.user or "", password_file, said.password_variable, said.options)
            return Napalm(name, login, timeout_s)
        command = Command(filled(said.command or (), {"name": name}), timeout_s)
        return Bird(name, command) if said.source == "bird" else Frr(name, command)

    def _agent(self, said: AgentsSettings, server: str, rack: str) -> ServerSource:
        values = {"server": server, "rack": rack}
        if said.command is not None:
            return AgentByCommand(server, Command(filled(said.command, values), self._settings.timeout_s))
        return AgentByFile(server, self._settings.path(*filled((said.file or "",), values)))

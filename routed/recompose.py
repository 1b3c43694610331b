"""An agent in a cluster: composed of what its Node and its Rack say, and composed anew when they say something else.

Pods, flows, ExaBGP and its sessions outlive an agent. So a rack that is edited needs no second way to be applied: the
agent ends, and one with the new settings takes over, in the same process. A change that an agent cannot start with is
told of, and changes nothing: the settings that worked go on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import structlog

from routed.agent import EXPECTED, Agent, Container, reasons
from routed.files import put
from routed.kube.client import connect
from routed.kube.cluster import Cluster
from routed.kube.events import Events, News
from routed.kube.nodes import Here, Site, Surroundings
from routed.kube.occupancy import RackStatus
from routed.settings import LocalSettings

log = structlog.get_logger(__name__)
_PATIENCE_S = 3.0
"""How long an agent that starts waits for the API server before it takes up the site of the run before."""


async def run(local: LocalSettings, node: str, container: Container) -> None:
    """Run agents until SIGTERM, SIGINT or drained; ``local`` is this server's own file, ``node`` its Node's name.

    Raises NoAccess, and as `Agent.run` does while no agent has served yet.
    """
    rng = Random()  # noqa: S311 - spreads servers out, keeps no secret
    for folder in (local.paths.state, local.paths.run):
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    async with connect(local.kubernetes.kubeconfig) as api:
        cluster = Cluster(api, node, Events(api, node), rng)
        here = Here(node, local.model_dump(mode="json", exclude_unset=True), local.paths.state / "site.json")
        tenure = Tenure(cluster, container, local.rack_file)
        around = Surroundings(api, here, on_site=tenure.move, on_trouble=tenure.complain)
        async with asyncio.TaskGroup() as tasks:
            works = (around.run(), cluster.events.run(), RackStatus(api, around, rng).run())
            background = [tasks.create_task(work) for work in works]
            await tenure.run(around)
            for task in background:
                task.cancel()


@dataclass(slots=True)
class Tenure:
    """One agent after the other, each at the site that was named last."""

    cluster: Cluster
    container: Container
    rack_file: Path
    """Where the other commands find out what the agent was composed from."""
    _next: Site | None = None
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    def move(self, site: Site) -> None:
        """Let the next agent be there, soon."""
        self._next = site
        self._moved.set()

    def complain(self, trouble: str | None) -> None:
        """Tell users what keeps this server from following its rack."""
        if trouble is not None:
            self.cluster.events.tell(News(self.cluster.subject, "RackRejected", trouble, "FollowRack"))

    async def run(self, around: Surroundings) -> None:
        """Run agents until one was told to end."""
        first = await around.first(_PATIENCE_S)
        site: Site | None = self._next or first
        self._moved.clear()
        while (here := site) is not None:
            try:
                site = await self._stay(here, around)
            except* EXPECTED as errors:
                proven = around.recall()
                if proven is None or proven.settings == here.settings:
                    raise
                why = "; ".join(reasons(errors))
                log.error("site.refused", error=why)  # noqa: TRY400 - for the operator, without a traceback
                self.complain(f"no agent can start with the rack as it is now: {why}")
                site = proven

    async def _stay(self, site: Site, around: Surroundings) -> Site | None:
        """Run an agent until it has to give way to one at the site that is returned; None when it was told to end."""
        settings = site.settings
        put(self.rack_file, settings.model_dump_json(exclude_unset=True).encode(), mode=0o600)
        agent = Agent(settings, settings.domain_server(self.cluster.node), self.cluster, self.container)
        running, moved = asyncio.create_task(agent.run()), asyncio.create_task(self._moved.wait())
        proven = asyncio.create_task(_prove(agent, site, around))
        try:
            await asyncio.wait((running, moved), return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                log.info("agent.gives_way", rack=settings.rack)
                agent.stop()
            await running
        finally:
            for task in (moved, proven):
                task.cancel()
        if agent.dismissed:
            return None
        self._moved.clear()
        return self._next


async def _prove(agent: Agent, site: Site, around: Surroundings) -> None:
    """Remember where an agent can serve."""
    await agent.serving.wait()
    around.remember(site)

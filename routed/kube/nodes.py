"""Where this server stands: follows its own Node and the Racks, and says what its agent is to be composed from.

What cannot be used changes nothing: the agent goes on with the last site that could be, and says what is wrong. The
last site is kept in a file, so that an agent starts while the API server is away.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from routed.files import replace
from routed.kube.api import NODES, RACKS, Api, Document
from routed.kube.errors import KubeError
from routed.kube.following import followed
from routed.kube.racks import SECRETS, check, own_rack, settings_of
from routed.settings import Settings, SettingsError

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Site:
    """A server's place."""

    node_uid: str
    settings: Settings
    """As if from a rack file that lists this server alone."""


@dataclass(frozen=True, slots=True)
class Here:
    """What the agent knows of itself before it has asked anybody."""

    node: str
    """Name of its Node."""
    local: Mapping[str, Any]
    """Its own file: the sections that no Rack has."""
    memory: Path
    """Where the last site is kept."""
    secrets: Path = SECRETS


class Surroundings:
    """The server's Node and the cluster's Racks; `run` follows them.

    ``on_site`` is told of every site that differs from the one before, also of the first. ``on_trouble`` is told what
    keeps the agent from following its objects, None when nothing does any more.
    """

    def __init__(
        self, api: Api, here: Here, *, on_site: Callable[[Site], None], on_trouble: Callable[[str | None], None]
    ) -> None:
        self._api, self._here, self._on_site, self._on_trouble = api, here, on_site, on_trouble
        self._node: Document | None = None
        self.racks: tuple[Document, ...] | None = None
        """All that there are, None before the first look."""
        self.rack: Document | None = None
        """Our own as it stands in the API, whether it can be used or not."""
        self.rack_changed = asyncio.Event()
        """Set when that is another one now; whoever waits for it clears it."""
        self.site: Site | None = None
        self._made_of: tuple[Document, Document] | None = None
        """The Node and the Rack that the site comes from; None when it was recalled."""
        self._trouble: str | None = None
        self._found = asyncio.Event()

    async def first(self, patience_s: float) -> Site:
        """Return the site to start with: the API's or, while that says nothing, the one of the run before.

        Needs `run` to run. Waits for as long as there is neither.
        """
        try:
            async with asyncio.timeout(patience_s):
                await self._found.wait()
        except TimeoutError:
            if (site := self.recall()) is not None:
                self._adopt(site)
        if self.site is None:
            log.warning("site.unknown", node=self._here.node, trouble=self._trouble or "the API server does not answer")
        while self.site is None:
            await self._found.wait()
        return self.site

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_node())
            tasks.create_task(self._follow_racks())

    async def _follow_node(self) -> None:
        async for nodes in followed(self._api, NODES, fields=f"metadata.name={self._here.node}"):
            if nodes:
                (self._node,) = nodes
                self._review()
            else:  # it registers again, or this server is being removed; leases and pods stay meanwhile
                self._complain(f"Node {self._here.node} does not exist")

    async def _follow_racks(self) -> None:
        async for racks in followed(self._api, RACKS):
            self.racks = racks
            self._review()

    def _review(self) -> None:
        """Draw the conclusions once both sides are known."""
        if self._node is None or self.racks is None:
            return
        try:
            rack = own_rack(self._node, self.racks)
            if rack != self.rack:
                self.rack = rack
                self.rack_changed.set()
            check(rack, self.racks)
            site = self._site(self._node, rack)
        except (KubeError, SettingsError) as error:
            self._complain(str(error))
            return
        self._complain(None)
        self._made_of = (self._node, rack)
        self._adopt(site)

    def _site(self, node: Document, rack: Document) -> Site:
        settings = settings_of(rack, node, self._here.local, self._here.secrets)
        return Site(node["metadata"]["uid"], settings)

    def _adopt(self, site: Site) -> None:
        if site != self.site:
            self.site = site
            log.info("site.found", node=self._here.node, uid=site.node_uid, rack=site.settings.rack)
            self._on_site(site)
            self._found.set()

    def _complain(self, trouble: str | None) -> None:
        if trouble != self._trouble:
            self._trouble = trouble
            if trouble is None:
                log.info("site.well")
            else:
                log.warning("site.rejected", error=trouble, kept=self.site is not None)
            self._on_trouble(trouble)

    def remember(self, site: Site) -> None:
        """Keep a site in which an agent has served, for a start without the API server or with a Rack of no use."""
        if site == self.site and self._made_of is not None:
            _remember(self._here.memory, *self._made_of)

    def recall(self) -> Site | None:
        """Return what was remembered, if it still makes sense beside the agent's own file."""
        try:
            said = json.loads(self._here.memory.read_text(encoding="utf-8"))
            if said["node"]["metadata"]["name"] == self._here.node:
                return self._site(said["node"], said["rack"])
        except (OSError, ValueError, KeyError, TypeError, KubeError, SettingsError) as error:
            log.warning("site.forgotten", file=str(self._here.memory), error=str(error))
        return None


def _remember(file: Path, node: Document, rack: Document) -> None:
    """Keep what a site is made of; a file that cannot be written only makes the next start need the API server."""
    kept = {
        "node": {
            "metadata": {key: node["metadata"].get(key) for key in ("name", "uid", "labels", "annotations")},
            "status": {"addresses": (node.get("status") or {}).get("addresses")},
        },
        "rack": {"metadata": {"name": rack["metadata"]["name"]}, "spec": rack["spec"]},
    }
    text = json.dumps(kept)
    try:
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            replace(file, text.encode(), mode=0o644)
    except OSError as error:
        log.warning("site.not_remembered", file=str(file), error=str(error))

"""Racks and who should have which address: from rack files, a JSON file, or a Kubernetes API server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from ipam.errors import PoolError
from routed.audit.model import Holding, RackPlan
from routed.audit.sources import CouldNotObserve
from routed.kube import addresses
from routed.kube.api import ADDRESSES, NODES, RACKS, Document, Resource
from routed.kube.client import connect
from routed.kube.errors import KubeError, NoRack
from routed.kube.racks import pools_of, whole_rack
from routed.settings import Settings, SettingsError, load


def rack_plan(settings: Settings) -> RackPlan:
    """Return a rack as an audit knows it; PoolError when its pools make no sense."""
    servers = {name: settings.domain_server(name) for name in settings.servers}
    return RackPlan(settings.domain_rack(), servers, pools_of(settings))


@dataclass(frozen=True, slots=True)
class RackFiles:
    """Racks from their files."""

    paths: tuple[Path, ...]

    async def plans(self) -> Sequence[RackPlan]:
        """Return every rack; SettingsError when a file cannot be used."""
        found: dict[str, Path] = {}
        plans = []
        for path in self.paths:
            settings = load(path)
            if settings.rack in found:
                raise SettingsError(
                    f"{path}: rack {settings.rack} is described by {found[settings.rack]}, too; "
                    "list the files, or narrow `racks:`"
                )
            found[settings.rack] = path
            try:
                plans.append(rack_plan(settings))
            except PoolError as error:
                raise SettingsError(f"{path}: {error}") from error
        return plans


class _HoldingsFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    holdings: dict[str, tuple[Holding, ...]]
    """By rack."""


@dataclass(frozen=True, slots=True)
class HoldingsFile:
    """Who should have which address, from a file: ``{"holdings": {RACK: [{"address", "server", "pod"}, ...]}}``."""

    path: Path

    async def holdings(self) -> Mapping[str, Sequence[Holding]]:
        """Return what the file says; CouldNotObserve."""
        try:
            return _HoldingsFile.model_validate(json.loads(self.path.read_text(encoding="utf-8"))).holdings
        except OSError as error:
            raise CouldNotObserve(f"{self.path}: {error.strerror}") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise CouldNotObserve(f"{self.path}: {where}: {first['msg']}") from error
        except ValueError as error:
            raise CouldNotObserve(f"{self.path}: not JSON: {error}") from error


@dataclass(frozen=True, slots=True)
class KubernetesPlan:
    """Rack, Node and Address objects of an API server; `get` and `list` on them is all that it takes."""

    kubeconfig: Path | None
    context: str | None
    timeout_s: float

    async def plans(self) -> Sequence[RackPlan]:
        """Return every Rack that has a Node; CouldNotObserve, also when one of them cannot be used."""
        racks, nodes = await self._lists(RACKS, NODES)
        plans = []
        for rack in racks:
            try:
                plans.append(rack_plan(whole_rack(rack, nodes)))
            except NoRack:
                continue
            except (KubeError, PoolError) as error:
                raise CouldNotObserve(f"{self}: {error}") from error
        if not plans:
            raise CouldNotObserve(f"{self}: there is no Rack that selects a Node; is this the right cluster?")
        return plans

    async def holdings(self) -> Mapping[str, Sequence[Holding]]:
        """Return every lease: a rack that is not named has none.

        One that no pod is known to use is not to be announced. CouldNotObserve.
        """
        (documents,) = await self._lists(ADDRESSES)
        found: dict[str, list[Holding]] = {}
        for document in documents:
            try:
                lease, rack = addresses.read(document), document["spec"]["rack"]
            except (KubeError, KeyError) as error:
                raise CouldNotObserve(f"{self}: {error}") from error
            pod = "" if lease.pod is None else f"{lease.pod.namespace}/{lease.pod.name}"
            found.setdefault(rack, []).append(Holding(lease.address, lease.node, pod, announce=lease.pod is not None))
        return found

    async def _lists(self, *resources: Resource) -> list[tuple[Document, ...]]:
        try:
            async with asyncio.timeout(self.timeout_s), connect(self.kubeconfig, self.context) as api:
                return [(await api.list(resource)).items for resource in resources]
        except KubeError as error:
            raise CouldNotObserve(f"{self}: {error}") from error
        except TimeoutError:
            raise CouldNotObserve(f"{self}: no answer within {self.timeout_s:g} s") from None

    def __str__(self) -> str:
        """Return which API server this is, for people."""
        where = "of this cluster" if self.kubeconfig is None else f"of {self.kubeconfig}"
        return f"the Kubernetes API {where}" + (f" ({self.context})" if self.context else "")

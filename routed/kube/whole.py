"""A whole rack as a cluster has it, or will have it: its Rack and the Nodes that this selects. Reads, changes nothing.

To `list` Racks and Nodes is all that it takes. What is not applied yet comes from a file, as kubectl prints it with
`--output yaml`, and stands for what the API server has under that name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from routed.kube.api import NODES, RACKS, Api, Document, Resource
from routed.kube.client import connect
from routed.kube.errors import Forbidden, NoRack, NotFound
from routed.kube.racks import check, whole_rack
from routed.settings import Settings, SettingsError, checked, read

_NOT_YET = "9999"
"""When an object was made that is still to be applied: after all the others."""


class _Metadata(BaseModel):
    name: str
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class _Secret(BaseModel):
    name: str
    key: str


class _Bgp(BaseModel):
    password_secret: _Secret | None = None


class _Pool(BaseModel):
    prefix: Annotated[str, AfterValidator(ip_network)]


class _RackSpec(BaseModel):
    nodeSelector: dict[str, str] = {}  # noqa: N815 - the API's spelling
    tors: list[Any]
    hosts: list[Any]
    pools: list[_Pool]
    bgp: _Bgp


class _Rack(BaseModel):
    kind: Literal["Rack"]
    metadata: _Metadata
    spec: _RackSpec


class _NodeAddress(BaseModel):
    type: str
    address: str


class _NodeStatus(BaseModel):
    addresses: list[_NodeAddress] = []


class _Node(BaseModel):
    kind: Literal["Node"]
    metadata: _Metadata
    status: _NodeStatus = _NodeStatus()


class _Manifests(BaseModel):
    """As much of them as has to be there to look at them at all; what a Rack says is checked as any Rack's."""

    items: list[Annotated[_Rack | _Node, Field(discriminator="kind")]]


def manifests(path: Path) -> Sequence[Document]:
    """Return a file's Rack or Node, or those in its List; SettingsError when there is something else in it."""
    document = read(path)
    if not isinstance(document, dict) or "kind" not in document:
        raise SettingsError(f"{path}: no Rack, no Node, and no List of these; a rack file goes without --rack")
    items = document if document["kind"] == "List" else {"items": [document]}
    checked(_Manifests, items, str(path))
    found: Sequence[Document] = items["items"]
    return found


async def rack_to_be(name: str, changes: Sequence[Document], kubeconfig: Path, context: str | None = None) -> Settings:
    """Return what a rack file would say of the Rack called so, and of its servers, once ``changes`` are applied.

    Raises KubeError: NoRack also without a server, Malformed also for a Rack that could not be Accepted.
    """
    async with connect(kubeconfig, context) as api:
        racks, nodes = [await _listed(api, resource, changes) for resource in (RACKS, NODES)]
    rack = racks.get(name)
    if rack is None:
        raise NoRack(f"there is no Rack {name} (there are: {', '.join(racks) or 'none; is this the right cluster?'})")
    check(rack, racks.values())
    return whole_rack(rack, nodes.values())


async def _listed(api: Api, resource: Resource, changes: Sequence[Document]) -> Mapping[str, Document]:
    """Return all objects of a kind, by name, in the order of their names."""
    try:
        listed = (await api.list(resource)).items
    except Forbidden as error:
        raise Forbidden(f"{error}; have somebody let this user list Racks and Nodes") from error
    except NotFound as error:
        raise NotFound(f"{error}; is this the right cluster, with the resources of deploy/crds in it?") from error
    found = {one["metadata"]["name"]: one for one in listed}
    for change in changes:
        if change["kind"] == resource.kind:
            name = change["metadata"]["name"]
            made = found[name]["metadata"]["creationTimestamp"] if name in found else _NOT_YET
            found[name] = {**change, "metadata": {**change["metadata"], "creationTimestamp": made}}
    return dict(sorted(found.items()))

"""The verbs of the Kubernetes API that the agent needs, on plain JSON objects.

Nothing here knows a kind of object; `routed.kube.client` brings the requests to a real API server.
Kubernetes API concepts: https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from routed.kube.errors import Expired, failure

Document = Mapping[str, Any]
"""One object as JSON says it."""
_PAGE = 500
_WATCH_S = 120
"""How long one watch runs; also how long a connection that died unseen can go unnoticed."""


class Transport(Protocol):
    """How requests get to an API server."""

    async def request(
        self, method: str, path: str, *, body: Document | None = None, content_type: str = "application/json"
    ) -> Document:
        """Return the answer's JSON object; raises Refused, or Unreachable when nobody knows what happened."""

    def stream(self, path: str, *, timeout_s: float) -> AsyncIterator[Document]:
        """Yield one JSON object per line of an answer until it ends; raises as `request` does."""


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of object, cluster-scoped or seen over all namespaces."""

    group: str
    """Empty for the core group."""
    version: str
    plural: str
    kind: str

    @property
    def root(self) -> str:
        """The path under which its objects are."""
        return f"/{'apis' if self.group else 'api'}/{self.api_version}/{self.plural}"

    @property
    def api_version(self) -> str:
        """What its objects say of their version."""
        return f"{self.group}/{self.version}" if self.group else self.version


RACKS = Resource("routed.dev", "v1alpha1", "racks", "Rack")
ADDRESSES = Resource("routed.dev", "v1alpha1", "addresses", "Address")
NODES = Resource("", "v1", "nodes", "Node")
PODS = Resource("", "v1", "pods", "Pod")


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind at one moment."""

    items: tuple[Document, ...]
    version: str
    """The resource version from which a watch goes on."""


class Api:
    """One API server; every method raises the errors of `routed.kube.errors`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    async def create(self, resource: Resource, document: Document) -> Document:
        """Create an object and return it as stored; AlreadyExists when the name is taken: this is the atomic claim."""
        whole = {"apiVersion": resource.api_version, "kind": resource.kind, **document}
        return await self._transport.request("POST", resource.root, body=whole)

    async def get(self, resource: Resource, name: str) -> Document:
        """Return one object."""
        return await self._transport.request("GET", _object(resource, name))

    async def list(self, resource: Resource, *, labels: str = "", fields: str = "") -> Listing:
        """Return all objects that the selectors choose, as of one moment, not older than this call."""
        while True:
            try:
                return await self._pages(resource, labels, fields)
            except Expired:  # between two pages; what was read is of no use
                continue

    async def delete(self, resource: Resource, name: str, *, uid: str, version: str) -> None:
        """Delete exactly what was read: Conflict when the object is another one by now, or was written since."""
        body = {"preconditions": {"uid": uid, "resourceVersion": version}}
        await self._transport.request("DELETE", _object(resource, name), body=body)

    async def patch(self, resource: Resource, name: str, change: Document, *, subresource: str = "") -> Document:
        """Merge a change into an object (RFC 7396) and return it; name `metadata.resourceVersion` to be told of others.

        ``subresource`` is "status" for what stands there.
        """
        path = _object(resource, name) + (f"/{subresource}" if subresource else "")
        return await self._transport.request("PATCH", path, body=change, content_type="application/merge-patch+json")

    async def watch(
        self, resource: Resource, version: str, *, labels: str = "", fields: str = ""
    ) -> AsyncGenerator[tuple[str, Document], None]:
        """Yield what happens after ``version``, as (kind, object), until the watch ends by itself; raises Expired."""
        wanted = {"watch": 1, "allowWatchBookmarks": "true", "timeoutSeconds": _WATCH_S, "resourceVersion": version}
        path = resource.root + _query(wanted, labels, fields)
        async with aclosing(self._transport.stream(path, timeout_s=_WATCH_S + 15)) as events:  # type: ignore[type-var]
            async for event in events:
                if event["type"] == "ERROR":
                    raise failure(event["object"].get("code", 500), event["object"])
                yield event["type"], event["object"]

    async def _pages(self, resource: Resource, labels: str, fields: str) -> Listing:
        items: list[Document] = []
        more = ""
        while True:
            path = resource.root + _query({"limit": _PAGE, "continue": more}, labels, fields)
            page = await self._transport.request("GET", path)
            items.extend(page.get("items") or ())
            more = page["metadata"].get("continue", "")
            if not more:
                return Listing(tuple(items), page["metadata"]["resourceVersion"])


def _object(resource: Resource, name: str) -> str:
    return f"{resource.root}/{quote(name, safe='')}"


def _query(parameters: Mapping[str, object], labels: str, fields: str) -> str:
    every = {**parameters, "labelSelector": labels, "fieldSelector": fields}
    return "?" + "&".join(f"{key}={quote(str(value), safe='')}" for key, value in every.items() if value != "")

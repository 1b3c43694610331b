"""Requests to an API server as one user, with the answers as they are: refusals are what many tests look at."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from containerlab.netns import socket_in

_TIMEOUT_S = 30
_PATCHES = {
    "apply": "application/apply-patch+yaml",
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
}


@dataclass(frozen=True)
class Answer:
    """A status code and the object, or the Status, that came with it."""

    status: int
    body: dict[str, Any]

    @property
    def ok(self) -> bool:
        """Whether the request was granted."""
        return self.status < 300

    @property
    def message(self) -> str:
        """Why it was not."""
        return str(self.body.get("message", ""))

    def granted(self) -> dict[str, Any]:
        """Return the object; AssertionError with the server's own words when the request was refused."""
        assert self.ok, f"{self.status}: {self.message}"
        return self.body


@dataclass(frozen=True)
class Client:
    """One user of one API server; threads may share it."""

    url: str
    trusted: Path
    certificate: Path | None = None
    key: Path | None = None
    token: str | None = None
    netns: str | None = None
    """Path of the network namespace to ask from; None for this process's own."""
    _pool: list[urllib3.PoolManager] = field(default_factory=list, init=False, repr=False, compare=False)

    def get(self, path: str) -> Answer:
        """Read an object or a list."""
        return self._ask("GET", path)

    def table(self, path: str, *, wide: bool = False) -> list[dict[str, Any]]:
        """Return a list as kubectl shows it: a row per object, by column; `wide` as with ``-o wide``."""
        table = self._ask("GET", path, accept="application/json;as=Table;v=v1;g=meta.k8s.io").granted()
        names = [column["name"] for column in table["columnDefinitions"]]
        shown = [number for number, column in enumerate(table["columnDefinitions"]) if wide or not column["priority"]]
        return [{names[number]: row["cells"][number] for number in shown} for row in table["rows"]]

    def post(self, path: str, body: dict[str, Any]) -> Answer:
        """Create an object."""
        return self._ask("POST", path, body)

    def put(self, path: str, body: dict[str, Any]) -> Answer:
        """Replace an object."""
        return self._ask("PUT", path, body)

    def patch(self, path: str, body: Any, kind: str = "merge") -> Answer:
        """Change an object; `kind` is merge, json or apply."""
        query = ("&" if "?" in path else "?") + "fieldManager=tests&force=true" if kind == "apply" else ""
        return self._ask("PATCH", path + query, body, _PATCHES[kind])

    def delete(self, path: str, *, dry_run: bool = False, **preconditions: str) -> Answer:
        """Delete an object, if it has the uid or the resourceVersion that is named."""
        options: dict[str, Any] = {"preconditions": preconditions} if preconditions else {}
        options |= {"dryRun": ["All"]} if dry_run else {}  # with a body, the server overlooks what the query says
        return self._ask("DELETE", path, options or None)

    def apply(self, manifest: dict[str, Any], *, dry_run: bool = False) -> Answer:
        """Create or change the object of a manifest, by server-side apply; a dry run refuses unknown fields, too."""
        version, name = manifest["apiVersion"], manifest["metadata"]["name"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        kinds = self.get(root).granted()["resources"]
        kind = next(found for found in kinds if found["kind"] == manifest["kind"] and "/" not in found["name"])
        space = f"/namespaces/{manifest['metadata'].get('namespace', 'default')}" if kind["namespaced"] else ""
        query = "?dryRun=All&fieldValidation=Strict" if dry_run else ""
        return self.patch(f"{root}{space}/{kind['name']}/{name}{query}", manifest, "apply")

    def _ask(
        self,
        verb: str,
        path: str,
        body: Any = None,
        media: str = "application/json",
        accept: str = "application/json",
    ) -> Answer:
        if not self._pool:
            self._pool.append(self._connections())
        headers = {"Accept": accept, "Content-Type": media}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        sent = None if body is None else json.dumps(body)
        url = self.url + path
        got = self._pool[0].request(verb, url, body=sent, headers=headers, retries=False, timeout=_TIMEOUT_S)
        try:
            decoded = json.loads(got.data)
        except ValueError:  # /readyz and the like answer in plain text
            decoded = {"message": got.data.decode(errors="replace")}
        return Answer(got.status, decoded)

    def _connections(self) -> urllib3.PoolManager:
        manager = urllib3.PoolManager(maxsize=4, ca_certs=str(self.trusted))
        if self.certificate:
            manager.connection_pool_kw |= {"cert_file": str(self.certificate), "key_file": str(self.key)}
        if self.netns is not None:
            manager.pool_classes_by_scheme = {"https": _pool_in(self.netns)}
        return manager

    def close(self) -> None:
        """Close the connections; the next request opens one anew."""
        while self._pool:
            self._pool.pop().clear()


def _pool_in(netns: str) -> type[HTTPSConnectionPool]:
    """Return a kind of connection pool whose connections are made in a network namespace."""

    class Connection(HTTPSConnection):
        def _new_conn(self) -> socket.socket:
            made = socket_in(netns, socket.AF_INET, socket.SOCK_STREAM)
            made.settimeout(_TIMEOUT_S)
            made.connect((self.host, self.port))
            return made

    class Pool(HTTPSConnectionPool):
        ConnectionCls = Connection

    return Pool

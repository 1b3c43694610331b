"""The only file that imports `kubernetes`: credentials, TLS and connections to a real API server.

The package is imported when a connection is made, not before: that takes most of a second. Its asyncio client serves
as the transport alone, with plain JSON on top: a watch is cancelled like any other task, and no object goes through the
generated models.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import uniform
from typing import TYPE_CHECKING, Any

import aiohttp
from yaml import YAMLError

from routed import __version__
from routed.kube.api import Api, Document
from routed.kube.errors import NoAccess, Unreachable, failure
from routed.kube.kubeconfig import merged

if TYPE_CHECKING:
    from kubernetes.aio.client import ApiClient

_REQUEST_S = 10.0
_CONNECTIONS = 8
"""Requests that are under way at once: a rack of servers that all start together must not flood the API server."""
_BUSY = 429
_BUSY_S = 1.0
_ATTEMPTS = 4
"""How often a request is made that the API server is too busy for: it then has done nothing with it (RFC 6585 4)."""


@asynccontextmanager
async def connect(kubeconfig: Path | None = None, context: str | None = None) -> AsyncIterator[Api]:
    """Yield the API server that a kubeconfig names, or that of the cluster which this pod is in; raises NoAccess.

    ``kubeconfig`` may be several, as in the environment variable KUBECONFIG; ``context`` is one of its, None for its
    current one.
    """
    try:
        from kubernetes.aio.client import ApiClient, Configuration  # noqa: PLC0415 - see above
        from kubernetes.aio.config import ConfigException, load_incluster_config, load_kube_config  # noqa: PLC0415
    except ImportError as error:
        raise NoAccess("the Python package kubernetes is not installed; install routed[kubernetes]") from error
    configuration = Configuration()
    configuration.connection_pool_maxsize = _CONNECTIONS
    try:
        if kubeconfig is None:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]  # has no types
        else:
            files, current = merged(kubeconfig)
            await load_kube_config(  # type: ignore[no-untyped-call]  # has no types
                files, context=context or current, client_configuration=configuration, persist_config=False
            )
        client = ApiClient(configuration)
        client.user_agent = f"routed/{__version__}"
    except (ConfigException, OSError, ValueError, TypeError, AttributeError, YAMLError) as error:
        # the library reads what is no kubeconfig, too
        where = "inside a cluster" if kubeconfig is None else str(kubeconfig)
        raise NoAccess(f"no API server can be reached ({where}): {error}") from error
    async with client:
        yield Api(_Http(client))


class _Http:
    """Requests over HTTP, authenticated anew each time: a service account's token changes every hour."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    async def request(
        self, method: str, path: str, *, body: Document | None = None, content_type: str = "application/json"
    ) -> Document:
        """Return the answer's JSON object."""
        timeout = aiohttp.ClientTimeout(total=_REQUEST_S)
        try:
            for attempt in range(1, _ATTEMPTS + 1):
                answer = await self._send(method, path, timeout, body=body, content_type=content_type)
                text = await answer.read()
                if answer.status != _BUSY or attempt == _ATTEMPTS:
                    break
                await asyncio.sleep(_BUSY_S * uniform(0.5, 1.5) * attempt)  # noqa: S311 - spreads servers out
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{method} {path}: {str(error) or type(error).__name__}") from error
        return _document(answer.status, text)

    async def stream(self, path: str, *, timeout_s: float) -> AsyncIterator[Document]:
        """Yield one JSON object per line."""
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_REQUEST_S)
        try:
            answer = await self._send("GET", path, timeout)
            try:
                if answer.status != 200:
                    raise _error(answer.status, await answer.read())
                async for line in answer.content:
                    yield _document(200, line)
            finally:
                answer.close()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"GET {path}: {str(error) or type(error).__name__}") from error

    async def _send(
        self,
        method: str,
        path: str,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - the HTTP client's own, of several parts
        *,
        body: Document | None = None,
        content_type: str = "application/json",
    ) -> aiohttp.ClientResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type}
        request = await self._client.param_serialize(
            method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        answer = await self._client.call_api(*request, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response


def _document(status: int, text: bytes) -> Document:
    if not 200 <= status < 300:
        raise _error(status, text)
    try:
        document: Any = json.loads(text)
    except ValueError as error:
        raise Unreachable(f"the answer is not JSON: {text[:80]!r}") from error
    if not isinstance(document, dict):
        raise Unreachable(f"the answer is no JSON object: {text[:80]!r}")
    return document


def _error(status: int, text: bytes) -> Exception:
    said: Any = None
    with suppress(ValueError):
        said = json.loads(text)
    return failure(status, said if isinstance(said, dict) else {"message": text[:80].decode(errors="replace")})

"""Following objects for as long as the agent runs, whatever the API server says meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import structlog

from routed.kube.api import Api, Document, Resource
from routed.kube.errors import KubeError

log = structlog.get_logger(__name__)
_AGAIN_S = 15.0


async def followed(
    api: Api, resource: Resource, *, fields: str = "", again_s: float = _AGAIN_S
) -> AsyncIterator[tuple[Document, ...]]:
    """Yield all chosen objects now and after every change, as `Api.follow` does, but go on after a refusal as well.

    Rights and credentials are mended while an agent runs; until then it works with what it knows.
    """
    while True:
        try:
            async with aclosing(api.follow(resource, fields=fields)) as looks:  # type: ignore[type-var]  # a generator
                async for objects in looks:
                    yield tuple(objects.values())
        except KubeError as error:
            log.warning("kube.refused", resource=resource.plural, error=str(error))
        await asyncio.sleep(again_s)

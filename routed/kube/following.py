"""Following objects for as long as the agent runs, whatever the API server says meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import structlog

from routed.kube.api import Api, Document, Resource
from routed.kube.errors import Expired, KubeError

log = structlog.get_logger(__name__)
_AGAIN_S = (0.5, 15.0)
"""Shortest and longest pause before an API server that did not answer well is asked again."""
_PACE_S = 0.1
"""Between two watches, for what lies between us and the API server may end them at once."""


async def followed(
    api: Api, resource: Resource, *, fields: str = "", again_s: tuple[float, float] = _AGAIN_S
) -> AsyncGenerator[tuple[Document, ...], None]:
    """Yield all chosen objects now and after every change, for ever.

    What happens while the API server cannot be reached shows as one change afterwards. Refusals are waited out as well:
    rights and credentials are mended while an agent runs, which until then works with what it knows.
    """
    pause_s, longest_s = again_s
    is_well = True
    while True:
        try:
            async with aclosing(_until_it_ends(api, resource, fields)) as looks:
                async for objects in looks:
                    if not is_well:
                        log.info("kube.followed", resource=resource.plural)
                    is_well, pause_s = True, again_s[0]
                    yield objects
        except Expired:  # what we last saw is too long ago; list anew
            continue
        except KubeError as error:
            if is_well:
                log.warning("kube.unseen", resource=resource.plural, error=str(error))
            is_well = False
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, longest_s)


async def _until_it_ends(api: Api, resource: Resource, fields: str) -> AsyncGenerator[tuple[Document, ...], None]:
    listing = await api.list(resource, fields=fields)
    objects = {item["metadata"]["uid"]: item for item in listing.items}
    version = listing.version
    yield tuple(objects.values())
    while True:  # a watch ends after a while, and goes on where it was
        async with aclosing(api.watch(resource, version, fields=fields)) as changes:
            async for kind, item in changes:
                version = item["metadata"]["resourceVersion"]
                if kind == "BOOKMARK":
                    continue
                if kind == "DELETED":
                    objects.pop(item["metadata"]["uid"], None)
                else:
                    objects[item["metadata"]["uid"]] = item
                yield tuple(objects.values())
        await asyncio.sleep(_PACE_S)

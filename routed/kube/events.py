"""Events on pods and nodes: what a user must see without reading an agent's log.

`tell` never waits and never fails: an event is news, not state. What is told again soon is counted in the same Event,
as the API wants it (events.k8s.io/v1: https://kubernetes.io/docs/reference/kubernetes-api/cluster-resources/event-v1/).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import structlog

from routed.domain.workload import PodRef
from routed.kube.api import Api, Resource
from routed.kube.errors import KubeError, NotFound, Unreachable

log = structlog.get_logger(__name__)
CONTROLLER = "routed.dev/agent"
_SAME_S = 600.0
"""What is told again later than that is news again."""
_PACE_S = 30.0
"""Least time between two writes of one Event; what is told meanwhile is counted."""
_RETRY_S = 15.0
_KEPT = 256
"""Events that are remembered; further ones are dropped until some are forgotten."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about."""

    kind: str
    name: str
    uid: str
    namespace: str = ""

    @classmethod
    def pod(cls, pod: PodRef) -> Subject:
        """Return a pod as a subject."""
        return cls("Pod", pod.name, pod.uid, pod.namespace)

    @classmethod
    def node(cls, name: str, uid: str) -> Subject:
        """Return a Node as a subject."""
        return cls("Node", name, uid)


@dataclass(frozen=True, slots=True)
class News:
    """What happened to whom; two that are equal are one Event."""

    subject: Subject
    reason: str
    """CamelCase, for machines."""
    note: str
    """For people; what it says must not change from one time to the next, or each is an Event of its own."""
    action: str
    """What the agent was about to do, in CamelCase."""
    warning: bool = True

    @property
    def resource(self) -> Resource:
        """Where its Event lives: beside its subject, or in `default`."""
        namespace = self.subject.namespace or "default"
        return Resource("events.k8s.io", "v1", f"namespaces/{namespace}/events", "Event")


@dataclass(slots=True)
class _Told:
    """An Event that was, or is to be, written."""

    count: int
    last: datetime
    told_at: float
    due_at: float
    written: int = 0
    name: str = ""


class Events:
    """Tells of one server; `run` writes."""

    def __init__(
        self,
        api: Api,
        node: str,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api, self._node, self._now, self._clock = api, node, now, clock
        self._told: dict[News, _Told] = {}
        self._wake = asyncio.Event()

    def tell(self, news: News) -> None:
        """Let users know soon."""
        clock = self._clock()
        known = self._told.get(news)
        if known is not None and clock - known.told_at < _SAME_S:
            known.count, known.last, known.told_at = known.count + 1, self._now(), clock
        elif known is not None or len(self._told) < _KEPT:
            self._told[news] = _Told(1, self._now(), clock, clock)
        self._wake.set()

    async def run(self) -> None:
        """Write what was told, until cancelled."""
        while True:
            self._wake.clear()
            await self.write()
            unwritten = [told.due_at for told in self._told.values() if told.count > told.written]
            pause_s = max(min(unwritten) - self._clock(), 0) if unwritten else None
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._wake.wait()

    async def write(self) -> None:
        """Write what is due now; what the API server cannot be told stays due, what it refuses does not."""
        clock = self._clock()
        old = [news for news, told in self._told.items() if clock - told.told_at >= _SAME_S]
        for news in old:
            del self._told[news]
        for news, told in tuple(self._told.items()):
            if told.count > told.written and told.due_at <= clock:
                count = told.count
                try:
                    await self._write(news, told, count)
                except Unreachable:
                    told.due_at = clock + _RETRY_S
                except KubeError as error:
                    log.warning("event.refused", reason=news.reason, subject=news.subject.name, error=str(error))
                    told.written, told.due_at = count, clock + _PACE_S
                else:
                    told.written, told.due_at = count, clock + _PACE_S

    async def _write(self, news: News, told: _Told, count: int) -> None:
        series = {"count": count, "lastObservedTime": _micro(told.last)}
        if told.name:
            with suppress(NotFound):  # events are kept for an hour or so
                await self._api.patch(news.resource, told.name, {"series": series})
                return
        name = f"{news.subject.name[:200]}.{uuid4().hex[:16]}"
        event = _event(news, name, self._node, told.last)
        await self._api.create(news.resource, event | ({"series": series} if count > 1 else {}))
        told.name = name


def _event(news: News, name: str, node: str, at: datetime) -> dict[str, Any]:
    subject = news.subject
    regarding = {"apiVersion": "v1", "kind": subject.kind, "name": subject.name, "uid": subject.uid}
    return {
        "metadata": {"name": name, "namespace": subject.namespace or "default"},
        "eventTime": _micro(at),
        "reportingController": CONTROLLER,
        "reportingInstance": node,
        "action": news.action,
        "reason": news.reason,
        "regarding": regarding | ({"namespace": subject.namespace} if subject.namespace else {}),
        "type": "Warning" if news.warning else "Normal",
        "note": news.note[:1024],
    }


def _micro(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

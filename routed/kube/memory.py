"""What pods ask for, as the API server last told: for an agent that starts while it is away.

Only pods that ask for something stand in the file, so it is small and hardly ever written. An old one does no harm: a
pod's UID is never another's.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import structlog

from routed.files import replace
from routed.kube.annotations import ANNOTATIONS
from routed.kube.api import Document

log = structlog.get_logger(__name__)
_NEEDED = ("name", "namespace", "uid", "ownerReferences")
"""What annotations are read with."""


class Memory:
    """One file; whatever is wrong with it, such pods start as if they asked for nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.pods: Mapping[str, Document] = self._recall()
        """By the UID that the runtime knows them by."""

    def keep(self, pods: Mapping[str, Document]) -> None:
        """Write down what these ask for, unless it stands there; these are all pods of the server."""
        asking = {uid: kept for uid, pod in pods.items() if (kept := _trimmed(pod)) is not None}
        if asking == self.pods:
            return
        try:
            replace(self._path, json.dumps(asking).encode(), mode=0o644)
        except OSError as error:
            log.warning("pods.not_remembered", file=str(self._path), error=str(error))
        else:
            self.pods = asking

    def _recall(self) -> Mapping[str, Document]:
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("pods.forgotten", file=str(self._path), error=str(error))
            return {}
        return {uid: pod for uid, pod in said.items() if _has_metadata(pod)} if isinstance(said, dict) else {}


def _has_metadata(pod: object) -> bool:
    return isinstance(pod, dict) and isinstance(pod.get("metadata"), dict)


def _trimmed(pod: Document) -> Document | None:
    """Return as much of a pod as its wishes are made of; None when it asks for nothing."""
    metadata = pod["metadata"]
    asked = {key: text for key, text in (metadata.get("annotations") or {}).items() if key in ANNOTATIONS}
    if not asked:
        return None
    return {"metadata": {**{key: metadata[key] for key in _NEEDED if key in metadata}, "annotations": asked}}

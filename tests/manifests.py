"""What deploy/ installs, as tests read it: the objects of the kustomize base, which is rendered from the chart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"
BASE = DEPLOY / "kustomize/base/routed.yaml"
MONITORING = DEPLOY / "kustomize/monitoring/monitoring.yaml"
NIC = DEPLOY / "kustomize/nic/daemonset.yaml"
Object = dict[str, Any]


def parse(text: str) -> list[Object]:
    """Return the objects of a stream of YAML documents."""
    return [document for document in yaml.safe_load_all(text) if document is not None]


def found(kind: str, path: Path = BASE) -> Object:
    """Return the one object of a kind."""
    (one,) = (each for each in parse(path.read_text()) if each["kind"] == kind)
    return one


def pod_spec() -> Object:
    """Return the specification of the DaemonSet's pods."""
    spec: Object = found("DaemonSet")["spec"]["template"]["spec"]
    return spec


def container(name: str) -> Object:
    """Return one of their containers; init containers are containers, too."""
    spec = pod_spec()
    return next(one for one in (*spec["initContainers"], *spec["containers"]) if one["name"] == name)

"""Kubernetes' own programs, built from pinned Go modules: ``build/go.mod`` names the release."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.gotools import GoTools

MODULE = Path(__file__).with_name("build")
PROGRAMS = ("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
"""In the order in which they are wanted."""


def _tools() -> GoTools:
    found = re.search(r"k8s\.io/kubernetes (v\S+)", (MODULE / "go.mod").read_text())
    assert found, "go.mod does not name a release"
    release = found[1]  # v1.36.3
    major, minor = release.removeprefix("v").split(".")[:2]
    numbers = {"gitVersion": release, "gitMajor": major, "gitMinor": minor}
    return GoTools(
        name="routed-kube",
        module=MODULE,
        release=release,
        packages={name: f"k8s.io/kubernetes/cmd/{name}" for name in PROGRAMS},
        link=[f"-X k8s.io/component-base/version.{name}={value}" for name, value in numbers.items()],
    )


KUBERNETES = _tools()


def program(name: str) -> Path:
    """Return the path of one of Kubernetes' programs; builds it first when it is not there, which takes minutes."""
    return KUBERNETES.program(name)


if __name__ == "__main__":
    sys.exit(KUBERNETES.main(sys.argv[1:]))

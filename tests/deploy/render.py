"""deploy/kustomize is rendered from deploy/chart: `make manifests` writes it, a test compares."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.deploy.tools import TOOLS
from tests.kube.binaries import KUBERNETES
from tests.manifests import BASE, DEPLOY, MONITORING, NIC

CHART = DEPLOY / "chart"
VALUES = DEPLOY / "kustomize/values.yaml"
SINGLE = "templates/monitoring.yaml"
DAEMON_SET = "templates/daemonset.yaml"


def helm(*arguments: str | Path, chart: Path = CHART) -> str:
    """Return what the chart becomes as the release that the documentation installs."""
    release = ("--namespace", "routed", "--kube-version", KUBERNETES.release)
    return _run(TOOLS.program("helm"), "template", "routed", chart, *release, *arguments)


def rendered() -> dict[Path, str]:
    """Return the files of deploy/kustomize that come from the chart, with what should be in them."""
    return {
        BASE: helm("--include-crds", "--values", VALUES),
        MONITORING: helm("--values", VALUES, "--values", VALUES.with_name("monitoring.yaml"), "--show-only", SINGLE),
        NIC: helm("--values", VALUES, "--set", "nic.setup=true,nic.podResources=true", "--show-only", DAEMON_SET),
    }


def kustomize(folder: Path) -> str:
    """Return what `kubectl apply -k` would apply."""
    return _run(KUBERNETES.program("kubectl"), "kustomize", folder)


def _run(*command: str | Path) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    for path, text in rendered().items():
        path.write_text(text)

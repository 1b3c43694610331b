"""Helm and promtool, built from pinned Go modules."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.gotools import GoTools

TOOLS = GoTools(
    name="routed-deploy",
    module=Path(__file__).with_name("build"),
    packages={
        "helm": "helm.sh/helm/v3/cmd/helm",
        "promtool": "github.com/prometheus/prometheus/cmd/promtool",
    },
    flags=["-tags", "remove_all_sd"],  # promtool needs no cloud's client library to check rules
)


if __name__ == "__main__":
    sys.exit(TOOLS.main(sys.argv[1:]))

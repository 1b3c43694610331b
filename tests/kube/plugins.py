"""The plugin that gives pods host ports, built from a pinned Go module: Debian's does not know `masqAll` yet."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.gotools import GoTools

PLUGINS = GoTools(
    name="routed-plugins",
    module=Path(__file__).with_name("portmap"),
    packages={"portmap": "github.com/containernetworking/plugins/plugins/meta/portmap"},
)


if __name__ == "__main__":
    sys.exit(PLUGINS.main(sys.argv[1:]))

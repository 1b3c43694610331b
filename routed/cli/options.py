"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_CONFIG = Path("/etc/routed/rack.yaml")
Config = Annotated[Path, typer.Option("--config", "-c", envvar="ROUTED_CONFIG", help="The rack file.")]
Server = Annotated[
    str, typer.Option(envvar="ROUTED_SERVER", help="This server's name in the rack file.", show_default="host name")
]

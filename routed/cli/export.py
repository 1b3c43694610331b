"""`routed audit export`: what this server's agent knows, for audits that are made elsewhere."""

from __future__ import annotations

import json

import typer

from routed.cli.client import request
from routed.cli.options import DEFAULT_CONFIG, Config

HELP = "Print what this server's agent announces, and for whom, as JSON; run on the server, as root."


def export(config: Config = DEFAULT_CONFIG) -> None:
    """Print the agent's export."""
    typer.echo(json.dumps(request("GET", "export", config), indent=1))

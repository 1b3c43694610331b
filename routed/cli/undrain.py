"""`routed undrain`: brings a drained server back."""

from __future__ import annotations

import typer

from routed.cli.client import request
from routed.cli.options import DEFAULT_CONFIG, Config

app = typer.Typer(add_completion=False)


@app.command()
def undrain(config: Config = DEFAULT_CONFIG) -> None:
    """Announce the routes of this server's pods again, after `routed drain`; the agent has to run."""
    request("POST", "undrain", config, body={})
    typer.echo("undrained: this server announces its pods again")

"""`routed drain`: takes this server out of the traffic, then ends its agent."""

from __future__ import annotations

import typer

from routed.cli.client import request
from routed.cli.options import DEFAULT_CONFIG, Config

app = typer.Typer(add_completion=False)


@app.command()
def drain(config: Config = DEFAULT_CONFIG) -> None:
    """Withdraw every route, wait until both ToRs were told, then stop the agent and its sessions.

    The server stays out of the fabric until `routed undrain`: an agent that starts meanwhile announces nothing.
    """
    request("POST", "drain", config, body={}, timeout_s=60.0)
    typer.echo("drained: no ToR sends to this server's pods any more, until `routed undrain`; the agent ends")

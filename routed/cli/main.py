"""The `routed` command."""

from __future__ import annotations

import asyncio
import socket
import sys
from typing import Annotated

import typer

from routed import __version__
from routed.cli import doctor, show, torconfig
from routed.cli.client import AgentUnreachableError, request
from routed.cli.options import DEFAULT_CONFIG, Config, Server
from routed.settings import SettingsError, is_local, load, local, read

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="BGP underlay routing for a flat L3 container network: pods' addresses, ports, flows and host routes.",
)
app.add_typer(show.app, name="show")
app.command(help=doctor.HELP)(doctor.doctor)
app.command("tor-config", help=torconfig.HELP)(torconfig.tor_config)


@app.command()
def agent(
    config: Config = DEFAULT_CONFIG,
    server: Server = "",
    debug: Annotated[bool, typer.Option(help="Log more.")] = False,
) -> None:
    """Run the agent of this server until SIGTERM; pods, flows and routes stay when it ends.

    With a file that has the section `kubernetes` and no rack, the rack is the one whose Rack object selects this server's
    Node, and the agent follows it.
    """
    from routed import recompose  # noqa: PLC0415 - see below
    from routed.agent import EXPECTED, Agent, reasons  # noqa: PLC0415 - takes most of a second to import; `show` needs none of it
    from routed.logs import configure  # noqa: PLC0415 - see above

    configure(debug=debug, readable=sys.stderr.isatty())
    document, name = read(config), server or socket.gethostname()
    if is_local(document):
        work = recompose.run(local(document, str(config)), name)
    else:
        settings = load(config)
        work = Agent(settings, settings.domain_server(name)).run()
    try:
        asyncio.run(work)
    except* EXPECTED as errors:
        for reason in reasons(errors):
            typer.echo(f"routed: {reason}", err=True)
        raise typer.Exit(1) from None


@app.command()
def drain(config: Config = DEFAULT_CONFIG) -> None:
    """Withdraw every route, wait until both ToRs were told, then stop the agent and its sessions."""
    request("POST", "drain", config, timeout_s=60.0)
    typer.echo("drained: no ToR sends to this server's pods any more; the agent has stopped")


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> None:
    """Run the command line; errors that a user can mend are one line, exit status 2."""
    try:
        app()
    except (SettingsError, AgentUnreachableError) as error:
        typer.echo(f"routed: {error}", err=True)
        sys.exit(2)

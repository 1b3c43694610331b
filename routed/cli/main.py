"""The `routed` command."""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from routed import __version__
from routed.cli import audit, doctor, mirror, nic, offload, prepare, show, torconfig
from routed.cli.client import AgentUnreachableError, request
from routed.cli.options import DEFAULT_CONFIG, Config, Server
from routed.settings import SettingsError, is_local, local, read, validated

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="BGP underlay routing for a flat L3 container network: pods' addresses, ports, flows and host routes.",
)
app.add_typer(show.app, name="show")
app.add_typer(audit.app, name="audit")
app.add_typer(doctor.app, name="doctor")
app.add_typer(nic.app, name="nic")
app.add_typer(offload.app, name="offload")
app.add_typer(mirror.app, name="mirror")
app.command(help=prepare.HELP)(prepare.prepare)
app.command("tor-config", help=torconfig.HELP)(torconfig.tor_config)


@app.command()
def agent(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    config: Config = DEFAULT_CONFIG,
    server: Server = "",
    cni_conf_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="ROUTED_CNI_CONF_DIR",
            help="Write the CNI configuration into this folder once pods can be attached.",
            show_default="none is written",
        ),
    ] = None,
    cni_bin_dir: Annotated[
        Path | None,
        typer.Option(
            envvar="ROUTED_CNI_BIN_DIR",
            help="The runtime's folder of plugins: pods' host ports are mapped if portmap is in it, else refused.",
            show_default="they are ignored",
        ),
    ] = None,
    bgp_user: Annotated[str, typer.Option(envvar="ROUTED_BGP_USER", help="The user that ExaBGP runs as.")] = "root",
    debug: Annotated[bool, typer.Option(help="Log more.")] = False,
) -> None:
    """Run the agent of this server until SIGTERM; pods, flows and routes stay when it ends.

    With a file that has the section `kubernetes` and no rack, the agent follows the Rack object that selects this
    server's Node.
    """
    # These take most of a second to import, and other commands need none of them.
    from routed import recompose  # noqa: PLC0415
    from routed.agent import EXPECTED, Agent, Container, reasons  # noqa: PLC0415
    from routed.logs import configure  # noqa: PLC0415

    configure(debug=debug, readable=sys.stderr.isatty())
    document, name = read(config), server or socket.gethostname()
    container = Container(cni_conf_dir, cni_bin_dir, bgp_user)
    if is_local(document):
        work = recompose.run(local(document, str(config)), name, container)
    else:
        settings = validated(document, str(config))
        if settings.kubernetes is not None:
            raise SettingsError(f"{config}: `kubernetes` is for a server's own file, whose rack is a Rack object")
        work = Agent(settings, settings.domain_server(name), container=container).run()
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

"""`routed agent`: runs the agent, as the server's file says, until it is told to end."""

from __future__ import annotations

import asyncio
import pwd
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from routed import recompose
from routed.agent import EXPECTED, Agent, Container, reasons
from routed.cli.options import DEFAULT_CONFIG, Config, Server
from routed.logs import configure
from routed.settings import SettingsError, is_local, local, read, validated

app = typer.Typer(add_completion=False)


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
    configure(debug=debug, readable=sys.stderr.isatty())
    _check_user(bgp_user)
    document, name = read(config), server or socket.gethostname()
    container = Container(cni_conf_dir, cni_bin_dir, bgp_user)
    try:
        if is_local(document):
            work = recompose.run(local(document, str(config)), name, container)
        else:
            settings = validated(document, str(config))
            if settings.kubernetes is not None:
                raise SettingsError(f"{config}: `kubernetes` is for a server's own file, whose rack is a Rack object")
            work = Agent(settings, settings.domain_server(name), container=container).run()
        asyncio.run(work)
    except* EXPECTED as errors:
        for reason in reasons(errors):
            typer.echo(f"routed: {reason}", err=True)
        raise typer.Exit(1) from None


def _check_user(name: str) -> None:
    """Raise SettingsError for a user that ExaBGP cannot become."""
    try:
        pwd.getpwnam(name)
    except KeyError:
        mend = f"`useradd --system --no-create-home --shell /usr/sbin/nologin {name}`, or another --bgp-user"
        raise SettingsError(f"this server has no user {name} for ExaBGP: {mend}") from None

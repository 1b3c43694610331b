"""`routed doctor`: what is wrong with this server, as a table for people or JSON for machines."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from routed.cli import nic
from routed.cli.client import AgentUnreachableError, request
from routed.cli.findings import summary, table
from routed.cli.options import DEFAULT_CONFIG, Config, Server
from routed.cli.show import Output, OutputOption
from routed.doctor.checks import judge
from routed.doctor.facts import Unseen
from routed.doctor.findings import exit_status
from routed.doctor.gather import RuntimeFolders, gather
from routed.logs import keep_silent
from routed.settings import load

HELP = """\
Say what is wrong with this server and what to do about it; change nothing.

Looks at the kernel, Open vSwitch, the bridge, the links to both ToRs, MTUs, kernel settings, the agent and its files, \
the gateways and both ToRs. Run it as root: first of all on a new server, before any agent runs, and whenever \
something does not work.

Each thing is ok, a warning (works, but not as well as it could), an error, or unknown (could not be observed); the \
line below says what to do. Read from the top: what comes first may explain what comes later.

Exit status:

0: nothing is wrong (there may be warnings)

1: something is wrong

2: the rack file cannot be used

3: nothing is known to be wrong, but something could not be observed
"""
_PATIENCE_S = 5.0
_FILE_WIDTH = 200
"""Columns when nobody looks."""


app = typer.Typer(add_completion=False, invoke_without_command=True)
app.command("nic", help=nic.DOCTOR_HELP)(nic.nic)


@app.callback(help=HELP)
def doctor(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    context: typer.Context,
    config: Config = DEFAULT_CONFIG,
    server: Server = "",
    output: OutputOption = Output.TABLE,
    cni_conf_dir: Annotated[
        Path, typer.Option(envvar="ROUTED_CNI_CONF_DIR", help="The runtime's folder of configurations.")
    ] = Path("/etc/cni/net.d"),
    cni_bin_dir: Annotated[
        Path, typer.Option(envvar="ROUTED_CNI_BIN_DIR", help="The runtime's folder of plugins.")
    ] = Path("/opt/cni/bin"),
) -> None:
    """Print the findings and exit with their status."""
    if context.invoked_subcommand is not None:
        return
    keep_silent()
    settings = load(config)
    me = settings.domain_server(server or socket.gethostname())
    runtime = RuntimeFolders(cni_conf_dir, cni_bin_dir)
    findings = judge(asyncio.run(gather(settings, me, _sessions(config), runtime)))
    if output is Output.JSON:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        width = None if sys.stdout.isatty() else _FILE_WIDTH
        Console(width=width).print(table(findings), summary(findings), sep="\n", highlight=False)
    raise typer.Exit(exit_status(findings))


def _sessions(config: Path) -> tuple[Mapping[str, Any], ...] | Unseen:
    """Return what the agent says of its neighbours."""
    try:
        return tuple(request("GET", "neighbors", config, timeout_s=_PATIENCE_S))
    except AgentUnreachableError:
        return Unseen(f"no agent answers on {load(config).control_socket}")

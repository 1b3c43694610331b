"""The `routed` command: what it can be told to do, and in which module that is. Imports none of them by itself."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperGroup

from routed.cli.later import Later
from routed.errors import MendableError

COMMANDS = (
    Later(
        "prepare",
        "routed.cli.prepare",
        "Prepare this server for an agent in a container: its file, the slots' namespace, the CNI plugin.",
    ),
    Later(
        "tor-config",
        "routed.cli.torconfig",
        "Write what the ToRs of a rack need: gateway, sessions with servers and spines, what they accept and what they "
        "export.",
    ),
    Later(
        "agent",
        "routed.cli.agent",
        "Run the agent of this server until SIGTERM; pods, flows and routes stay when it ends.",
    ),
    Later(
        "drain",
        "routed.cli.drain",
        "Withdraw every route, wait until both ToRs were told, then stop the agent and its sessions.",
    ),
    Later(
        "undrain",
        "routed.cli.undrain",
        "Announce the routes of this server's pods again, after `routed drain`; the agent has to run.",
    ),
    Later("version", "routed.cli.version", "Print the version."),
    Later("show", "routed.cli.show", "Show what the agent of this server holds and does."),
    Later(
        "audit",
        "routed.cli.audit",
        "Is every pod's route on both ToRs of its rack, with the right next hop, and nothing else?",
    ),
    Later(
        "doctor",
        "routed.cli.doctor",
        "Say what is wrong with this server and what to do about it; change nothing.",
    ),
    Later("nic", "routed.cli.nic", "Set up NICs with SR-IOV and hardware offload."),
    Later(
        "offload",
        "routed.cli.offload",
        "Where are pods' packets forwarded: in the NIC, in TC software, in Open vSwitch's slow path?",
    ),
    Later(
        "mirror",
        "routed.cli.mirror",
        "Copy a pod's packets to a device of this server: `routed mirror POD --to PORT`.",
    ),
)
"""In the overview's order; the summary is the first paragraph of the command's own help."""


class _Commands(TyperGroup):
    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for command in COMMANDS:
            self.add_command(command)


app = typer.Typer(cls=_Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def routed() -> None:
    """BGP underlay routing for a flat L3 container network: pods' addresses, ports, flows and host routes."""


def main() -> None:
    """Run the command line; errors that a user can mend are one line, exit status 2."""
    try:
        app()
    except MendableError as error:
        typer.echo(f"routed: {error}", err=True)
        sys.exit(2)

"""`routed mirror`: copies of a pod's packets to a device of this server, for tcpdump. Decides nothing."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from routed.cli.client import request
from routed.cli.options import DEFAULT_CONFIG, Config
from routed.cli.show import Output, OutputOption, print_rows
from routed.settings import SettingsError

HELP = """\
Copy a pod's packets to a device of this server: `routed mirror POD --to PORT`.

PORT is a device that is for this alone, a tap or one end of a veth pair; it is plugged into the bridge meanwhile, and \
what comes in by it goes nowhere. The pod notices nothing, but while it lasts a NIC does not forward its packets any \
more: the kernel does. docs/mirror.md
"""
_AFTERWARDS = """\
See them with:  tcpdump -nei {to}   (if it is one end of a veth pair: on the other end)
End it with:    routed mirror stop {pod}
Meanwhile the kernel forwards this pod's packets, not the NIC, unless {to} is a port of the NIC's own switch.\
"""
Pod = Annotated[str, typer.Argument(help="namespace/name, or one of its addresses.", show_default=False)]


class Direction(StrEnum):
    """As the pod sees it."""

    IN = "in"
    OUT = "out"
    BOTH = "both"


class _StartsByDefault(TyperGroup):
    """Takes a word that is no command for the pod to mirror: pods have a slash or a dot in their names."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the command in that was left out."""
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            args = ["start", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(add_completion=False, no_args_is_help=True, help=HELP, cls=_StartsByDefault)


@app.command()
def start(
    pod: Pod,
    to: Annotated[str, typer.Option(help="Device that the copies leave by.", show_default=False)],
    direction: Annotated[Direction, typer.Option(help="What is copied, as the pod sees it.")] = Direction.BOTH,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """Copy a pod's packets to a device, in place of where they were copied to before."""
    row = request("POST", "mirror", config, body={"pod": pod, "to": to, "direction": str(direction)})
    typer.echo(f"{row['pod']}: packets of {row['port']}, direction {row['direction']}, are copied to {row['to']}")
    typer.echo(_AFTERWARDS.format(**row))


@app.command("list")
def list_(config: Config = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Whose packets are copied, and where to."""
    print_rows("mirrors", request("GET", "mirrors", config), output)


@app.command()
def stop(
    pod: Annotated[str, typer.Argument(help="namespace/name, or one of its addresses.", show_default=False)] = "",
    everything: Annotated[bool, typer.Option("--all", help="End every mirror.")] = False,
    config: Config = DEFAULT_CONFIG,
) -> None:
    """End a mirror, and take its device off the bridge if the agent had plugged it."""
    if bool(pod) == everything:
        raise SettingsError("name the pod whose mirror is to end, or say --all")
    for row in request("POST", "unmirror", config, body={"pod": pod} if pod else {}):
        typer.echo(f"{row['pod']}: nothing is copied to {row['to']} any more")

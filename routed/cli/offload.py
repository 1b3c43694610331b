"""`routed offload`: where pods' packets are forwarded, as a table for people or JSON for machines. Decides nothing."""

from __future__ import annotations

import asyncio
import json
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovs_flows.errors import OvsError
from ovs_flows.offload import Layer, megaflows
from routed.attach.errors import AttachError
from routed.cli.client import request
from routed.cli.options import DEFAULT_CONFIG, Config
from routed.cli.show import Output, OutputOption, print_rows
from routed.settings import Settings, SettingsError, load

if TYPE_CHECKING:
    from routed.offload import Verdict

HELP = """\
Where are pods' packets forwarded: in the NIC, in TC software, in Open vSwitch's slow path?

A look at the datapath's flows by now. Flows that carry nothing are gone after ten seconds: a pod without traffic is \
idle, and `routed offload verify POD` makes some. docs/offload.md says what the reasons mean.
"""
_BLIND = 3
app = typer.Typer(add_completion=False, help=HELP)


@app.callback(invoke_without_command=True)
def offload(context: typer.Context, config: Config = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Print a row per pod."""
    if context.invoked_subcommand is None:
        print_rows("offload", request("GET", "offload", config), output)


@app.command()
def verify(
    pod: Annotated[str, typer.Argument(help="namespace/name, or one of its addresses.", show_default=False)],
    config: Config = DEFAULT_CONFIG,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send echo requests from a pod to its gateway, on the ToR, and say what forwarded them and the answers.

    Exit status: 0 all in hardware, 1 not all, or not all were answered, 2 usage, 3 it could not be observed.
    """
    settings = load(config)
    if settings.ipvlan is not None:
        raise SettingsError("pods of this server share its uplink: there is no bridge to offload (docs/ipvlan.md)")
    row = _row(request("GET", "attachments", config), pod)
    try:
        verdict = asyncio.run(_verify(settings, row))
    except (OvsError, AttachError, OSError, LookupError) as error:
        typer.echo(f"routed: {pod}: {error}", err=True)
        raise typer.Exit(_BLIND) from None
    _tell(row["pod"], verdict, output)
    raise typer.Exit(0 if verdict.proven else 1)


async def _verify(settings: Settings, row: dict[str, Any]) -> Verdict:
    from routed.offload import verify as prove  # noqa: PLC0415 - slow to import, and only this needs it

    rack = settings.domain_rack()
    gateways = [rack.gateway(ip_address(address)) for address in row["addresses"]]
    return await prove(row["netns"], gateways, row["port"], lambda: megaflows(settings.paths.ovs, settings.bridge.name))


def _row(rows: list[dict[str, Any]], pod: str) -> dict[str, Any]:
    for row in rows:
        if pod == row["pod"] or pod in row["addresses"]:
            return row
    raise SettingsError(f"no pod {pod} on this server; `routed show attachments` lists them, as namespace/name")


def _tell(pod: str, verdict: Verdict, output: Output) -> None:
    found = verdict.report
    ways = {"sent": found.sent, "received": found.received}
    document = {
        "pod": pod,
        "proven": verdict.proven,
        "state": found.state,
        "probes": verdict.sent,
        "answered": verdict.answered,
        **{way: {str(layer): tally.packets for layer, tally in of.items()} for way, of in ways.items()},
        "reasons": sorted(found.reasons),
    }
    if output is Output.JSON:
        typer.echo(json.dumps(document, indent=2))
        return
    typer.echo(f"{pod}: {found.state}; {verdict.answered} of {verdict.sent} probes answered")
    for way, of in ways.items():
        counts = ", ".join(f"{of[layer].packets} {layer}" for layer in reversed(Layer) if layer in of)
        typer.echo(f"  {way}: {counts or 'no packets counted'}")
    for reason in sorted(found.reasons):
        typer.echo(f"  -> {reason}")

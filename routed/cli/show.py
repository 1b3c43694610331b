"""`routed show`: what the running agent holds, as a table for people or JSON for machines."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from routed.cli.client import request
from routed.cli.options import DEFAULT_CONFIG, Config

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Show what the agent of this server holds and does.")


class Output(StrEnum):
    """How to print."""

    TABLE = "table"
    JSON = "json"


_FOR_PEOPLE = {
    "attachments": ("pod", "addresses", "state", "port", "vf", "mac", "interface", "error"),
    "neighbors": (
        *("tor", "address", "state", "for_s", "ipv4_routes", "ipv6_routes"),
        *("end_of_rib", "reason", "side", "side_reason", "steers"),
    ),
}
"""Columns of the tables that would be too wide with all of them."""
_FILE_WIDTH = 200
"""Columns of output that nobody looks at directly."""
OutputOption = Annotated[Output, typer.Option("--output", "-o", help="Table for people, JSON for machines.")]


@app.command()
def attachments(config: Config = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Pods' interfaces: addresses, slot, state, and the last error of those that are not ready."""
    _show("attachments", config, output)


@app.command()
def routes(config: Config = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Host routes, per neighbour: next hop, communities, announced or not."""
    _show("routes", config, output)


@app.command()
def flows(config: Config = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """OpenFlow entries of the bridge by owner, as `ovs-ofctl` would write them."""
    _show("flows", config, output)


@app.command()
def neighbors(config: Config = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """ToRs: the BGP session and what it was told, how this server reaches it, whether it steers pods' traffic."""
    _show("neighbors", config, output)


@app.command()
def leases(config: Config = DEFAULT_CONFIG, output: OutputOption = Output.TABLE) -> None:
    """Address pools: capacity, used, cooling down, free."""
    _show("leases", config, output)


def _show(what: str, config: Path, output: Output) -> None:
    print_rows(what, request("GET", what, config), output)


def print_rows(what: str, rows: Sequence[dict[str, Any]], output: Output) -> None:
    """Print what the agent answered."""
    if output is Output.JSON:
        typer.echo(json.dumps(rows, indent=2))
    elif not rows:
        typer.echo(f"no {what}")
    else:
        columns = _FOR_PEOPLE.get(what, tuple(rows[0]))
        console = Console(width=None if sys.stdout.isatty() else _FILE_WIDTH)
        console.print(table(what, [{column: row[column] for column in columns} for row in rows]))


def table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows as a table; the columns are the keys of the first row."""
    grid = Table(title=f"{title}: {len(rows)}", title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in rows[0] if rows else ():
        grid.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        grid.add_row(*(Text(_cell(value)) for value in row.values()))  # to rich, ":ab:" in a MAC is an emoji
    return grid


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)

"""The lab's command line: decides nothing, `containerlab.lab` does."""

from __future__ import annotations

import enum
import os
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from containerlab.errors import LabError
from containerlab.generate import write
from containerlab.graph import mermaid
from containerlab.lab import Lab
from containerlab.runners import Runner, find, named
from containerlab.status import collect, page
from containerlab.topology import TWO_RACKS, load

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Run a containerlab topology in network namespaces: real FRR and Open vSwitch, no containers, as root.\n\n"
    "A node is a set of namespaces (mount, UTS, IPC, PID, network) on this machine's own file system: the same"
    " programs, private /etc, /var and /run. `docs/fabric.md` describes the two racks that come with it.",
)
TopologyOption = Annotated[Path, typer.Option("--topology", "-t", help="The topology file.")]
NameOption = Annotated[str | None, typer.Option("--name", help="Name, when several run. Default: the file's.")]
ExistingOption = Annotated[str, typer.Option("--name", help="Which lab.")]
DEFAULT_NAME = "two-racks"


class Output(enum.StrEnum):
    """How to print."""

    table = "table"
    json = "json"


def _root() -> None:
    if os.geteuid() != 0:
        raise LabError("namespaces need root: run it with sudo")


@app.command()
def up(
    topology: TopologyOption = TWO_RACKS,
    name: NameOption = None,
    runner: Annotated[Runner, typer.Option(help="Who realises the file.")] = Runner.netns,
) -> None:
    """Bring a lab up and wait until every node is healthy."""
    _root()
    start = time.monotonic()
    lab = runner.lab.up(
        topology, name=name, report=lambda line: print(f"{time.monotonic() - start:5.1f} s  {line}", flush=True)
    )
    option = "" if lab.name == DEFAULT_NAME else f" --name {lab.name}"
    try:
        seconds = lab.wait_ready()
    except LabError as error:
        raise LabError(
            f"{error}\nthe lab stays as it is to be looked at: python -m containerlab down{option}"
        ) from error
    print(f"lab {lab.name} is ready after {seconds:.1f} s. Look around:")
    print(f"  python -m containerlab status{option}")
    print(f"  python -m containerlab exec{option} r1a vtysh")
    print(f"  python -m containerlab down{option}")


@app.command()
def down(
    name: ExistingOption = DEFAULT_NAME,
    everything: Annotated[bool, typer.Option("--all", help="Every lab on this machine.")] = False,
) -> None:
    """Take a lab down: also what a crash left, and again when nothing is there."""
    _root()
    for each in Lab.names() if everything else [name]:
        named(each).down()
        print(f"lab {each} is down")


@app.command()
def status(
    name: ExistingOption = DEFAULT_NAME, output: Annotated[Output, typer.Option(help="For whom.")] = Output.table
) -> None:
    """Show bonds, BGP sessions and routes on one page."""
    _root()
    found = collect(find(name))
    if output is Output.json:
        print(found.as_json())
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(page(found))


@app.command(name="exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
def exec_(
    node: Annotated[str, typer.Argument(help="The node, such as r1a.")],
    command: Annotated[list[str], typer.Argument(help="What to run there, such as: vtysh -c 'show bgp summary'")],
    name: ExistingOption = DEFAULT_NAME,
) -> None:
    """Run a command inside a node, with your terminal."""
    _root()
    find(name).node(node).exec(command)


@app.command()
def generate(
    output: Annotated[Path, typer.Option(help="Folder to write to.")],
    racks: Annotated[int, typer.Option(help="How many racks, each with two ToRs.")] = 3,
    servers: Annotated[int, typer.Option(help="How many servers in each rack.")] = 4,
    name: NameOption = None,
) -> None:
    """Write a fabric of another size: topology, router configurations, rack files."""
    path = write(output, name or f"racks-{racks}x{servers}", racks, servers)
    print(f"{path}: {racks} racks, {racks * servers} servers. Bring it up:")
    print(f"  python -m containerlab up -t {path}")


@app.command()
def graph(topology: TopologyOption = TWO_RACKS) -> None:
    """Print the topology as a Mermaid diagram."""
    print(mermaid(load(topology)))


def main() -> int:
    """Run the command line; failures that have an explanation are one line, not a traceback."""
    try:
        app()
    except LabError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0

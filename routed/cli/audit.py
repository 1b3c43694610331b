"""`routed audit`: looks at racks and switches, prints what differs from what should be. Decides nothing itself."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from ipaddress import ip_interface
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType

from ipam.model import IPAddress
from routed.audit.model import Audit, Finding
from routed.audit.report import baseline as baselines
from routed.audit.report import tables
from routed.audit.report.changes import changes
from routed.audit.report.summary import EXIT_STATUS, counted, judge, summarize
from routed.audit.settings import DEFAULT
from routed.cli import export
from routed.cli.looking import asked, audited
from routed.settings import SettingsError

HELP = """\
Is every pod's route on both ToRs of its rack, with the right next hop, and nothing else?

Reads racks, agents and switches as the audit file says (docs/audit.md), compares them address by address, and says \
what differs: worst first, with what every plane shows, the likely cause and the command to run next. Changes nothing; \
needs no more than a login that may show on the switches, and what the servers' agents export.

Exit status:

0: nothing was found

1: something was found, whatever else could not be observed

2: a file or an option cannot be used

3: nothing was found, but something could not be observed

Examples:

routed audit --config audit.yaml

routed audit --verbose | less

routed audit --html report.html

routed audit --write-baseline known.txt; routed audit --baseline known.txt

routed audit explain 10.101.0.23; routed audit explain shop/cart

routed audit racks r1

routed audit watch --interval 30
"""
_WIDE = 10_000
"""Columns when nobody looks: a line is a line."""
_INTERRUPTED = 130
"""As shells report SIGINT; nothing is known yet."""


class Output(StrEnum):
    """How to print an audit."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"
    JUNIT = "junit"


class RacksOutput(StrEnum):
    """How to print racks."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


Config = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="ROUTED_AUDIT_CONFIG", help="The audit file.", show_default=str(DEFAULT)),
]
LateConfig = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The audit file.", show_default="as said before the command"),
]
"""Behind a subcommand's name; it does not read the environment, so as not to overrule what stands before the name."""
Baseline = Annotated[
    Path | None, typer.Option(help="Accept the findings that this file lists.", show_default="none is accepted")
]
app = typer.Typer(add_completion=False, help=HELP)
app.command(help=export.HELP)(export.export)


@app.callback(invoke_without_command=True)
def audit(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    context: typer.Context,
    config: Config = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="Table for people, the others for machines.")] = (
        Output.TABLE
    ),
    html: Annotated[Path | None, typer.Option(help="Write a page for the browser, too.", show_default="none")] = None,
    baseline: Baseline = None,
    write_baseline: Annotated[
        Path | None, typer.Option(help="Write a baseline that accepts all that is found now.", show_default="none")
    ] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Evidence, likely cause and what to do.")] = False,
) -> None:
    """Audit once and print the findings."""
    context.obj = config
    if context.invoked_subcommand is not None:
        return
    known = () if baseline is None else baselines.read(baseline)
    found = baselines.accept(audited(_file(context, config)), known)
    _print_audit(found, output, verbose=verbose)
    _tell_missed(known, found)
    if html is not None:
        from routed.audit.report.page import render  # noqa: PLC0415 - only this needs templates

        _write(html, render(found))
    if write_baseline is not None:
        count = baselines.write(write_baseline, found)
        typer.echo(f"{write_baseline}: {counted(count, 'fault')}; say why each is accepted, or remove it", err=True)
    raise typer.Exit(_status(found))


@app.command()
def explain(
    context: typer.Context,
    what: Annotated[
        str,
        typer.Argument(metavar="ADDRESS|POD", help="An address of any kind, or NAMESPACE/POD.", show_default=False),
    ],
    config: LateConfig = None,
) -> None:
    """Tell the whole story of an address: pod, server, port, sessions, routes on ToRs and spines, what is wrong.

    Of a pod, that of each of its addresses.

    Exit status: 0 nothing is wrong with it, 1 something is, 2 usage, 3 something could not be observed.
    """
    from routed.audit.report.story import story  # noqa: PLC0415 - other commands need none of it

    told = asked(_subject(what), _file(context, config))
    for number, one in enumerate(told):
        _show(Group(*([""] if number else []), story(one)))
    raise typer.Exit(EXIT_STATUS[judge(finding for one in told for finding in one.findings)])


def _subject(text: str) -> IPAddress | str:
    """Return the address that is meant, also by its host prefix, or the pod's name; SettingsError for anything else."""
    try:
        host = ip_interface(text)
    except ValueError:
        if re.fullmatch(r"[^/]+/[^/]+", text):
            return text
        raise SettingsError(f"{text!r} is no IP address, and no pod: NAMESPACE/POD") from None
    if host.network.prefixlen != host.max_prefixlen:
        raise SettingsError(f"{text} is {host.network.num_addresses} addresses; ask about one of them")
    return host.ip


@app.command()
def racks(
    context: typer.Context,
    names: Annotated[list[str] | None, typer.Argument(metavar="[RACK]...", show_default="all racks")] = None,
    config: LateConfig = None,
    output: Annotated[RacksOutput, typer.Option("--output", "-o", help="Table for people, or for machines.")] = (
        RacksOutput.TABLE
    ),
) -> None:
    """Show how full racks are: every pool as a table and as a map of its addresses.

    Findings show on the map, and the exit status is that of `routed audit`.
    """
    found = _only(audited(_file(context, config)), names or [])
    if output is RacksOutput.TABLE:
        _show(tables.racks(found))
    else:
        from routed.audit.report import machine  # noqa: PLC0415 - people need none of it

        text = (
            machine.to_json(found, holdings=True) if output is RacksOutput.JSON else machine.racks_to_csv(found.racks)
        )
        typer.echo(text, nl=output is RacksOutput.JSON)
    raise typer.Exit(_status(found))


@app.command()
def watch(
    context: typer.Context,
    config: LateConfig = None,
    interval: Annotated[float, typer.Option(min=1, help="Seconds from one look's end to the next one.")] = 30.0,
    baseline: Baseline = None,
) -> None:
    """Audit again and again; show what is found first, then what comes and what goes.

    Ends with Ctrl-C and the exit status of the last look.
    """
    known = () if baseline is None else baselines.read(baseline)
    file = _file(context, config)
    status = _INTERRUPTED
    standing: Mapping[str, Finding] | None = None
    try:
        while True:
            try:
                found = baselines.accept(audited(file), known)
            except typer.Exit as blind:
                status = blind.exit_code
            else:
                first, difference = standing is None, changes(standing or {}, found)
                status, standing = _status(found), difference.standing
                if first:
                    _show(tables.findings(found))
                elif difference.came or difference.gone:
                    _show(tables.changed(found, difference))
            time.sleep(interval)
    except KeyboardInterrupt:
        raise typer.Exit(status) from None


def _file(context: typer.Context, config: Path | None) -> Path:
    """Return the audit file: named behind the subcommand, before it, or by the environment, in this order."""
    named: Path | None = config or context.obj
    if named is None and not DEFAULT.exists():
        raise SettingsError(f"there is no {DEFAULT}; name an audit file with --config (docs/audit.md has one)")
    return named or DEFAULT


def _only(audit: Audit, names: Sequence[str]) -> Audit:
    """Return the audit of these racks; SettingsError for one that there is not. All of them without names."""
    if not names:
        return audit
    there = {rack.rack for rack in audit.racks}
    for name in names:
        if name not in there:
            raise SettingsError(f"there is no rack {name!r}; there are {', '.join(sorted(there)) or 'none'}")
    return replace(
        audit,
        racks=tuple(rack for rack in audit.racks if rack.rack in names),
        findings=tuple(finding for finding in audit.findings if finding.rack in names),
    )


def _print_audit(audit: Audit, output: Output, *, verbose: bool) -> None:
    if output is Output.TABLE:
        _show(tables.details(audit) if verbose else tables.findings(audit))
        return
    from routed.audit.report import machine  # noqa: PLC0415 - people need none of it

    write = {Output.JSON: machine.to_json, Output.CSV: machine.to_csv, Output.JUNIT: machine.to_junit}
    typer.echo(write[output](audit).rstrip("\r\n"))


def _show(what: RenderableType) -> None:
    console = Console()
    if console.is_terminal:
        tables.show(console, what)
    else:
        typer.echo(tables.text(what, _WIDE), nl=False)


def _tell_missed(known: Sequence[str], audit: Audit) -> None:
    """Say which accepted findings are no more; on standard error, which machines do not read."""
    absent = baselines.missed(known, audit)
    for key in absent.gone:
        typer.echo(f"accepted and gone, remove it from the baseline: {key}", err=True)
    for key in absent.unknown:
        typer.echo(f"accepted and not seen, because something could not be observed: {key}", err=True)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error


def _status(audit: Audit) -> int:
    return EXIT_STATUS[summarize(audit).verdict]

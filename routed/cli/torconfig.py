"""`routed tor-config`: the ToR side of a rack, as a vendor's configuration."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated

import typer

from routed.kube.kubeconfig import users
from routed.settings import Settings, SettingsError, checked, read, validated
from routed.torconfig.plan import PlanError, plan
from routed.torconfig.render import render
from routed.torconfig.settings import FabricFile
from routed.torconfig.vendor_name import VendorName

HELP = """\
Write what the ToRs of a rack need: gateway, sessions with servers and spines, what they accept and what they export.

Reads the agents' own rack file or, in a cluster, the Rack object that they follow and its Nodes, so that switches and \
servers agree; contacts no switch. What only switches need to know (spines, ports, MAC and LACP addresses) stands in \
the file's `fabric` section, or in a file with that section alone; what is missing there becomes a marked \
<placeholder>, listed at the top of the text.

With --rack, RACKFILE is what is to be applied once the ToRs know it: a Rack or Nodes, as kubectl prints them with \
`--dry-run=server --output=yaml`.

One ToR goes to standard output, all of them into --output-dir. The text is to be read before it is loaded: \
docs/tor-config.md explains every stanza, and says which vendors' text was run on the real thing.

Exit status: 0 written, 2 the rack cannot be found or used, or the vendor cannot express it.

Examples:

routed tor-config --vendor eos --tor r1a rack.yaml

routed tor-config --vendor junos --output-dir configs rack.yaml

routed tor-config --vendor eos --tor r1a --rack r1 --fabric fabric.yaml
"""
app = typer.Typer(add_completion=False)


@app.command(help=HELP)
def tor_config(  # noqa: PLR0913, PLR0917 - a command's options are its parameters
    vendor: Annotated[VendorName, typer.Option(help="Whose words.", show_default=False)],
    rack_file: Annotated[
        Path | None,
        typer.Argument(metavar="RACKFILE", help="The rack file; see above for --rack.", show_default=False),
    ] = None,
    rack: Annotated[str, typer.Option(help="A Rack of a cluster, in place of a rack file.", show_default="none")] = "",
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="How to reach the cluster's API server; with --rack.", show_default="KUBECONFIG, else ~/.kube/config"
        ),
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="A context of the kubeconfig.", show_default="its current one")
    ] = None,
    fabric: Annotated[
        Path | None, typer.Option(help="A file with the `fabric` section.", show_default="the rack file's section")
    ] = None,
    tor: Annotated[str, typer.Option(help="A ToR of the rack.", show_default="all, which needs --output-dir")] = "",
    output_dir: Annotated[
        Path | None, typer.Option(help="Write a file per ToR here, TOR.SUFFIX.", show_default="standard output")
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="The TCP MD5 secret, one line, to put into the text; files are then readable by the owner only.",
            show_default="a placeholder when the rack has one",
        ),
    ] = None,
) -> None:
    """Render, then print or write."""
    settings, source = _from_cluster(rack, rack_file, kubeconfig or users(), context) if rack else _from_file(rack_file)
    if fabric is not None:
        settings = _with_fabric(settings, source, fabric)
    names = [tor] if tor else [entry.name for entry in settings.tors]
    if output_dir is None and len(names) > 1:
        raise SettingsError(f"{source} has {len(names)} ToRs: name one with --tor, or take --output-dir for all")
    md5 = _md5(password_file)
    try:
        files = [file for name in names for file in render(plan(settings, name, md5=md5), vendor)]
    except PlanError as error:
        raise SettingsError(f"{source}: {error}") from error
    if output_dir is None:
        for file in files:
            if len(files) > 1:
                typer.echo(f"######## {file.name}: {file.purpose}")
            typer.echo(file.text, nl=False)
        return
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        for file in files:
            _write(output_dir / file.name, file.text, mode=0o644 if md5 is None else 0o600)
            typer.echo(f"{output_dir / file.name}: {file.purpose}{_left(file.placeholders)}")
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from error


def _from_file(path: Path | None) -> tuple[Settings, str]:
    """Return what a rack file says, and what to call it in messages."""
    if path is None:
        raise SettingsError("say which rack: by its RACKFILE, or with --rack if it is a Rack object of a cluster")
    document = read(path)
    if isinstance(document, dict) and document.keys() & {"kind", "kubernetes"}:
        raise SettingsError(f"{path} is no rack file: its rack is a Rack object of a cluster; name that with --rack")
    return validated(document, str(path)), str(path)


def _from_cluster(name: str, changes: Path | None, kubeconfig: Path, context: str | None) -> tuple[Settings, str]:
    """Return what a rack file would say of a Rack and its Nodes, and what to call it in messages."""
    from routed.kube.errors import KubeError  # noqa: PLC0415 - slow to import, and a rack file needs none of it
    from routed.kube.whole import manifests, rack_to_be  # noqa: PLC0415 - see above

    to_be = () if changes is None else manifests(changes)
    try:
        return asyncio.run(rack_to_be(name, to_be, kubeconfig, context)), f"Rack {name}"
    except KubeError as error:
        where = f"{kubeconfig} ({context})" if context else str(kubeconfig)
        raise SettingsError(f"the Kubernetes API of {where}: {error}") from error


def _with_fabric(settings: Settings, source: str, path: Path) -> Settings:
    """Return the settings with the `fabric` section of another file."""
    if settings.fabric is not None:
        raise SettingsError(f"{path}: {source} has a `fabric` section of its own; keep one of the two")
    return settings.model_copy(update={"fabric": checked(FabricFile, read(path), str(path)).fabric})


def _md5(path: Path | None) -> str | None:
    """Return the first line of the file, None without one."""
    if path is None:
        return None
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if not lines[0] or any(lines[1:]) or set(lines[0]) & set(" \t\"'\\;{}"):
        raise SettingsError(f"{path}: needs one line without blanks, quotes or braces, which some vendors cannot read")
    return lines[0]


def _write(path: Path, text: str, mode: int) -> None:
    """Replace a file; nobody else can read a secret in it, at no time."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)


def _left(placeholders: tuple[str, ...]) -> str:
    return f" ({len(placeholders)} placeholders to fill in)" if placeholders else ""

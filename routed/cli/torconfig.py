"""`routed tor-config`: the ToR side of a rack, as a vendor's configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from routed.settings import SettingsError, load
from routed.torconfig.vendor_name import VendorName

HELP = """\
Write what the ToRs of a rack need: gateway, sessions with servers and spines, what they accept and what they export.

Reads the agents' own rack file, so that switches and servers agree; contacts no switch. What only switches need to \
know \
(spines, ports, MAC and LACP addresses) stands in the file's `fabric` section; what is missing there becomes a marked \
<placeholder>, listed at the top of the text.

One ToR goes to standard output, all of them into --output-dir. The text is to be read before it is loaded: \
docs/tor-config.md explains every stanza, and says which vendors' text was run on the real thing.

Exit status: 0 written, 2 the rack file cannot be used or the vendor cannot express it.

Examples:

routed tor-config --vendor eos --tor r1a rack.yaml

routed tor-config --vendor junos --output-dir configs rack.yaml
"""


def tor_config(
    rack_file: Annotated[Path, typer.Argument(metavar="RACKFILE", help="The rack file.", show_default=False)],
    vendor: Annotated[VendorName, typer.Option(help="Whose words.", show_default=False)],
    tor: Annotated[
        str, typer.Option(help="A ToR of the rack file.", show_default="all, which needs --output-dir")
    ] = "",
    output_dir: Annotated[
        Path | None, typer.Option(help="Write a file per ToR here, TOR.SUFFIX.", show_default="standard output")
    ] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(
            help="The TCP MD5 secret, one line, to put into the text; files are then readable by the owner only.",
            show_default="a placeholder when the rack file has bgp.password_file",
        ),
    ] = None,
) -> None:
    """Render, then print or write."""
    from routed.torconfig.plan import PlanError, plan  # noqa: PLC0415 - other commands need none of it
    from routed.torconfig.render import render  # noqa: PLC0415 - slow to import

    settings = load(rack_file)
    names = [tor] if tor else [entry.name for entry in settings.tors]
    if output_dir is None and len(names) > 1:
        raise SettingsError(f"{rack_file} has {len(names)} ToRs: name one with --tor, or take --output-dir for all")
    md5 = _md5(password_file)
    try:
        files = [file for name in names for file in render(plan(settings, name, md5=md5), vendor)]
    except PlanError as error:
        raise SettingsError(f"{rack_file}: {error}") from error
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

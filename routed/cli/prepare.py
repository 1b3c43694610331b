"""`routed prepare`: what an agent in a container needs of its server and cannot do itself."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import typer

from routed.attach.errors import KernelError
from routed.attach.slots import SlotSpace
from routed.cli.options import Server
from routed.cni.install import install_plugin
from routed.files import put
from routed.settings import Settings, SettingsError, is_local, local, read, validated

SHARED, OWN = "agent.yaml", "agent-{server}.yaml"
HELP = """\
Prepare this server for an agent in a container: its file, the slots' namespace, the CNI plugin.

Runs before each agent, in a container that may mount; the agent itself then needs far less. Changes nothing that pods \
use: the namespace is made only when there is none, the plugin is replaced as a whole.

Exit status: 0 prepared, 2 no rack file lists this server, or a file cannot be used.
"""
app = typer.Typer(add_completion=False)


@app.command(help=HELP)
def prepare(
    racks: Annotated[
        Path, typer.Option(envvar="ROUTED_RACKS", help="A folder of rack files, or agent.yaml and agent-SERVER.yaml.")
    ],
    plugin: Annotated[Path, typer.Option(envvar="ROUTED_PLUGIN", help="The CNI plugin's program.")],
    bin_dir: Annotated[Path, typer.Option(envvar="ROUTED_CNI_BIN_DIR", help="The runtime's folder of plugins.")],
    config: Annotated[
        Path, typer.Option("--config", "-c", envvar="ROUTED_CONFIG", help="Where this server's file goes to.")
    ],
    server: Server = "",
) -> None:
    """Choose the file, mount the namespace, install the plugin."""
    server = server or socket.gethostname()
    file, run = own_file(racks, server)
    try:
        put(config, file.read_bytes(), mode=0o600)
        SlotSpace(run / "slots").netns()
        install_plugin(plugin, bin_dir)
    except KernelError as error:
        raise SettingsError(f"{error}; this has to run in a privileged container") from error
    except OSError as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from error
    typer.echo(f"prepared {server} with {file.name}: {config}, {run / 'slots'}, {bin_dir}")


def own_file(folder: Path, server: str) -> tuple[Path, Path]:
    """Return a server's file, and its `paths.run`; where Racks are objects, its own one, else what all others share."""
    for file in (folder / OWN.format(server=server), folder / SHARED):
        if file.exists():
            return file, local(read(file), str(file)).paths.run
    file, settings = own_rack(folder, server)
    return file, settings.paths.run


def own_rack(folder: Path, server: str) -> tuple[Path, Settings]:
    """Return the one rack file of a folder that lists the server; SettingsError when none does, or two do."""
    documents = {file: read(file) for file in sorted(folder.glob("*.yaml"))}
    files = {file: validated(one, str(file)) for file, one in documents.items() if not is_local(one)}
    found = [(file, settings) for file, settings in files.items() if server in settings.servers]
    if not found:
        raise SettingsError(f"server {server!r} is in none of the {len(files)} rack files in {folder}")
    if len(found) > 1:
        raise SettingsError(f"server {server!r} is in two rack files: {found[0][0].name}, {found[1][0].name}")
    return found[0]

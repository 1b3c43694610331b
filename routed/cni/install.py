"""What a container runtime finds of us on a server: the plugin among its plugins, the configuration that names it.

Whoever looks sees the old file or the new one, never a part: runtimes run the plugin at any moment and watch the folder
of configurations. A server that has a configuration counts as ready for pods, so it is written last.
"""

from __future__ import annotations

import os
from pathlib import Path

PLUGIN = "routed"
"""The plugin's file name, which is its `type` in a configuration (CNI 1.1 section 1)."""
CONFIGURATION = "10-routed.conflist"
CONFLIST = """\
{
  "cniVersion": "1.0.0",
  "name": "routed",
  "plugins": [{ "type": "routed" }]
}
"""


def install_plugin(program: Path, folder: Path) -> None:
    """Copy the plugin's program into a runtime's folder of plugins; OSError."""
    replace(folder / PLUGIN, program.read_bytes(), mode=0o755)


def publish(folder: Path) -> None:
    """Write the configuration into a runtime's folder of configurations; OSError.

    One that is there stays as it is: an operator may have changed it.
    """
    if not (folder / CONFIGURATION).exists():
        replace(folder / CONFIGURATION, CONFLIST.encode("ascii"), mode=0o644)


def replace(target: Path, content: bytes, mode: int) -> None:
    """Write a file of this content, durable and complete before it has its name; OSError."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    draft = target.with_name(f".{target.name}.new")
    draft.unlink(missing_ok=True)  # a program that somebody runs cannot be written to
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fchmod(file.fileno(), mode)  # whatever the umask is
        os.fsync(file.fileno())
    draft.replace(target)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

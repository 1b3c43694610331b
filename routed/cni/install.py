"""What a container runtime finds of us on a server: the plugin among its plugins, the configuration that names it.

Whoever looks sees the old file or the new one, never a part: runtimes run the plugin at any moment and watch the folder
of configurations. A server that has a configuration counts as ready for pods, so it is written last.

Host ports are the business of the plugin `portmap`, which follows ours in the chain where it can do it. A pod sends its
answers straight to the fabric, so connections have to come to it from the server: that is what `masqAll` is for, which
came with release 1.2.0, and which the nftables backend does not heed in releases up to 1.9.1.
"""

from __future__ import annotations

import errno
from enum import StrEnum
from pathlib import Path

import structlog

from routed.files import put

log = structlog.get_logger(__name__)

PLUGIN = "routed"
"""The plugin's file name, which is its `type` in a configuration (CNI 1.1 section 1)."""
CONFIGURATION = "10-routed.conflist"
PORTMAP = "portmap"
_CONFLIST = """\
{
  "cniVersion": "1.0.0",
  "name": "routed",
  "plugins": [%s]
}
"""


class HostPorts(StrEnum):
    """What becomes of the host ports that pods ask for (`hostPort` of a container)."""

    MAPPED = "mapped"
    """`portmap` follows our plugin."""
    REFUSED = "refused"
    """No `portmap` is there that can: runtimes tell our plugin of them, which fails such a pod and says why."""
    IGNORED = "ignored"
    """Runtimes tell nobody of them."""


_PLUGINS = {
    HostPorts.MAPPED: """
    { "type": "routed" },
    {
      "type": "portmap",
      "capabilities": { "portMappings": true },
      "snat": true,
      "masqAll": true,
      "backend": "iptables"
    }
  """,
    HostPorts.REFUSED: '{ "type": "routed", "capabilities": { "portMappings": true } }',
    HostPorts.IGNORED: '{ "type": "routed" }',
}


def can_map(folder: Path) -> bool | None:
    """Tell whether a runtime's `portmap` knows `masqAll`; None when there is no `portmap`.

    OSError, also for a link that leads to nothing: in a container, what it leads to may just not be mounted.
    """
    program = folder / PORTMAP
    try:
        return b"masqAll" in program.read_bytes()  # the key stands in the program; versions may be "unknown"
    except FileNotFoundError:
        if program.is_symlink():
            where = f"links to {program.readlink()}, which is not to be seen from here"
            raise FileNotFoundError(errno.ENOENT, where, str(program)) from None
        return None


def conflist(host_ports: HostPorts) -> str:
    """Return the configuration (CNI 1.0.0 section 1)."""
    return _CONFLIST % _PLUGINS[host_ports]


def install_plugin(program: Path, folder: Path) -> None:
    """Copy the plugin's program into a runtime's folder of plugins; OSError."""
    put(folder / PLUGIN, program.read_bytes(), mode=0o755)


def publish(folder: Path, wanted: HostPorts | None) -> None:
    """Write the configuration into a runtime's folder of configurations; OSError.

    One that an operator has changed stays as it is. None: what the server can is not known, so one of ours stays, too.
    A runtime ends a pod with the plugins that it knows by then: without `portmap`, the pod's rules outlive it.
    """
    file = folder / CONFIGURATION
    there = file.read_bytes() if file.exists() else None
    before = next((each for each in HostPorts if there == conflist(each).encode("ascii")), None)
    if there is not None and before is None:
        log.info("cni.kept", file=str(file))
        return
    now = wanted or before or HostPorts.REFUSED
    if now is not before:
        if before is HostPorts.MAPPED:
            log.warning("portmap.unchained", host_ports=now.value)
        put(file, conflist(now).encode("ascii"), mode=0o644)
    log.info("cni.published", host_ports=now.value)

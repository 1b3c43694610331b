"""Images of the end-to-end test: made from this machine's files and imported, so that nothing is pulled."""

from __future__ import annotations

import sys
from pathlib import Path

from containerlab.archives import Image
from containerlab.pods import ROOT, SHIM

WORKLOAD = "localhost/busybox:1"
PORT = 8080
"""That its web servers listen to."""
BUSYBOX = Path("/bin/busybox")
"""Debian's static one."""
APPLETS = ("cat", "hostname", "httpd", "nc", "nslookup", "sh", "sleep", "wget")
BORROWED = ("/usr", sys.base_prefix, str(ROOT))
"""Folders that the agent's image has not got itself: whoever runs it mounts this machine's, at the same place."""


def workload() -> Image:
    """Return the image of the cluster's users: a shell, a web server and a client."""
    return Image(
        WORKLOAD,
        {"bin/busybox": BUSYBOX.read_bytes()},
        links={f"bin/{name}": "busybox" for name in APPLETS},
        folders=("bin", "tmp", "www"),
        env={"PATH": "/bin"},
    )


def agent(name: str) -> Image:
    """Return the agent's image but for its programs, which are BORROWED: copying them takes long, server by server."""
    programs = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin"
    return Image(
        name,
        {file.lstrip("/"): Path(file).read_bytes() for file in ("/etc/passwd", "/etc/group", "/etc/ld.so.cache")},
        links={"var/run": "/run", **{name: f"usr/{name}" for name in ("bin", "lib", "lib64", "sbin")}},
        folders=("dev", "etc", "proc", "run", "sys", "tmp", "var"),
        entrypoint=["routed"],
        env={"PATH": programs, "ROUTED_BGP_USER": "nobody", "ROUTED_PLUGIN": str(SHIM)},
    )

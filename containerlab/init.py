"""Turns a fresh set of namespaces into a node, then becomes the node's entrypoint: PID 1, as in a container.

Run by `unshare` as ``init.py FOLDER``; FOLDER/spec.json says what the node is, FOLDER/log takes the entrypoint's
output. One line on standard output says that the node stands, before links arrive. Only the standard library is used.

The root file system is the host's, so that programs, the checkout and /tmp are the same everywhere. What nodes write
elsewhere is their own: /etc and /var are copies on write, /run and PRIVATE are empty at the start, all in memory.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

SHARED = ("etc", "var")
"""Copied on write."""
PRIVATE = (
    "/run",
    "/var/log",
    "/etc/cni",
    "/etc/frr",
    "/etc/openvswitch",
    "/var/lib/cni",
    "/var/lib/containerd",
    "/var/lib/frr",
    "/var/lib/kubelet",
    "/var/lib/openvswitch",
    "/var/lib/routed",
)
"""Empty at the start: daemons keep their state there, and the host may run the same daemons."""
IMAGES = "/srv"
"""Where an image keeps its scripts."""
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 32, 4096, 16384  # mount(2)

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """Attach a file system; OSError names the target (mount(2))."""
    if libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode()):
        code = ctypes.get_errno()
        raise OSError(code, f"mount on {target}: {os.strerror(code)}")


def private_files() -> None:
    """Give the node its own files, without a trace of the host's daemons."""
    mount("tmpfs", IMAGES, "tmpfs")
    for name in SHARED:
        upper, work = (Path(IMAGES, f"{name}.{part}") for part in ("upper", "work"))
        upper.mkdir()
        work.mkdir()
        mount("overlay", f"/{name}", "overlay", options=f"lowerdir=/{name},upperdir={upper},workdir={work}")
    for folder in PRIVATE:
        Path(folder).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", folder, "tmpfs", options="mode=0755")
    Path("/run/lock").mkdir()


def own_sysfs() -> None:
    """Show this network namespace in /sys; the control groups stay, for container runtimes in the node."""
    groups = os.open("/sys/fs/cgroup", os.O_PATH)
    mount("sysfs", "/sys", "sysfs")
    mount(f"/proc/self/fd/{groups}", "/sys/fs/cgroup", flags=MS_BIND | MS_REC)
    os.close(groups)


def bind(source: int, target: str, *, read_only: bool) -> None:
    """Show an open file or folder of the host at a path of the node."""
    path, original = Path(target), Path(f"/proc/self/fd/{source}")
    path.parent.mkdir(parents=True, exist_ok=True)
    if original.is_dir():
        path.mkdir(exist_ok=True)
    else:
        path.touch()
    mount(str(original), target, flags=MS_BIND | MS_REC)
    if read_only:
        mount("", target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def set_sysctls(settings: dict[str, str]) -> None:
    """Write kernel settings, named as sysctl(8) does; before any interface exists, so that defaults reach all."""
    for key, value in settings.items():
        Path("/proc/sys", *key.split(".")).write_text(value)


def main(folder: Path) -> None:
    """Set the node up and become its entrypoint."""
    spec: dict[str, Any] = json.loads((folder / "spec.json").read_text())
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    # Open before /run is covered: a source may lie below it.
    binds = [(os.open(source, os.O_PATH), target, read_only) for source, target, read_only in spec["binds"]]
    private_files()
    own_sysfs()
    for source, target, read_only in binds:
        bind(source, target, read_only=read_only)
        os.close(source)
    socket.sethostname(spec["name"])
    set_sysctls(spec["sysctls"])
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    os.chdir("/")
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.execve(spec["command"][0], spec["command"], spec["env"])  # noqa: S606 - the image's entrypoint, no shell wanted


if __name__ == "__main__":
    main(Path(sys.argv[1]))

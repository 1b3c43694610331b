"""Turns QEMU into a machine that tests can run on, runs them, halts: ``init.py FOLDER UNPACKED``, as PID 1.

FOLDER/spec.json says what to run; FOLDER is the only place of the host that can be written to. All else of the host's
files is there to read, and what programs write elsewhere goes to memory. Only the standard library is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from containerlab.init import bind, mount  # noqa: E402 - the line above says where it is
from tests.kernel.init import main  # noqa: E402 - see above

MODULES = ("igb", "igbvf", "veth", "dummy", "macvlan", "overlay")
"""What every test needs; `modprobe` finds all of the kernel's others."""
LOADER = Path("/run/modprobe")
"""What the kernel asks for a module: it looks where there may be none."""


def set_up(folder: Path) -> None:
    """Mount what a kernel shows and memory to write to, then what that hides of the host; load the modules."""
    unpacked = Path(sys.argv[2])
    kept = [(path, os.open(path, os.O_PATH)) for path in (CHECKOUT, unpacked)]
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), *(("tmpfs", at) for at in ("/run", "/tmp", "/srv"))):
        mount(kind, target, kind)
    for path, opened in kept:
        bind(opened, str(path), read_only=True)
    folder.mkdir(parents=True, exist_ok=True)
    mount("folder", str(folder), "9p", options="trans=virtio,version=9p2000.L,cache=none")
    for path in (Path("/run/netns"), Path("/run/lock")):
        path.mkdir()
    os.environ["MODPROBE_OPTIONS"] = f"--dirname={unpacked}"
    LOADER.write_text(f'#!/bin/sh\nexec /sbin/modprobe --dirname={unpacked} "$@"\n')
    LOADER.chmod(0o755)
    Path("/proc/sys/kernel/modprobe").write_text(str(LOADER))
    subprocess.run(["modprobe", "--all", *MODULES], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), set_up)

"""Turns User-Mode Linux into a machine that tests can run on, runs them, halts: ``init.py FOLDER``, as PID 1.

FOLDER/spec.json says what to run; FOLDER is the only place of the host that can be written to. All else of the host's
files is there to read, and what programs write elsewhere goes to memory. Only the standard library is used.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from containerlab.init import MS_RDONLY, mount  # noqa: E402 - the line above says where it is

PACKAGE = Path("/usr/lib/uml/modules")
"""Where Debian's package has the kernel's modules."""
MODULES = (
    *("iptable_nat", "ip6table_nat", "xt_nat", "xt_MASQUERADE", "xt_conntrack", "xt_tcpudp"),
    *("openvswitch", "bonding", "bridge", "veth", "macvlan", "ipvlan", "8021q", "dummy", "tun", "overlay"),
    *("sch_ingress", "sch_tbf", "cls_flower", "cls_matchall", "act_mirred", "act_gact", "act_pedit", "act_csum"),
    *("act_skbedit", "act_skbmod", "act_vlan", "act_tunnel_key", "act_police"),
)
"""All that the tests need: the kernel's own loader looks where there are none."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POWER_OFF = 0x4321FEDC  # reboot(2)


def own_files(folder: Path) -> None:
    """Mount what a kernel shows and memory to write to, then what that hides of the host: the checkout, the folder."""
    for kind, target in (("proc", "/proc"), ("sysfs", "/sys"), *(("tmpfs", at) for at in ("/run", "/tmp", "/srv"))):
        mount(kind, target, kind)
    for path, flags in ((CHECKOUT, MS_RDONLY), (folder, 0)):
        path.mkdir(parents=True, exist_ok=True)
        mount("hostfs", str(path), "hostfs", flags, str(path))
    for path in (Path("/run/netns"), Path("/run/lock")):
        path.mkdir()


def load_modules() -> None:
    """Load the modules that are needed; modprobe wants them below lib/modules of a folder."""
    root = Path("/run/modules/lib")
    root.mkdir(parents=True)
    (root / "modules").symlink_to(PACKAGE)
    subprocess.run(["modprobe", "--dirname", str(root.parent), "--all", *MODULES], check=True)


def set_up(folder: Path) -> None:
    """Show the machine its files, and give it its modules."""
    own_files(folder)
    load_modules()


def main(folder: Path, set_up: Callable[[Path], None]) -> None:
    """Set up, run, halt."""
    try:
        os.environ["PATH"] = PATH
        set_up(folder)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        spec = json.loads((folder / "spec.json").read_text())
        environment = {**os.environ, **spec["env"]}
        subprocess.run([sys.executable, "-m", "pytest", *spec["arguments"]], cwd=CHECKOUT, env=environment, check=False)
    finally:
        os.sync()
        ctypes.CDLL(None).reboot(POWER_OFF)  # else the kernel panics, for want of a PID 1


if __name__ == "__main__":
    main(Path(sys.argv[1]), set_up)

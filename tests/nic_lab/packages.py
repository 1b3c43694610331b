"""QEMU with the NIC `igb`, Debian's own kernel, and its module netdevsim: fetched, unpacked and kept in a cache folder.

Debian leaves netdevsim out of its kernels, so it is compiled from Debian's source of the same kernel.
Source: docs.qemu.org, System Emulation, igb; Linux Documentation/kbuild/modules.rst and
Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.nic_lab.apt import Apt, PackagesError, only, run

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "routed-nic"
LEAST_QEMU = 8
"""The first that emulates `igb`."""
QEMU, KERNEL = "qemu-system-x86", "linux-image-amd64"
FROM_BACKPORTS = ("src:qemu", "src:seabios", "src:ipxe")
EARLY_MODULES = ("virtio_pci", "9pnet_virtio", "9p")
"""What it takes to see the host's files."""
EARLY_INIT = Path(__file__).with_name("early.sh")
SIMULATOR = "drivers/net/netdevsim"


class Unpacked:
    """What was fetched, in a folder that looks like a root."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.initramfs = folder / "initramfs"
        self.program = folder / "usr/bin/qemu-system-x86_64"
        self.libraries = f"{folder}/usr/lib/x86_64-linux-gnu:{folder}/lib/x86_64-linux-gnu"
        self.firmware = [folder / "usr/share" / name for name in ("qemu", "seabios")]
        [self.release] = (path.name for path in (folder / "lib/modules").iterdir())
        self.kernel = folder / f"boot/vmlinuz-{self.release}"


def unpacked() -> Unpacked | None:
    """Return what an earlier run fetched; the newest."""
    found = sorted(CACHE.glob("qemu-*"), key=lambda folder: folder.stat().st_mtime)
    return Unpacked(found[-1]) if found else None


def fetch() -> Unpacked:
    """Fetch, unpack, compile; 240 MB to fetch, 500 MB to keep."""
    for program in ("apt-get", "dpkg", "modprobe", "depmod", "busybox", "make", "gcc"):
        if shutil.which(program) is None:
            raise PackagesError(f"there is no {program} here")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetching-") as name:
        folder, root = Path(name), Path(name, "root")
        apt = Apt(folder, FROM_BACKPORTS)
        version = apt.version(QEMU).rpartition(":")[2]
        if int(only(r"^(\d+)", version)) < LEAST_QEMU:
            raise PackagesError(f"{QEMU} is {version} here, in backports too: `igb` came with {LEAST_QEMU}")
        [image] = [package for package in apt.dependencies(KERNEL) if package.startswith("linux-image-")]
        release = image.removeprefix("linux-image-")
        for archive in [*apt.fetch_all(QEMU), *apt.fetch(image)]:
            run(["dpkg", "--extract", str(archive), str(root)])
        module = _compile(apt, release, folder / "building")
        extra = root / f"lib/modules/{release}/updates"
        extra.mkdir()
        shutil.copy(module, extra)
        run(["depmod", "--basedir", str(root), release])
        _make_initramfs(root, release)
        target = CACHE / f"qemu-{version}-linux-{release}"
        if not target.exists():  # else another run was faster
            root.rename(target)
    return Unpacked(target)


def _compile(apt: Apt, release: str, folder: Path) -> Path:
    """Compile the simulator for a kernel."""
    headers = f"linux-headers-{release}"
    source = "linux-source-" + only(r"^(\d+\.\d+)", release)
    needed = [package for package in apt.dependencies(headers) if package.startswith("linux-")]
    for archive in apt.fetch(headers, source, *needed):
        run(["dpkg", "--extract", str(archive), str(folder)])
    with tarfile.open(folder / f"usr/src/{source}.tar.xz") as archived:
        inside = (member for member in archived if member.name.startswith(f"{source}/{SIMULATOR}/"))
        archived.extractall(folder, inside, filter="data")
    tree = folder / f"usr/src/{headers}"
    makefile = tree / "Makefile"
    makefile.write_text(makefile.read_text().replace("/usr/src/", f"{folder}/usr/src/"))
    module = folder / source / SIMULATOR
    run(["make", f"--directory={tree}", f"M={module}", "CONFIG_NETDEVSIM=m", "modules"])
    return module / "netdevsim.ko"


def _make_initramfs(root: Path, release: str) -> None:
    """Pack a shell, the early modules in the order of their dependencies, and what runs first."""
    early = root / "early"
    for name in ("bin", "dev", "modules", "sysroot"):
        (early / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", early / "bin/busybox")
    shutil.copy(EARLY_INIT, early / "init")
    options = ["--dirname", str(root), "--set-version", release, "--show-depends", "--all"]
    for number, line in enumerate(run(["modprobe", *options, *EARLY_MODULES]).splitlines()):
        module = Path(line.removeprefix("insmod ").strip())
        shutil.copy(module, early / f"modules/{number:02}-{module.name}")
    names = "\n".join(str(path.relative_to(early)) for path in sorted(early.rglob("*")))
    command = ["busybox", "cpio", "-o", "-H", "newc"]
    packed = subprocess.run(command, cwd=early, input=names.encode(), capture_output=True, check=True)
    (root / "initramfs").write_bytes(packed.stdout)
    shutil.rmtree(early)


if __name__ == "__main__":
    try:
        unpacked() or fetch()
    except PackagesError as error:
        sys.exit(f"nic-lab: {error}")

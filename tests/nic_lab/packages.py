"""QEMU with the NIC `igb`, and Debian's own kernel: fetched by apt from where this machine's packages come from.

They are unpacked, not installed, and apt's own state stays as it is: lists and packages are in the cache folder.
Debian 12 has QEMU 7.2, which has no `igb`: QEMU 8 and later, and nothing else, is taken from its backports.
Source: apt.conf(5), apt_preferences(5), Linux Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "routed-nic"
KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
LEAST_QEMU = 8
"""The first that emulates `igb` (docs.qemu.org, System Emulation, igb)."""
QEMU, KERNEL = "qemu-system-x86", "linux-image-amd64"
EARLY_MODULES = ("virtio_pci", "9pnet_virtio", "9p")
"""What it takes to see the host's files."""
EARLY_INIT = Path(__file__).with_name("early.sh")
PINS = """\
Package: src:qemu src:seabios src:ipxe
Pin: release n={release}-backports
Pin-Priority: 990
"""
CONFIGURATION = """\
Dir::Etc::SourceList "{folder}/debian.sources";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "{folder}/preferences";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "{folder}/lists";
Dir::Cache "{folder}";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
"""


class PackagesError(Exception):
    """They cannot be had here; the message says why."""


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
    """Fetch, unpack, and make the kernel's first file system; 90 MB to fetch, 700 MB on disk."""
    for program in ("apt-get", "dpkg", "modprobe", "depmod", "busybox"):
        if shutil.which(program) is None:
            raise PackagesError(f"there is no {program} here; `make system` installs what Debian has of it")
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE, prefix="fetching-") as name:
        apt = Apt(Path(name))
        version, image = apt.version(QEMU), apt.dependency(KERNEL, "linux-image-")
        if int(re.sub(r"^\d+:", "", version).partition(".")[0]) < LEAST_QEMU:
            raise PackagesError(f"{QEMU} is {version} here, also in backports: `igb` came with {LEAST_QEMU}")
        root = Path(name, "root")
        for archive in apt.archives(QEMU, image):
            _run(["dpkg", "--extract", str(archive), str(root)])
        release = image.removeprefix("linux-image-")
        _run(["depmod", "--basedir", str(root), release])
        _make_initramfs(root, release)
        (target := CACHE / f"qemu-{version.replace(':', '-')}-linux-{release}").mkdir(exist_ok=True)
        root.rename(target)
    return Unpacked(target)


class Apt:
    """An apt of our own: this machine's archive, its release and that release's backports."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        targets = _run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"])
        (folder / "debian.sources").write_text(sources(targets.splitlines(), release))
        (folder / "preferences").write_text(PINS.format(release=release))
        (folder / "apt.conf").write_text(CONFIGURATION.format(folder=folder))
        (folder / "lists/partial").mkdir(parents=True)
        (folder / "archives/partial").mkdir(parents=True)
        self._run("apt-get", "update", "--quiet")

    def version(self, package: str) -> str:
        """Return the version that would be installed."""
        return _only(r"Candidate: (\S+)", self._run("apt-cache", "policy", package))

    def dependency(self, package: str, prefix: str) -> str:
        """Return the package that this one stands for."""
        version = self.version(package)
        return _only(rf"Depends: ({prefix}\S+)", self._run("apt-cache", "depends", f"{package}={version}"))

    def archives(self, program: str, image: str) -> list[Path]:
        """Fetch a program with all that it needs and this machine has not got, and a kernel, which needs nothing."""
        self._run("apt-get", "install", "--quiet", "--yes", "--download-only", program)
        self._run("apt-get", "download", "--quiet", image)
        return [*(self._folder / "archives").glob("*.deb"), *self._folder.glob("*.deb")]

    def _run(self, *command: str) -> str:
        return _run(command, cwd=self._folder, env={**os.environ, "APT_CONFIG": str(self._folder / "apt.conf")})


def sources(targets: Sequence[str], release: str) -> str:
    """Return a sources file for a release and its backports, from the archive that the release itself comes from.

    Each target is `release component archive`, as apt-get(8) indextargets has them.
    """
    for target in targets:
        of, component, archive = target.split(" ", 2)
        if release and of == release and component == "main":
            suites = f"{release} {release}-backports"
            return f"Types: deb\nURIs: {archive}\nSuites: {suites}\nComponents: main\nSigned-By: {KEYS}\n"
    raise PackagesError(f"no source of this machine has Debian's {release or 'releases'}")


def _make_initramfs(root: Path, release: str) -> None:
    """Pack a shell, the early modules in the order of their dependencies, and what runs first."""
    early = root / "early"
    for name in ("bin", "dev", "modules", "root"):
        (early / name).mkdir(parents=True)
    shutil.copy(shutil.which("busybox") or "", early / "bin/busybox")
    shutil.copy(EARLY_INIT, early / "init")
    options = ["--dirname", str(root), "--set-version", release, "--show-depends", "--all"]
    for number, line in enumerate(_run(["modprobe", *options, *EARLY_MODULES]).splitlines()):
        module = Path(line.removeprefix("insmod ").strip())
        shutil.copy(module, early / f"modules/{number:02}-{module.name}")
    names = "\n".join(str(path.relative_to(early)) for path in sorted(early.rglob("*")))
    packed = subprocess.run(
        ["busybox", "cpio", "-oH", "newc"], cwd=early, input=names.encode(), capture_output=True, check=True
    )
    (root / "initramfs").write_bytes(packed.stdout)
    shutil.rmtree(early)


def _only(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise PackagesError(f"apt says nothing like {pattern}: {text.strip()}")
    return found[1]


def _run(command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PackagesError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")
    return done.stdout


if __name__ == "__main__":
    try:
        unpacked() or fetch()
    except PackagesError as error:
        sys.exit(f"nic-lab: {error}")

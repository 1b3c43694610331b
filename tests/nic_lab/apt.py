"""An apt of our own: fetches Debian's packages from where this machine's come from, and installs nothing.

Its lists, its pins and what it fetches are in a folder; this machine's apt stays as it is. What a machine's own release
has too old (QEMU 7.2 in Debian 12), and nothing else, is taken from the release's backports.
Source: apt.conf(5), apt_preferences(5), apt-get(8) indextargets.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

KEYS = "/usr/share/keyrings/debian-archive-keyring.gpg"
PINS = """\
Package: {packages}
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
    """Packages cannot be had here, or used; the message says why."""


class Apt:
    """An apt in a folder."""

    def __init__(self, folder: Path, from_backports: Sequence[str]) -> None:
        """Learn which packages there are; `from_backports` names those that may be newer than the release."""
        self._folder = folder
        release = platform.freedesktop_os_release().get("VERSION_CODENAME", "")
        targets = run(["apt-get", "indextargets", "--format", "$(RELEASE) $(COMPONENT) $(REPO_URI)"])
        (folder / "debian.sources").write_text(sources(targets.splitlines(), release))
        (folder / "preferences").write_text(PINS.format(packages=" ".join(from_backports), release=release))
        (folder / "apt.conf").write_text(CONFIGURATION.format(folder=folder))
        (folder / "lists/partial").mkdir(parents=True)
        (folder / "archives/partial").mkdir(parents=True)
        self._run("apt-get", "update", "--quiet")

    def version(self, package: str) -> str:
        """Return the version that would be installed."""
        return only(r"Candidate: (\S+)", self._run("apt-cache", "policy", package))

    def dependencies(self, package: str) -> list[str]:
        """Return what a package depends on directly."""
        described = self._run("apt-cache", "depends", f"{package}={self.version(package)}")
        return re.findall(r"^ +Depends: ([^<\s]+)", described, re.MULTILINE)

    def fetch_all(self, package: str) -> list[Path]:
        """Fetch a package and everything that it needs and this machine has not got."""
        self._run("apt-get", "install", "--quiet", "--yes", "--download-only", package)
        return list((self._folder / "archives").glob("*.deb"))

    def fetch(self, *packages: str) -> list[Path]:
        """Fetch packages without what they depend on."""
        into = Path(tempfile.mkdtemp(dir=self._folder))
        self._run("apt-get", "download", "--quiet", *packages, into=into)
        return list(into.glob("*.deb"))

    def _run(self, *command: str, into: Path | None = None) -> str:
        return run(command, cwd=into, env={**os.environ, "APT_CONFIG": str(self._folder / "apt.conf")})


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


def only(pattern: str, text: str) -> str:
    """Return what a pattern's group matches."""
    found = re.search(pattern, text)
    if found is None:
        raise PackagesError(f"nothing like {pattern} in: {text.strip()}")
    return found[1]


def run(command: Sequence[str], cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """Run a command; return what it prints, or raise what it complains of."""
    done = subprocess.run(
        command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise PackagesError(f"{' '.join(command)}: {done.stderr.strip()[-1000:]}")
    return done.stdout

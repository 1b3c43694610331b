"""Call CNI plugins as a container runtime's library does: command in the environment, configuration on stdin.

For whoever has to look closer than a runtime lets them: the benchmark, and tests of error codes and rare verbs. Owns no
state: what a plugin answered is the caller's to keep. Never runs a container. Source: CNI specification 1.1, section 2.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

DEBIAN_PLUGINS = Path("/usr/lib/cni")
"""Where Debian's package containernetworking-plugins puts the reference plugins."""


class CniError(Exception):
    """A plugin failed: its own error object where it printed one, else code 0 and what it wrote to stderr."""

    def __init__(self, code: int, msg: str, details: str) -> None:
        super().__init__(f"{msg} (code {code}) {details}".rstrip())
        self.code = code
        self.msg = msg
        self.details = details


@dataclass(frozen=True, slots=True)
class Result:
    """What ADD answered."""

    raw: Mapping[str, Any]
    """The result object as it was printed: the next plugin's, CHECK's and DEL's ``prevResult``."""

    @property
    def addresses(self) -> tuple[IPv4Interface | IPv6Interface, ...]:
        """Return the pod's addresses in the plugin's order."""
        return tuple(ip_interface(ip["address"]) for ip in self.raw.get("ips", ()))


@dataclass(frozen=True, slots=True)
class Plugin:
    """One plugin binary with its network configuration. Thread-safe: each call is a process of its own."""

    binary: Path
    conf: Mapping[str, Any]
    """Network configuration; ``cniVersion``, ``name`` and ``type`` included."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Added to CNI_* and PATH, which is all that a plugin gets."""
    prefix: Sequence[str] = ()
    """Put before the binary: ``("nsenter", "--net=...")`` makes that namespace the plugin's host."""
    timeout_s: float = 60

    def add(
        self, container_id: str, netns: Path, ifname: str = "eth0", args: Mapping[str, str] | None = None
    ) -> Result:
        """Attach a container; raises CniError."""
        return Result(json.loads(self._call("ADD", _attachment(container_id, netns, ifname, args))))

    def delete(
        self, container_id: str, netns: Path | None, ifname: str = "eth0", args: Mapping[str, str] | None = None
    ) -> None:
        """Detach a container; netns None is what runtimes say after a reboot. Raises CniError."""
        self._call("DEL", _attachment(container_id, netns, ifname, args))

    def check(
        self, container_id: str, netns: Path, ifname: str = "eth0", args: Mapping[str, str] | None = None
    ) -> None:
        """Verify an attachment; needs ``prevResult`` (see `after`). Raises CniError."""
        self._call("CHECK", _attachment(container_id, netns, ifname, args))

    def status(self) -> None:
        """Ask whether the plugin can serve ADD; raises CniError."""
        self._call("STATUS", {})

    def gc(self, valid: Iterable[tuple[str, str]]) -> None:
        """Have everything removed but these (container id, ifname) pairs; raises CniError."""
        attachments = [{"containerID": container_id, "ifname": ifname} for container_id, ifname in valid]
        self._call("GC", {}, {"cni.dev/valid-attachments": attachments})

    def version(self) -> tuple[str, ...]:
        """Return the specification versions that the plugin speaks."""
        return tuple(json.loads(self._call("VERSION", {}))["supportedVersions"])

    def after(self, previous: Result) -> Plugin:
        """Return this plugin as it is called when ``previous`` is known: in a chain, for CHECK, for a usual DEL."""
        return replace(self, conf={**self.conf, "prevResult": previous.raw})

    def _call(self, command: str, attachment: Mapping[str, str], conf: Mapping[str, Any] | None = None) -> bytes:
        environment = {
            "PATH": os.environ["PATH"],
            "CNI_COMMAND": command,
            "CNI_PATH": f"{self.binary.parent}:{DEBIAN_PLUGINS}",
            **attachment,
            **self.env,
        }
        process = subprocess.run(
            [*self.prefix, str(self.binary)],
            input=json.dumps({**self.conf, **(conf or {})}).encode(),
            env=environment,
            capture_output=True,
            timeout=self.timeout_s,
            check=False,
        )
        if process.returncode:
            raise _error(process)
        return process.stdout


@dataclass(frozen=True, slots=True)
class Chain:
    """The plugins of one conflist: each is given what those before it made."""

    plugins: tuple[Plugin, ...]

    def add(
        self, container_id: str, netns: Path, ifname: str = "eth0", args: Mapping[str, str] | None = None
    ) -> Result:
        """Attach with every plugin in order; returns the last result. Raises CniError of the first that fails."""
        first, *rest = self.plugins
        result = first.add(container_id, netns, ifname, args)
        for plugin in rest:
            result = plugin.after(result).add(container_id, netns, ifname, args)
        return result

    def delete(
        self, container_id: str, netns: Path | None, ifname: str = "eth0", args: Mapping[str, str] | None = None
    ) -> None:
        """Detach with every plugin, last first; raises CniError of the first that fails."""
        for plugin in reversed(self.plugins):
            plugin.delete(container_id, netns, ifname, args)


@contextmanager
def network_namespace(path: Path) -> Iterator[Path]:
    """Hold a new network namespace, mounted at ``path`` (which is created) as runtimes do it."""
    path.touch(exist_ok=False)
    try:
        subprocess.run(["unshare", f"--net={path}", "true"], check=True)
        try:
            yield path
        finally:
            subprocess.run(["umount", str(path)], check=True)
    finally:
        path.unlink()


def _attachment(
    container_id: str, netns: Path | None, ifname: str, args: Mapping[str, str] | None
) -> Mapping[str, str]:
    return {
        "CNI_CONTAINERID": container_id,
        "CNI_NETNS": "" if netns is None else str(netns),
        "CNI_IFNAME": ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in (args or {}).items()),
    }


def _error(process: subprocess.CompletedProcess[bytes]) -> CniError:
    try:
        error = json.loads(process.stdout)
        return CniError(error["code"], error["msg"], error.get("details", ""))
    except (ValueError, KeyError):
        return CniError(0, f"plugin exited with status {process.returncode}", process.stderr.decode(errors="replace"))

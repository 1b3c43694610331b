"""Whose ADD and DEL are timed: a plugin, its configuration, and the host namespace that it works in."""

from __future__ import annotations

import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from containerlab.driver import DEBIAN_PLUGINS, Plugin, network_namespace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Contender:
    """A plugin ready to be called from threads that live in its host namespace."""

    name: str
    host: Path
    plugin: Plugin
    pods: tuple[Path, ...]
    """Network namespaces made before, as many as are attached at once."""
    prepare: Callable[[], None] = lambda: None
    """Called before each round of calls; its time does not count."""


@contextmanager
def pods(directory: Path, count: int) -> Iterator[tuple[Path, ...]]:
    """Hold network namespaces for pods."""
    directory.mkdir(parents=True)
    with ExitStack() as stack:
        yield tuple(stack.enter_context(network_namespace(directory / f"pod{n}")) for n in range(count))


@contextmanager
def bridge(directory: Path, count: int) -> Iterator[Contender]:
    """Debian's bridge plugin with host-local addresses."""
    with _reference("bridge", {"bridge": "cni0", "isGateway": True}, directory, count) as contender:
        yield contender


@contextmanager
def ptp(directory: Path, count: int) -> Iterator[Contender]:
    """Debian's ptp plugin with host-local addresses."""
    with _reference("ptp", {}, directory, count) as contender:
        yield contender


@contextmanager
def _reference(kind: str, conf: Mapping[str, Any], directory: Path, count: int) -> Iterator[Contender]:
    directory = directory / kind
    ipam = {
        "type": "host-local",
        "dataDir": str(directory / "leases"),
        "ranges": [[{"subnet": "10.88.0.0/22"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    full = {"cniVersion": "1.0.0", "name": "bench", "type": kind, "ipam": ipam, **conf}
    with pods(directory, count) as namespaces, network_namespace(directory / "host") as host:
        subprocess.run(["nsenter", f"--net={host}", "ip", "link", "set", "lo", "up"], check=True)
        yield Contender(kind, host, Plugin(DEBIAN_PLUGINS / kind, full), namespaces)

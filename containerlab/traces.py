"""What a lab could leave on a machine when it is taken down, and whether it did.

Noted while the lab runs: the namespaces of its nodes and pods. A namespace lives as long as a process, a mount or an
open file keeps it: with no process in them, no mount and no folder of ours, nothing is left.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from containerlab.errors import LabError
from containerlab.lab import STATE, Lab
from containerlab.pods import scratch

KINDS = ("pid", "net", "mnt")


class Traces:
    """The namespaces of a lab, noted when this is made."""

    def __init__(self, lab: Lab) -> None:
        self._name = lab.name
        self._namespaces: set[str] = set()
        with suppress(LabError, OSError):  # a lab that is half up or broken: what can be seen of it
            for node in lab.nodes.values():
                for process in _descendants(node.pid):
                    self._namespaces |= {_link(process, kind) for kind in KINDS}
            self._namespaces -= {_link("self", kind) for kind in KINDS} | {""}

    @property
    def namespaces(self) -> int:
        """How many namespaces were noted."""
        return len(self._namespaces)

    def left(self) -> list[str]:
        """Return what is there now: processes in those namespaces, mounts, control groups, folders."""
        folders = (STATE / self._name, scratch(self._name))
        found = [f"folder {folder}" for folder in folders if folder.exists()]
        mounts = Path("/proc/self/mounts").read_text().splitlines()
        found += [f"mount {line.split()[1]}" for line in mounts if any(f"{folder}/" in line for folder in folders)]
        pattern = str(scratch(self._name)).strip("/").replace("/", "-")
        found += [f"control group {path}" for path in Path("/sys/fs/cgroup").glob(f"**/{pattern}*")]
        for process in _processes():
            if any(_link(process, kind) in self._namespaces for kind in KINDS):
                found.append(f"process {process}")
        return found


def _descendants(process: int) -> Iterator[int]:
    yield process
    with suppress(OSError):  # it ended meanwhile
        for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
            yield from _descendants(int(child))


def _processes() -> Iterable[int]:
    return [int(entry.name) for entry in Path("/proc").glob("[0-9]*")]


def _link(process: int | str, kind: str) -> str:
    """Return a namespace's name, such as ``net:[4026531840]``; empty when the process ended meanwhile."""
    try:
        return str(Path(f"/proc/{process}/ns/{kind}").readlink())
    except OSError:
        return ""

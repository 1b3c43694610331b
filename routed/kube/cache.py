"""The server's own list of its leases, for a start while the API server is away.

A lease stands here before it is used, and no longer when it is about to be given back: what stands here is ours
unless the server itself was away long enough for others to reclaim it. That is why the file counts only until the
server is booted anew; pods that a kubelet starts after a boot need the API server anyway.
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from pathlib import Path

from ipam.model import IPAddress
from routed.files import replace

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Cache:
    """One file, replaced as a whole; OSError when it cannot be read or written."""

    def __init__(self, path: Path, *, rack: str, node: str, boot: str | None = None) -> None:
        """``boot`` names this run of the server's kernel; by default, the kernel is asked."""
        self._path = path
        self.stored: frozenset[IPAddress] | None = None
        """What the file holds; None before `load` and after a `save` that failed."""
        self._owner = {"rack": rack, "node": node, "boot": boot or _BOOT_ID.read_text(encoding="ascii").strip()}

    def load(self) -> frozenset[IPAddress]:
        """Return the leases; none when the file is missing, torn, of another boot or of another server."""
        self.stored = self._read()
        return self.stored

    def save(self, leases: frozenset[IPAddress]) -> None:
        """Write the leases; on the disk when this returns, and of unknown outcome when it raises."""
        self.stored = None
        document = {**self._owner, "leases": sorted(map(str, leases))}
        replace(self._path, json.dumps(document).encode(), mode=0o644)
        self.stored = leases

    def _read(self) -> frozenset[IPAddress]:
        try:
            said = json.loads(self._path.read_text(encoding="utf-8"))
            owner = {key: said[key] for key in self._owner}
            leases = frozenset(ip_address(text) for text in said["leases"])
        except (FileNotFoundError, KeyError, TypeError, ValueError):
            return frozenset()
        return leases if owner == self._owner else frozenset()

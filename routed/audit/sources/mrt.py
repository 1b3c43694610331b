"""A switch's routes from a dump that it, or a route collector, wrote: MRT, TABLE_DUMP_V2 (RFC 6396). Asks nobody.

FRR (``dump bgp routes-mrt``), BIRD 2 (``mrt dump``), OpenBGPD, GoBGP and collectors write such files, also compressed
by gzip or bzip2. A dump does not say which path is selected: it has all paths, and those with the highest local
preference and then the shortest AS path (RFC 4271 9.1.1, 9.1.2.2 a) are taken for it. Whether a route is in the
forwarding table or stale stays open.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Route, Shell, SwitchView
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.command import Command

_READER = "routed.audit.sources.mrt_reader"
_DEFAULT_PREFERENCE = 100


@dataclass(frozen=True, slots=True)
class Mrt:
    """One switch, from a file."""

    name: str
    path: Path
    peer: IPAddress | None
    """In a collector's dump, the switch's address: only what it told is its own."""
    timeout_s: float

    async def observe(self) -> SwitchView:
        """Return its paths as they were when the dump was made; CouldNotObserve."""
        if not self.path.is_file():
            raise CouldNotObserve(f"{self.path}: there is no such file")
        reader = Command((sys.executable, "-m", _READER, str(self.path)), self.timeout_s, called=f"reading {self.path}")
        dumps = json.loads(await reader.run())
        routes = [route for dump in dumps for route in dump["routes"]]
        if self.peer is not None:
            routes = [route for route in routes if ip_address(route[1]) == self.peer]
            if not routes:
                raise CouldNotObserve(f"{self.path}: it has no routes from {self.peer}")
        oldest = datetime.fromtimestamp(min(dump["at"] for dump in dumps), UTC)
        return SwitchView(self.name, tuple(_paths(routes, datetime.now(UTC))), Shell.OTHER, oldest)


def _paths(routes: Iterable[Sequence[Any]], now: datetime) -> Iterator[Route]:
    by_prefix: dict[str, list[Sequence[Any]]] = defaultdict(list)
    for prefix, *said in routes:
        by_prefix[prefix].append(said)
    for prefix, paths in by_prefix.items():
        network = ip_network(prefix)
        best = min(map(_rank, paths))
        yield from (_path(network, path, now, best=_rank(path) == best) for path in paths)


def _rank(path: Sequence[Any]) -> tuple[int, int]:
    *_, as_path, _, preference = path
    return -(_DEFAULT_PREFERENCE if preference is None else preference), len(as_path)


def _path(prefix: IPNetwork, path: Sequence[Any], now: datetime, *, best: bool) -> Route:
    peer, since, hops, as_path, communities, _ = path
    told_by = ip_address(peer)
    return Route(
        prefix=prefix,
        next_hops=_fabric(map(ip_address, hops)) if as_path else (),
        as_path=tuple(as_path),
        communities=frozenset(communities),
        best=best,
        age_s=max(now.timestamp() - since, 0.0),
        peer=None if told_by.is_unspecified or not as_path else told_by,
    )


def _fabric(hops: Iterable[IPAddress]) -> tuple[IPAddress, ...]:
    """Return the global next hops where there are any."""
    every = tuple(hops)
    return tuple(hop for hop in every if not hop.is_link_local) or every

"""What Cisco NX-OS says of its routes, as text: its JSON of whole tables has no communities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from ipam.model import IPNetwork
from routed.audit.model import Route

QUESTIONS = ("show bgp ipv4 unicast detail", "show bgp ipv6 unicast detail")
ENCODING = "text"
_HEADER = "BGP routing table information for VRF default, address family"
_ENTRY = re.compile(r"BGP routing table entry for (?P<prefix>\S+), version .*")
_HOP = re.compile(r"(?P<hop>[0-9a-f.:]+)(?: \(.*\))? from (?P<peer>[0-9a-f.:]+) \(.*\)")
_AS_PATH = re.compile(r"AS-Path: (?P<path>.*?) ?, path .*")


@dataclass(slots=True)
class _Path:
    prefix: IPNetwork
    flags: str
    """Of the prefix."""
    type: str
    as_path: tuple[int, ...] | None = None
    hop: str = ""
    peer: str = ""
    communities: tuple[str, ...] = ()

    def hear(self, line: str) -> None:
        name, _, value = line.partition(": ")
        if match := _AS_PATH.fullmatch(line):
            words = match["path"].translate(str.maketrans("(){},", "     ")).split()
            self.as_path = () if words == ["NONE"] else tuple(map(int, words))
        elif match := _HOP.fullmatch(line):
            self.hop, self.peer = match["hop"], match["peer"]
        elif name in {"Community", "Large Community"}:
            self.communities += tuple(value.split())

    def route(self) -> Route:
        if self.as_path is None or not self.hop:
            raise ValueError(f"a path to {self.prefix} has no {'next hop' if self.as_path is not None else 'AS path'}")
        words = self.type.split(", ")
        best = "path is valid" in words and ("is best path" in words or "multipath" in words)
        own = not self.as_path
        return Route(
            prefix=self.prefix,
            next_hops=() if own else (ip_address(self.hop),),
            as_path=self.as_path,
            communities=frozenset(self.communities),
            best=best,
            installed=best and _is_installed(self.flags),
            stale="stale" in self.type,
            peer=None if own else ip_address(self.peer),
        )


def parse(answers: Sequence[str], _now: float) -> Iterator[Route]:
    """Yield the paths that the answers to QUESTIONS show. Raises ValueError for anything that is not those answers."""
    for answer in answers:
        if _HEADER not in answer:
            raise ValueError(f"it begins with {answer.strip()[:60]!r}")
        yield from (path.route() for path in _paths(answer.splitlines()))


def _paths(lines: Sequence[str]) -> Iterator[_Path]:
    path: _Path | None = None
    prefix: IPNetwork | None = None
    flags = ""
    for line in map(str.strip, lines):
        name, _, value = line.partition(": ")
        if match := _ENTRY.fullmatch(line):
            prefix, flags = ip_network(match["prefix"]), ""
        elif name == "Flags":
            flags = value
        elif name == "Path type":
            if path is not None:
                yield path
            if prefix is None:
                raise ValueError(line)
            path = _Path(prefix, flags, value)
        elif path is not None:
            path.hear(line)
    if path is not None:
        yield path


def _is_installed(flags: str) -> bool | None:
    """Whether the forwarding table has the prefix; None where this release does not say."""
    if "is not in HW" in flags or "is not in urib" in flags:
        return False
    return True if "is in HW" in flags else None

"""FRR, and SONiC, whose BGP is FRR: one `vtysh` call per look, four JSON documents; one more where routes are missing.

Reads what FRR 8.4 prints (measured), and the two later shapes of "json detail" (FRR 9 moved a prefix's header out of
its list of paths). Older than `json detail` is no version that this reads.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Asked, Route, SwitchView
from routed.audit.sources import CouldNotObserve
from routed.audit.sources.command import Command

QUESTIONS = (
    "show bgp ipv4 unicast json detail",
    "show bgp ipv6 unicast json detail",
    "show ip route json",
    "show ipv6 route json",
)

_NOT_SPACE = re.compile(r"\S")


@dataclass(frozen=True, slots=True)
class Frr:
    """One switch with FRR, asked through vtysh."""

    name: str
    command: Command
    """Ends with ``vtysh``."""

    async def observe(self) -> SwitchView:
        """Return its paths; CouldNotObserve."""
        words = (word for question in QUESTIONS for word in ("-c", question))
        text = await self.command.run(*words)
        try:
            return SwitchView(self.name, tuple(parse(text, time.time())))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CouldNotObserve(f"{self.command}: this is not the JSON of FRR's routes: {_about(error)}") from error

    async def refused(self, asked: Iterable[Asked]) -> Mapping[Asked, frozenset[IPNetwork]]:
        """Return what these neighbours sent and the inbound policy refused; CouldNotObserve.

        What bgpd denies for another reason, such as its own AS in the path, is not among it.
        A neighbour that the switch does not know, or whose routes it does not keep before its policy
        (`soft-reconfiguration inbound`), is left out.
        """
        ordered = sorted(asked, key=str)
        words = (word for neighbor in ordered for word in ("-c", _filtered(*neighbor)))
        text = await self.command.run(*words)
        try:
            answers = zip(ordered, _documents(text), strict=True)
            told = {neighbor: said["receivedRoutes"] for neighbor, said in answers if "receivedRoutes" in said}
            return {neighbor: frozenset(map(ip_network, prefixes)) for neighbor, prefixes in told.items()}
        except (ValueError, TypeError) as error:
            raise CouldNotObserve(f"{self.command}: this is not the JSON of FRR's filtered routes: {error}") from error


def _filtered(neighbor: IPAddress, version: int) -> str:
    return f"show bgp ipv{version} unicast neighbors {neighbor} filtered-routes json"


def parse(text: str, now: float) -> Iterator[Route]:
    """Yield the paths that the answers to QUESTIONS show, at ``now`` seconds since the epoch.

    Raises ValueError, KeyError, TypeError or AttributeError for anything that is not those answers.
    """
    documents = tuple(_documents(text))
    if len(documents) != len(QUESTIONS):
        raise ValueError(f"{len(documents)} documents instead of {len(QUESTIONS)}")
    for table, forwarding in zip(documents[:2], documents[2:], strict=True):
        if "routes" not in table:
            raise ValueError(str(table.get("warning", "no BGP table")))
        for prefix, listed in table["routes"].items():
            network, entries = ip_network(prefix), forwarding.get(prefix, ())
            for path in _paths(listed):
                yield _route(network, path, entries, now)


def _documents(text: str) -> Iterator[Any]:
    """Yield the JSON documents that stand one after the other; ValueError for anything else between them."""
    decode, at = json.JSONDecoder().raw_decode, _after_spaces(text, 0)
    while at < len(text):
        document, end = decode(text, at)
        yield document
        at = _after_spaces(text, end)


def _after_spaces(text: str, at: int) -> int:
    found = _NOT_SPACE.search(text, at)
    return found.start() if found else len(text)


def _paths(listed: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a prefix's paths: from its list, whose first item is a header in FRR 8, or from its object since FRR 9."""
    if isinstance(listed, dict):
        yield from listed["paths"]
    else:
        yield from (item for item in listed if "prefix" not in item)


def _route(prefix: IPNetwork, path: Mapping[str, Any], entries: Sequence[Mapping[str, Any]], now: float) -> Route:
    every = [ip_address(hop["ip"]) for hop in path["nexthops"] if "ip" in hop]
    hops = tuple(hop for hop in every if not hop.is_unspecified)
    fabric = tuple(hop for hop in hops if not hop.is_link_local) or hops
    # bestpath without "overall" is only the best of one neighbouring AS
    best = bool(path.get("valid")) and ("overall" in path.get("bestpath", {}) or bool(path.get("multipath")))
    peer = ip_address(path["peer"]["peerId"])
    return Route(
        prefix=prefix,
        next_hops=fabric,
        as_path=tuple(number for segment in path["aspath"].get("segments", ()) for number in segment["list"]),
        communities=frozenset(
            word for key in ("community", "largeCommunity") for word in path.get(key, {}).get("string", "").split()
        ),
        best=best,
        installed=best and any(_leads(entry, hops) for entry in entries if _is_installed(entry)),
        stale=bool(path.get("stale")),
        age_s=_age_s(path["lastUpdate"]["epoch"], now) if "lastUpdate" in path else None,
        peer=None if peer.is_unspecified else peer,
    )


def _age_s(since: float, now: float) -> float | None:
    """Return how old a path is; None when it is of the future: `since` is by the switch's clock, in whole seconds."""
    return None if now - since < -1 else max(now - since, 0.0)


def _is_installed(entry: Mapping[str, Any]) -> bool:
    return bool(entry.get("installed")) and not entry.get("offloadFailed")


def _leads(entry: Mapping[str, Any], hops: Sequence[IPAddress]) -> bool:
    """Whether an entry of the forwarding table is what a path over these next hops leads to.

    Without next hops it is the switch's own route, whichever protocol it has it from. A recursive next hop stands
    beside what it resolves to.
    """
    if not hops:
        return True
    used = {ip_address(hop["ip"]) for hop in entry["nexthops"] if hop.get("active") and "ip" in hop}
    return entry["protocol"] == "bgp" and not used.isdisjoint(hops)


def _about(error: Exception) -> str:
    return f"{error} is missing" if isinstance(error, KeyError) else str(error)

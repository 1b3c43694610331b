"""What each plane says about one address, as evidence. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ipam.model import IPAddress, IPNetwork
from routed.audit.compare.announced import Announcements
from routed.audit.compare.claims import Claims
from routed.audit.compare.learned import Learned
from routed.audit.model import Asked, Evidence, Holding, Route
from routed.domain.workload import host_network


def evidence(
    address: IPAddress,
    holdings: Sequence[Holding],
    claims: Claims,
    announced: Announcements,
    learned: Mapping[str, Learned],
) -> tuple[Evidence, ...]:
    """Return what every plane that answered says about an address."""
    return (*_intended(holdings, claims), *_announced(address, holdings, announced), *_learned(address, learned))


def describe(path: Route) -> str:
    """Return one path in one line; what its source could not tell is left out."""
    hops = ", ".join(map(str, path.next_hops)) or "the switch itself"
    words = [
        f"via {hops}",
        f"AS path {' '.join(map(str, path.as_path))}" if path.as_path else "its own route",
        *([f"communities {' '.join(sorted(path.communities))}"] if path.communities else []),
        "best" if path.best else "not best",
        *(["not installed"] if path.installed is False else []),
        *(["stale"] if path.stale else []),
        *([f"age {path.age_s:.0f} s"] if path.age_s is not None else []),
    ]
    return ", ".join(words)


def refusal(address: IPAddress, refused: Mapping[Asked, frozenset[IPNetwork]]) -> str:
    """Return what to add where a switch has no route that it received; nothing where it did not say so."""
    prefix = host_network(address)
    return ": received and refused" if any(prefix in prefixes for prefixes in refused.values()) else ""


def _intended(holdings: Sequence[Holding], claims: Claims) -> Iterator[Evidence]:
    for holding in holdings:
        says = holding.pod or "a pod"
        yield Evidence("intended", holding.server, says if holding.announce else f"{says}, not to be announced")
    if not holdings and claims.known:
        yield Evidence("intended", ", ".join(sorted(claims.known)), "no pod has it")


def _announced(address: IPAddress, holdings: Sequence[Holding], announced: Announcements) -> Iterator[Evidence]:
    servers = dict.fromkeys([*(holding.server for holding in holdings), *announced.by.get(address, ())])
    for server in servers:
        told = announced.to.get(server)
        if told is None:
            continue
        routes = {tor: table[address] for tor, table in told.items() if address in table}
        if not routes:
            yield Evidence("announced", server, "to nobody")
        for tor, route in sorted(routes.items()):
            communities = f", communities {' '.join(sorted(route.communities))}" if route.communities else ""
            yield Evidence("announced", server, f"to {tor} via {route.next_hop}{communities}")


def _learned(address: IPAddress, learned: Mapping[str, Learned]) -> Iterator[Evidence]:
    for tor, table in learned.items():
        paths = table.pods.get(address, ())
        if not paths:
            yield Evidence("learned", tor, f"no route{refusal(address, table.refused)}")
        for path in paths:
            yield Evidence("learned", tor, describe(path))

"""What Arista EOS says of its routes, as JSON: by eAPI, or by ssh with ``| json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Route

QUESTIONS = ("show ip bgp detail", "show ipv6 bgp detail", "show ip route", "show ipv6 route")
ENCODING = "json"
_ORIGINS = frozenset({"i", "e", "?"})
_VRF = "default"


def parse(answers: Sequence[Any], now: float) -> Iterator[Route]:
    """Yield the paths that the answers to QUESTIONS show, at ``now`` seconds since the epoch.

    Raises ValueError, KeyError, TypeError or AttributeError for anything that is not those answers.
    """
    for table, forwarding in zip(answers[:2], answers[2:], strict=True):
        entries = (forwarding["vrfs"][_VRF] if "vrfs" in forwarding else forwarding)["routes"]
        for prefix, entry in table["vrfs"][_VRF]["bgpRouteEntries"].items():
            for path in entry["bgpRoutePaths"]:
                yield _route(ip_network(prefix), path, entries.get(prefix, {}), now)


def _route(prefix: IPNetwork, path: Mapping[str, Any], entry: Mapping[str, Any], now: float) -> Route:
    kind, detail = path["routeType"], path["routeDetail"]
    words = path["asPathEntry"]["asPath"].translate(str.maketrans("(){},", "     ")).split()
    as_path = tuple(int(word) for word in words if word not in _ORIGINS)
    best = bool(kind["valid"] and (kind["active"] or (kind["ecmp"] and kind["ecmpContributor"])))
    peer = _address(path.get("peerEntry", detail.get("peerEntry", {})).get("peerAddr", ""))
    hop = _address(path["nextHop"])
    return Route(
        prefix=prefix,
        next_hops=(hop,) if hop is not None and as_path else (),
        as_path=as_path,
        communities=frozenset((*detail["communityList"], *detail.get("largeCommunityList", ()))),
        best=best,
        installed=best and _is_installed(entry, own=not as_path),
        stale=bool(kind["stale"]),
        age_s=max(now - path["timestamp"], 0.0),
        peer=peer if as_path else None,
    )


def _address(text: str) -> IPAddress | None:
    """Return an address, None for none; EOS writes the interface of a link-local one behind ``%``."""
    address = ip_address(text.partition("%")[0]) if text else None
    return None if address is None or address.is_unspecified else address


def _is_installed(entry: Mapping[str, Any], *, own: bool) -> bool | None:
    """Whether the forwarding table has a path that is selected: its entry is of BGP, and in hardware."""
    if not entry or not (own or "bgp" in entry["routeType"].lower()):
        return False
    programmed = entry.get("hardwareProgrammed")
    return None if programmed is None else bool(programmed)

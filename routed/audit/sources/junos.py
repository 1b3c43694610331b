"""What Juniper Junos says of its routes: JSON, in which every value is a list of objects with ``data``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Any

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Route

QUESTIONS = ("show route table inet.0 detail | display json", "show route table inet6.0 detail | display json")
ENCODING = "text"
_NOT_ANNOUNCED = frozenset({"Direct", "Local", "Access-internal", "INET6", "PIM", "Multicast"})
"""What a switch has by itself and announces by other routes, if at all."""
_LARGE = "large:"


def parse(answers: Sequence[str], _now: float) -> Iterator[Route]:
    """Yield the paths that the answers to QUESTIONS show.

    Raises ValueError, KeyError, IndexError, TypeError or AttributeError for anything that is not those answers.
    """
    for answer in answers:
        (information,) = json.loads(answer)["route-information"]
        for table in information.get("route-table", ()):
            for destination in table.get("rt", ()):
                prefix = _prefix(destination)
                for entry in destination["rt-entry"]:
                    kind = _text(entry, "protocol-name")
                    if kind == "BGP":
                        yield _learned(prefix, entry)
                    elif kind not in _NOT_ANNOUNCED:
                        yield Route(prefix, (), communities=None, best=_is_active(entry), age_s=_age_s(entry))


def _prefix(destination: Mapping[str, Any]) -> IPNetwork:
    """Return a destination's prefix, whose length stands beside it in detail, behind it in brief."""
    address = _text(destination, "rt-destination")
    return ip_network(address if "/" in address else f"{address}/{_text(destination, 'rt-prefix-length')}")


def _learned(prefix: IPNetwork, entry: Mapping[str, Any]) -> Route:
    hops = next((hops for key in ("protocol-nh", "nh") if (hops := _hops(entry.get(key, ())))), ())
    said = [one["data"] for group in entry.get("communities", ()) for one in group.get("community", ())]
    gateway = _text(entry, "gateway") if "gateway" in entry else ""
    return Route(
        prefix=prefix,
        next_hops=hops,
        as_path=_as_path(_text(entry, "as-path")),
        communities=frozenset(one.removeprefix(_LARGE) for one in said),
        best=_is_active(entry),
        age_s=_age_s(entry),
        peer=ip_address(gateway) if gateway else None,
    )


def _hops(listed: Iterable[Mapping[str, Any]]) -> tuple[IPAddress, ...]:
    return tuple(dict.fromkeys(ip_address(_text(hop, "to")) for hop in listed if "to" in hop))


def _as_path(text: str) -> tuple[int, ...]:
    """Return the numbers of ``AS path: 65500 64512 I``, as far as the origin; more may stand behind it."""
    found = []
    for word in text.removeprefix("AS path:").translate(str.maketrans("(){}[]", "      ")).split():
        if not word.isdecimal():
            break
        found.append(int(word))
    return tuple(found)


def _is_active(entry: Mapping[str, Any]) -> bool:
    return any(tag.get("data") in {"*", "+"} for tag in entry.get("active-tag", ()))


def _age_s(entry: Mapping[str, Any]) -> float | None:
    seconds = entry.get("age", [{}])[0].get("attributes", {}).get("junos:seconds")
    return None if seconds is None else float(seconds)


def _text(said: Mapping[str, Any], key: str) -> str:
    text: str = said[key][0]["data"]
    return text

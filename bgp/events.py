"""What ExaBGP and the relay tell unasked: JSON lines to typed events. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any

from bgp.errors import InvalidRouteError, ProtocolError
from bgp.model import Attributes, IPAddress, IPNetwork

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class RelayConnected:
    """The first line of every connection: who runs behind it."""

    exabgp: int
    """Process id."""
    owed: int
    """Answers still to come to commands of the speaker before."""


@dataclass(frozen=True, slots=True)
class Negotiated:
    """Both OPENs were seen; comes right before `SessionUp`."""

    neighbor: IPAddress
    versions: frozenset[int]
    """IP versions of the unicast families that both sides speak."""


@dataclass(frozen=True, slots=True)
class SessionUp:
    """The session is established; ExaBGP now sends its whole adj-rib-out."""

    neighbor: IPAddress


@dataclass(frozen=True, slots=True)
class SessionDown:
    """The session, or the attempt at one, ended."""

    neighbor: IPAddress
    reason: str


@dataclass(frozen=True, slots=True)
class UpdateSent:
    """An UPDATE was handed to the TCP connection."""

    neighbor: IPAddress
    announced: Mapping[IPNetwork, Attributes]
    withdrawn: frozenset[IPNetwork]


@dataclass(frozen=True, slots=True)
class DefaultsReceived:
    """The neighbour began or ceased to give us default routes. What else it sends is not looked at."""

    neighbor: IPAddress
    given: frozenset[int]
    """IP versions."""
    taken: frozenset[int]


@dataclass(frozen=True, slots=True)
class EndOfRibSent:
    """An End-of-RIB marker was handed to the TCP connection."""

    neighbor: IPAddress
    version: int


@dataclass(frozen=True, slots=True)
class Session:
    """One entry of the answer to ``show neighbor json``."""

    neighbor: IPAddress
    established: bool
    versions: frozenset[int]
    age_s: float
    """How long it has been established, or down."""


Event = RelayConnected | Negotiated | SessionUp | SessionDown | UpdateSent | DefaultsReceived | EndOfRibSent
DEFAULTS = {"0.0.0.0/0": 4, "::/0": 6}
"""The default route of each IP version."""


def parse(line: bytes) -> Event | None:
    """Return the event in a line that is JSON; None for one of no use to us, ProtocolError for junk."""
    try:
        return _event(json.loads(line))
    except (ValueError, KeyError, TypeError, AttributeError, InvalidRouteError) as error:
        raise ProtocolError(f"not an event: {line[:500]!r}") from error


def parse_sessions(lines: list[str]) -> list[Session]:
    """Return the sessions in an answer to ``show neighbor json``; ProtocolError when it is something else.

    Its ``state`` is no help: it is ``down`` during the first second of a session.
    """
    try:
        return [
            Session(
                ip_address(entry["peer"]["address"]),
                entry["fsm"] == "ESTABLISHED",
                _versions(entry["families"]),
                float(entry["duration"]),
            )
            for entry in json.loads("".join(lines))
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ProtocolError(f"not a list of sessions: {''.join(lines)[:500]!r}") from error


def _event(message: dict[str, Any]) -> Event | None:
    kind = message["type"]
    if kind == "relay":
        return RelayConnected(int(message["exabgp"]), int(message["owed"]))
    if kind not in {"state", "negotiated", "update"}:
        return None
    body = message["neighbor"]
    neighbor = ip_address(body["address"]["peer"])
    if kind == "negotiated":
        return Negotiated(neighbor, _versions(body["negotiated"]["families"]))
    if kind == "state":
        if body["state"] == "up":
            return SessionUp(neighbor)
        return SessionDown(neighbor, body["reason"]) if body["state"] == "down" else None
    return _sent(neighbor, body["message"]) if body["direction"] == "send" else _received(neighbor, body["message"])


def _received(neighbor: IPAddress, message: dict[str, Any]) -> Event | None:
    update = message.get("update", {})
    told = [route["nlri"] for hops in update.get("announce", {}).values() for of in hops.values() for route in of]
    gone = [route["nlri"] for routes in update.get("withdraw", {}).values() for route in routes]
    given, taken = (frozenset(DEFAULTS[nlri] for nlri in some if nlri in DEFAULTS) for some in (told, gone))
    return DefaultsReceived(neighbor, given, taken) if given or taken else None


def _sent(neighbor: IPAddress, message: dict[str, Any]) -> Event:
    if "eor" in message:
        return EndOfRibSent(neighbor, 4 if message["eor"]["afi"] == "ipv4" else 6)
    update = message["update"]
    attribute = update.get("attribute", {})
    communities = [
        ":".join(map(str, numbers)) for kind in ("community", "large-community") for numbers in attribute.get(kind, ())
    ]
    announced: dict[IPNetwork, Attributes] = {}
    for hops in update.get("announce", {}).values():
        for hop, routes in hops.items():
            attributes = Attributes(ip_address(hop), attribute.get("med"), tuple(communities))
            announced.update((ip_network(route["nlri"]), attributes) for route in routes)
    gone = frozenset(ip_network(route["nlri"]) for routes in update.get("withdraw", {}).values() for route in routes)
    return UpdateSent(neighbor, announced, gone)


def _versions(families: list[str]) -> frozenset[int]:
    return frozenset(version for version in (4, 6) if f"ipv{version} unicast" in families)

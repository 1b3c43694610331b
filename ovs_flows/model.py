"""Flows, groups, meters and ports as frozen values that hash and compare by meaning.

Owns the vocabulary of this library. Knows no bytes, no text and no policy. A flow has no cookie: the cookie is the key
under which a set of flows is kept (`ovs_flows.cookies`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from ovs_flows.fields import FIELDS, POSITION, Value, number

LOCAL = 0xFFFF_FFFE
"""The bridge's own interface, where the host's address lives."""
IN_PORT = 0xFFFF_FFF8
"""Back where the packet came from; no other output does that."""

Term = tuple[str, int, int]
"""Field name, value, mask; as a plain tuple because a server compares thousands of them."""


@dataclass(frozen=True, slots=True)
class Match:
    """What a packet must look like: every term must agree. No term matches everything."""

    terms: tuple[Term, ...] = ()
    """In the order in which OVS writes them; value has no bit outside mask, mask is never 0."""

    @classmethod
    def of(cls, **wanted: Value | tuple[Value, Value]) -> Self:
        """Build a match from keywords; a value is exact, a network matches its prefix, a tuple is value and mask."""
        terms = []
        for name in sorted(wanted, key=POSITION.__getitem__):
            value, mask = _masked(name, wanted[name])
            if mask:
                terms.append((name, value & mask, mask))
        return cls(tuple(terms))

    @property
    def names(self) -> frozenset[str]:
        """The fields that it looks at."""
        return frozenset(name for name, _, _ in self.terms)


def _masked(name: str, wanted: Value | tuple[Value, Value]) -> tuple[int, int]:
    if isinstance(wanted, tuple):
        return number(wanted[0]), number(wanted[1])
    mask = getattr(wanted, "netmask", None)
    return number(wanted), FIELDS[name].exact if mask is None else int(mask)


@dataclass(frozen=True, slots=True)
class Output:
    """Send the packet out of a port; OVS ignores it when that is the port that it came from."""

    port: int


@dataclass(frozen=True, slots=True)
class ToGroup:
    """Hand the packet to a group."""

    group: int


@dataclass(frozen=True, slots=True)
class UseMeter:
    """Have a meter count the packet, or drop it; stands before all other actions of a flow."""

    meter: int


@dataclass(frozen=True, slots=True)
class SetField:
    """Write a constant."""

    field: str
    value: int

    @classmethod
    def of(cls, field: str, value: Value) -> Self:
        """Build from an address, a MAC text or a number."""
        return cls(field, number(value))


@dataclass(frozen=True, slots=True)
class PushVlan:
    """Add an 802.1Q tag; `SetField` of ``vlan_vid`` follows."""


@dataclass(frozen=True, slots=True)
class PopVlan:
    """Take the outer tag off."""


@dataclass(frozen=True, slots=True)
class Move:
    """Copy a whole field over another of the same width."""

    source: str
    target: str


@dataclass(frozen=True, slots=True)
class Push:
    """Put a whole field on the stack."""

    field: str


@dataclass(frozen=True, slots=True)
class Pop:
    """Take a whole field from the stack."""

    field: str


@dataclass(frozen=True, slots=True)
class Opaque:
    """What somebody else wrote and this library has no word for: kept as bytes, compared, never made here."""

    raw: bytes
    """In a flow all of its instructions, in a bucket all of its actions."""


Action = Output | ToGroup | UseMeter | SetField | PushVlan | PopVlan | Move | Push | Pop | Opaque


@dataclass(frozen=True, slots=True)
class Flow:
    """One row of a table. Without actions and without ``goto`` it drops."""

    table: int
    priority: int
    match: Match = Match()
    actions: tuple[Action, ...] = ()
    goto: int | None = None
    """Table that looks next, after the actions."""

    @property
    def identity(self) -> tuple[int, int, Match]:
        """What makes it the same flow for OVS: a second one with the same identity replaces the first."""
        return self.table, self.priority, self.match


@dataclass(frozen=True, slots=True)
class Bucket:
    """One choice of a group."""

    actions: tuple[Action, ...]
    watch_port: int
    """The bucket is skipped while this port is down, or not in its LACP aggregate."""


@dataclass(frozen=True, slots=True)
class Group:
    """A select group: each packet takes one live bucket, chosen by a hash of its addresses and ports (dp_hash)."""

    number: int
    buckets: tuple[Bucket, ...]
    kind: int = 1
    """OpenFlow 1.4 7.3.4.3: 0 all, 1 select, 2 indirect, 3 fast failover. Ours are select."""


@dataclass(frozen=True, slots=True)
class Meter:
    """A policer: it drops what is faster. Of units of 1000 bits, headers of Ethernet included."""

    number: int
    rate_kbps: int
    """A second; 0 for a meter of somebody else that is not of this kind."""
    burst_kbit: int
    """What passes at once after a rest."""


Entry = Flow | Group | Meter
"""What a bridge is programmed with."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that we plugged into the bridge."""

    name: str
    """Name of the network device."""
    ofport: int
    """OpenFlow port number; 0 when OVS has none for it (its device is missing)."""


def flows_of(entries: Iterable[Entry]) -> list[Flow]:
    """Return the flows among entries."""
    return [entry for entry in entries if isinstance(entry, Flow)]


def groups_of(entries: Iterable[Entry]) -> list[Group]:
    """Return the groups among entries."""
    return [entry for entry in entries if isinstance(entry, Group)]


def meters_of(entries: Iterable[Entry]) -> list[Meter]:
    """Return the meters among entries."""
    return [entry for entry in entries if isinstance(entry, Meter)]

"""What an audit looks at and what it finds, as frozen values. Pure; no input or output.

Five planes say something about the same address: *intended* (which server should have it, for which pod), *announced*
(what that server's agent told its ToRs), *learned* (both ToRs, path by path), *installed* (their forwarding tables),
and *beyond* (the spines and other racks). A plane that could not be looked at is `Unobserved`, never empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum, StrEnum

from ipam.model import IPAddress, IPNetwork, Pool
from routed.domain.rack import Rack, Server

# ---- the plan


@dataclass(frozen=True, slots=True)
class RackPlan:
    """A rack as it should be: from a rack file or a Rack object."""

    rack: Rack
    servers: Mapping[str, Server]
    """By name. A next hop is right when it is one of the owner's addresses."""
    pools: tuple[Pool, ...]
    """`rack.pools` with their reservations."""


@dataclass(frozen=True, slots=True)
class Holding:
    """An address that should be reachable: intent."""

    address: IPAddress
    server: str
    pod: str
    """``namespace/name``; empty when unknown."""
    announce: bool = True
    """False while no route should exist: the attachment is starting, leaving or cordoned, or its server drains."""


# ---- what was observed


@dataclass(frozen=True, slots=True)
class Unobserved:
    """A plane that could not be looked at; nothing is concluded from it but this."""

    reason: str
    """One line, for people: what was tried and how it failed."""


@dataclass(frozen=True, slots=True)
class Announced:
    """A route in an agent's adj-RIB-out."""

    prefix: IPNetwork
    tor: str
    next_hop: IPAddress
    communities: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class SideView:
    """How one ToR can be reached from a server, as its agent sees it."""

    session_up: bool
    healthy: bool
    """The agent relies on this side; True where nobody watches the sides."""
    steers: bool
    """This ToR is asked to draw the pods' traffic to itself."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PortView:
    """What the server's bridge has for one attachment; for `explain`."""

    port: str
    ofport: int
    mac: str
    flows: int | None
    """How many flows of this attachment the bridge has; None when not seen."""
    state: str
    """As in `routed show attachments`."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class ServerView:
    """An agent's own export: what it should announce, and what it does."""

    server: str
    rack: str
    at: datetime
    holdings: tuple[Holding, ...]
    announced: tuple[Announced, ...]
    sides: Mapping[str, SideView]
    """By ToR."""
    draining: bool = False
    ports: Mapping[IPAddress, PortView] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Route:
    """One path to a prefix on a switch. What its source cannot tell is None."""

    prefix: IPNetwork
    next_hops: tuple[IPAddress, ...]
    """As the fabric sees them: the global addresses, also of IPv6 paths."""
    as_path: tuple[int, ...] = ()
    """Leftmost is the neighbour that told us; empty for the switch's own routes."""
    communities: frozenset[str] | None = frozenset()
    best: bool = True
    """Selected, alone or as one of several of equal cost."""
    installed: bool | None = None
    """In the forwarding table."""
    stale: bool | None = None
    """Kept for a neighbour that restarts (RFC 4724)."""
    age_s: float | None = None
    peer: IPAddress | None = None
    """The BGP neighbour that told us; None for the switch's own routes."""


class Shell(StrEnum):
    """In which words people ask a switch."""

    VTYSH = "vtysh"
    BIRDC = "birdc"
    OTHER = "other"
    """Only BGP was spoken with it."""


Asked = tuple[IPAddress, int]
"""A switch's BGP neighbour, and the IP version of the routes that it was asked about."""


@dataclass(frozen=True, slots=True)
class SwitchView:
    """All unicast BGP paths of one switch, both families."""

    switch: str
    routes: tuple[Route, ...]
    shell: Shell = Shell.VTYSH
    at: datetime | None = None
    """When this was recorded; None: it is how the switch has just answered."""
    refused: Mapping[Asked, frozenset[IPNetwork]] = field(default_factory=dict)
    """What neighbours sent and the inbound policy refused. Asked only where routes are missing; who is not in it was
    not asked about, or the switch could not say."""


@dataclass(frozen=True, slots=True)
class RackView:
    """One rack, as far as it could be observed."""

    plan: RackPlan
    holdings: tuple[Holding, ...] | Unobserved
    """From the API server or a file. Where nobody was asked, the agents' own holdings, and Unobserved with none."""
    servers: Mapping[str, ServerView | Unobserved]
    """By server; servers whose agent nobody was told how to ask are left out."""
    tors: Mapping[str, SwitchView | Unobserved]
    """By ToR of the plan; all of them."""
    partial: bool = False
    """`holdings` are not all there are."""


# ---- what is found


class Kind(StrEnum):
    """What is wrong; docs/audit.md has a section for each, by this name."""

    MISSING = "missing"
    """A pod's route is not on a ToR that should have it."""
    UNANNOUNCED = "unannounced"
    """The agent itself does not announce what it should, or announces it otherwise than it should."""
    LEAKED = "leaked"
    """A host route for an address that no pod has."""
    DUPLICATE = "duplicate"
    """Two servers hold, announce or are the next hop of one address."""
    WRONG_NEXT_HOP = "wrong-next-hop"
    """A pod's route leads to another server than its own, or to none of the rack."""
    FOREIGN = "foreign"
    """A host route from this rack's servers outside the rack's pools."""
    ATTRIBUTES = "attributes"
    """AS path or communities differ from policy."""
    ASYMMETRIC = "asymmetric"
    """Both ToRs have the route, but not the same one; or one alone has it, and nobody could say whose it should be."""
    STALE = "stale"
    """Kept for a speaker that is away (graceful restart)."""
    NOT_INSTALLED = "not-installed"
    """The best path is not in the forwarding table."""
    BEYOND_RACK = "beyond-rack"
    """A host route outside its rack that no failure explains."""
    AGGREGATE_MISSING = "aggregate-missing"
    """A switch has no route to a pool that has pods."""
    POOL_EXHAUSTED = "pool-exhausted"
    POOL_LOW = "pool-low"
    PLAN_CONFLICT = "plan-conflict"
    """Prefixes of the address plan overlap."""
    UNOBSERVED = "unobserved"
    """A plane could not be looked at, so that nothing can be said about what it would show."""


class Severity(IntEnum):
    """How bad; worst is greatest."""

    NOTE = 1
    """Nothing is broken; `unobserved` among them, which has an exit status of its own."""
    WARNING = 2
    """Works now, and will not after the next failure."""
    CRITICAL = 3
    """Traffic is lost, or goes to the wrong place."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one plane says at one place about the subject of a finding."""

    plane: str
    """intended, announced, learned, installed, beyond, plan."""
    where: str
    """A server or switch."""
    says: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. Equal faults have equal keys from run to run."""

    kind: Kind
    severity: Severity
    rack: str
    """Empty when no rack is concerned."""
    subject: str
    """The address, prefix, switch or server that it is about."""
    where: tuple[str, ...]
    """Servers and switches where it shows, sorted."""
    text: str
    """One sentence."""
    cause: str
    """The likely one; empty when several are as likely."""
    next: str
    """The command to run next, or what to do."""
    evidence: tuple[Evidence, ...] = ()
    parts: frozenset[str] = frozenset()
    """The single faults that it stands for, place by place. Another look may group them otherwise, so that keys
    differ; empty: it stands for itself."""
    keys: tuple[str, ...] = ()
    """Those faults as a baseline lists them, address by address; empty: its own key alone."""

    @property
    def key(self) -> str:
        """Return what identifies the finding as it is grouped now."""
        return fault_key(self.kind, self.rack, self.subject, self.where)


def fault_key(kind: Kind, rack: str, subject: str, where: Iterable[str]) -> str:
    """Return what identifies a fault from run to run."""
    return " ".join((kind, rack or "-", subject, ",".join(where)))


# ---- the result


@dataclass(frozen=True, slots=True)
class PoolSummary:
    """How full a pool is."""

    prefix: IPNetwork
    capacity: int
    """How many addresses pods can get."""
    used: int | None
    """None where nobody could say what is used."""
    unusable: tuple[IPAddress, ...] = ()
    """Edges, gateway and reservations that lie in the first 256 addresses, for a map of them."""


@dataclass(frozen=True, slots=True)
class RackSummary:
    """One rack, when it was compared; what it was compared from is forgotten by then."""

    rack: str
    pools: tuple[PoolSummary, ...]
    holdings: tuple[Holding, ...]
    """Who has what, from whichever source could say it."""
    host_routes: Mapping[str, int | None]
    """By ToR: host routes of this rack's pools that it selected; None where it could not be observed."""


@dataclass(frozen=True, slots=True)
class Audit:
    """One whole audit."""

    at: datetime
    """When it began, UTC."""
    took_s: float
    racks: tuple[RackSummary, ...]
    findings: tuple[Finding, ...]
    """Worst first, then by rack and subject."""
    observed: int
    """How many sources answered: switches, agents, the plan's."""
    accepted: tuple[Finding, ...] = ()
    """Findings that a baseline accepts; they count for nothing."""
    recorded: Mapping[str, datetime] = field(default_factory=dict)
    """Servers and switches that were not asked but read from older recordings, and of when those are."""

    @property
    def blind(self) -> bool:
        """Whether something could not be observed."""
        return any(finding.kind is Kind.UNOBSERVED for finding in self.findings)

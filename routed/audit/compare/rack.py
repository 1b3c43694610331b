"""Compares one rack, plane by plane, and keeps no more of it than the fabric's comparison needs. Pure.

What cannot be judged without other racks and the spines is handed on in `RackResult`: which failures explain host
routes beyond the rack, and what its ToRs know of other racks. See docs/audit.md for each finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ipam.model import IPAddress, IPNetwork, Usage
from routed.audit.compare import commands
from routed.audit.compare.address import judge
from routed.audit.compare.announced import announcements
from routed.audit.compare.claims import claims
from routed.audit.compare.commands import Switches
from routed.audit.compare.evidence import describe
from routed.audit.compare.faults import Fault, findings, worst_first
from routed.audit.compare.handed_on import Beyond, beyond, dark, inhabited, lacking, steered
from routed.audit.compare.learned import Sorter
from routed.audit.compare.planes import Planes
from routed.audit.compare.poolmap import PoolMap
from routed.audit.compare.pools import fullness, summaries
from routed.audit.compare.standing import standings
from routed.audit.model import (
    Asked,
    Evidence,
    Finding,
    Kind,
    PoolSummary,
    RackPlan,
    RackSummary,
    RackView,
    Route,
    ServerView,
    Severity,
    Shell,
    SwitchView,
    Unobserved,
)
from routed.domain.workload import host_network

LOW = 0.9
"""Share of a family's addresses from which on they run low."""


@dataclass(frozen=True, slots=True)
class RackResult:
    """What remains of a rack when it was compared; small, so that a thousand of them fit."""

    summary: RackSummary
    findings: tuple[Finding, ...]
    beyond: tuple[Beyond, ...] = ()
    """Host routes of any rack's pools that this rack's ToRs have from the fabric."""
    steered: Mapping[IPAddress, frozenset[str]] = field(default_factory=dict)
    """Addresses whose host routes a failure lets out of the rack, and the ToRs that do it."""
    dark: frozenset[str] = frozenset()
    """ToRs of which nobody could say whether they let host routes out for a failure."""
    lacking: Mapping[str, frozenset[IPNetwork]] = field(default_factory=dict)
    """By ToR, pools of any rack that it has no route to; ToRs that no server relies on are left out."""
    inhabited: frozenset[IPNetwork] = frozenset()
    """Pools of this rack with a pod that should be reached, or with host routes where nobody could say."""
    shells: Mapping[str, Shell] = field(default_factory=dict)
    """By ToR that answered."""


def compare_rack(view: RackView, pools: PoolMap | None = None, *, low: float = LOW) -> RackResult:
    """Compare one rack. `pools` are those of the whole fabric; without, nothing is said about other racks.

    `low` is the share of a family's addresses from which on POOL_LOW is reported.
    """
    plan = view.plan
    everywhere = PoolMap([plan]) if pools is None else pools
    planes = _planes(view, everywhere)
    claimed, learned = planes.claims, planes.learned
    usage = summaries(plan, claimed)
    found = [
        *_unobserved(view),
        *fullness(plan.rack.name, plan.rack.name, usage, low),
        *findings(plan.rack.name, _faults(planes)),
    ]
    summary = RackSummary(
        plan.rack.name,
        usage,
        claimed.every(),
        {tor.name: learned[tor.name].selected if tor.name in learned else None for tor in plan.rack.tors},
    )
    return RackResult(
        summary,
        tuple(sorted(found, key=worst_first)),
        tuple(beyond(planes)),
        steered(planes),
        dark(planes),
        lacking(planes, everywhere),
        inhabited(planes),
        planes.switches.shells,
    )


def compare_server(
    plan: RackPlan, view: ServerView, usage: Sequence[Usage] = (), *, low: float = LOW
) -> Iterator[Finding]:
    """Find what an agent can see of its own server: what it holds, what it announces, how full its share is.

    `usage` is of a share that only this server hands out; a share that grows on demand is never exhausted.
    """
    alone = RackView(plan, Unobserved("nobody else was asked"), {view.server: view}, {})
    yield from findings(plan.rack.name, _faults(_planes(alone, PoolMap([plan]))))
    shares = [PoolSummary(pool.prefix, pool.capacity, pool.capacity - pool.free) for pool in usage]
    yield from fullness(view.server, plan.rack.name, shares, low)


def doubts(view: RackView) -> dict[str, frozenset[Asked]]:
    """Return, by ToR, the neighbours whose routes it lacks although agents announce them over a session that is up.

    The ToR itself may know why: whether its policy refused them.
    """
    planes = _planes(view, PoolMap([view.plan]))
    found: dict[str, set[Asked]] = {}
    for server, told in planes.announced.to.items():
        hosts = view.plan.servers.get(server)
        for tor, routes in told.items():
            table = planes.learned.get(tor)
            if hosts is None or table is None or planes.standings[server][tor].session_up is False:
                continue
            lacking = (one for one in routes if not any(map(planes.sorter.is_local, table.pods.get(one, ()))))
            found.setdefault(tor, set()).update((hosts.addresses[0], one.version) for one in lacking)
    return {tor: frozenset(asked) for tor, asked in found.items() if asked}


def judge_address(view: RackView, address: IPAddress) -> Iterator[Finding]:
    """Find what is wrong with one address of a rack, as `compare_rack` does, without grouping."""
    planes = _planes(view, PoolMap([view.plan]))
    prefix = host_network(address)
    faults = [*_judge(planes, address), *(fault for fault in _foreign(planes) if fault.subject == prefix)]
    return findings(view.plan.rack.name, faults)


def _planes(view: RackView, everywhere: PoolMap) -> Planes:
    plan, claimed = view.plan, claims(view)
    sorter = Sorter(plan, everywhere)
    learned = {name: sorter.sort(seen) for name, seen in sorted(view.tors.items()) if isinstance(seen, SwitchView)}
    sides = standings(plan, claimed, learned, sorter)
    return Planes(plan, claimed, announcements(claimed.agents), learned, sorter, sides, Switches(_shells(view.tors)))


def _shells(switches: Mapping[str, SwitchView | Unobserved]) -> dict[str, Shell]:
    return {name: seen.shell for name, seen in switches.items() if isinstance(seen, SwitchView)}


def _faults(planes: Planes) -> Iterator[Fault]:
    everything: dict[IPAddress, None] = dict.fromkeys(planes.claims.holdings)
    everything.update(dict.fromkeys(planes.announced.by))
    for table in planes.learned.values():
        everything.update(dict.fromkeys(table.pods))
    for address in everything:
        yield from _judge(planes, address)
    yield from _foreign(planes)


def _judge(planes: Planes, address: IPAddress) -> Iterable[Fault]:
    if not planes.sorter.is_pod(address):
        return _outside(planes, address)
    return () if planes.is_sound(address) else judge(planes, address)


def _outside(planes: Planes, address: IPAddress) -> Iterator[Fault]:
    """Judge an address outside of the rack's pools that is held or announced."""
    holdings = planes.claims.holdings.get(address, ())
    for holding in holdings:
        yield Fault(
            Kind.PLAN_CONFLICT,
            Severity.CRITICAL,
            address,
            holding.server,
            (holding.server,),
            "held, but in no pool of the rack: the ToRs refuse it",
            "the pool was taken out of the plan while pods had addresses of it",
            "add the pool to the rack again, or delete the pods that have its addresses",
            f"{holding.pod or 'a pod'} on {holding.server}",
        )
    for server in planes.announced.by.get(address, ()):
        learned = any(
            address == path.prefix.network_address for table in planes.learned.values() for path in table.foreign
        )
        if not learned and not holdings:
            yield _abroad(address, server)


def _abroad(subject: IPAddress | IPNetwork, server: str) -> Fault:
    return Fault(
        Kind.FOREIGN,
        Severity.WARNING,
        subject,
        server,
        (server,),
        f"{server}'s agent announces it, but it is no address of the rack's pools",
        "the agent runs with another rack file",
        commands.on(server, "routed show routes"),
    )


def _foreign(planes: Planes) -> Iterator[Fault]:
    """Report what servers told the ToRs beside addresses of the pools; one fault per prefix."""
    seen: dict[IPNetwork, dict[str, Route]] = {}
    for tor, table in planes.learned.items():
        for path in table.foreign:
            seen.setdefault(path.prefix, {})[tor] = path
    for prefix, paths in seen.items():
        where = tuple(sorted(paths))
        path = paths[where[0]]
        teller = _teller(planes, path)
        yield Fault(
            Kind.FOREIGN,
            Severity.CRITICAL,
            prefix,
            teller,
            where,
            f"{' and '.join(where)} took it from {teller}, and it is no address of the rack's pools",
            f"something on {teller} announces it, and the ToR's policy does not refuse it",
            planes.switches.paths(where[0], prefix),
            evidence=tuple(Evidence("learned", tor, describe(paths[tor])) for tor in where),
        )
    for server, route in planes.announced.wide:
        if route.prefix not in seen:
            yield _abroad(route.prefix, server)


def _teller(planes: Planes, path: Route) -> str:
    teller = path.peer if path.peer is not None else next(iter(path.next_hops), None)
    return "an unknown neighbour" if teller is None else planes.sorter.servers.get(teller, str(teller))


def _unobserved(view: RackView) -> Iterator[Finding]:
    rack = view.plan.rack.name
    if isinstance(view.holdings, Unobserved):
        yield unobserved(
            rack, "holdings", "intended", view.holdings, "say who can be asked: agents, kubernetes or holdings"
        )
    for server, agent in view.servers.items():
        if isinstance(agent, Unobserved):
            yield unobserved(rack, server, "announced", agent, commands.on(server, "routed doctor"))
    for tor, switch in view.tors.items():
        if isinstance(switch, Unobserved):
            yield unobserved(rack, tor, "learned", switch, by_hand(tor))


def by_hand(switch: str) -> str:
    """Return what to do about a switch that did not answer."""
    return f"try by hand: can you log in to {switch}, and show its routes?"


def unobserved(rack: str, subject: str, plane: str, why: Unobserved, then: str) -> Finding:
    """Return the finding for a plane that could not be looked at."""
    return Finding(
        Kind.UNOBSERVED,
        Severity.NOTE,
        rack,
        subject,
        () if subject == "holdings" else (subject,),
        f"{subject} could not be observed: {why.reason}",
        "",
        then,
        (Evidence(plane, subject, why.reason),),
    )

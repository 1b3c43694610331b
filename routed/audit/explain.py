"""The whole story of one address, top to bottom, as values: what it is, who has it, who knows the way to it. Pure.

`locate` says from the plan alone what an address is and which rack to look at; `explain` tells the rest of what was
seen there. The findings are those of the comparison, of this address alone. Printing is `routed.cli`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from ipaddress import ip_network

from ipam.model import IPAddress
from routed.audit.compare import PoolMap, compare_fabric, compare_rack
from routed.audit.compare.claims import Claims, claims
from routed.audit.compare.evidence import refusal
from routed.audit.compare.faults import MANY, worst_first
from routed.audit.compare.rack import judge_address
from routed.audit.model import (
    Announced,
    Finding,
    Holding,
    Kind,
    PortView,
    RackPlan,
    RackView,
    Route,
    ServerView,
    Severity,
    SideView,
    SwitchView,
    Unobserved,
)
from routed.audit.places import Place, Role, is_inside, locate
from routed.domain.workload import host_network


@dataclass(frozen=True, slots=True)
class Seen:
    """What one switch knows of an address."""

    switch: str
    paths: tuple[Route, ...] = ()
    """To the address itself."""
    shorter: tuple[Route, ...] = ()
    """To the longest prefix around it, where there is no best path to the address itself."""
    refused: bool = False
    """It received a path to the address itself and refused it."""
    silent: str = ""
    """Why the switch could not be observed; empty when it was."""


@dataclass(frozen=True, slots=True)
class Story:
    """Everything about one address."""

    address: IPAddress
    place: Place
    verdict: str
    """One sentence."""
    holdings: tuple[Holding, ...] = ()
    """Who has it; several when it is a duplicate."""
    ports: Mapping[str, PortView] = field(default_factory=dict)
    """By server: what its bridge has for it."""
    announced: tuple[tuple[str, Announced], ...] = ()
    """Server, and what it tells one ToR."""
    sides: Mapping[str, Mapping[str, SideView]] = field(default_factory=dict)
    """By server that has it, by ToR."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Servers of the rack, and `holdings`, that could not be asked, with the reason."""
    tors: tuple[Seen, ...] = ()
    beyond: tuple[Seen, ...] = ()
    """The spines."""
    notes: tuple[str, ...] = ()
    """What looks wrong and is not: a failure explains it."""
    findings: tuple[Finding, ...] = ()
    """Worst first."""
    siblings: Mapping[Holding, str] = field(default_factory=dict)
    """The other addresses of the same pod, and how each is, in words."""
    recorded: Mapping[str, datetime] = field(default_factory=dict)
    """Which of these servers and switches were not asked but read from recordings, and of when those are."""


def explain(
    address: IPAddress,
    plans: Sequence[RackPlan],
    view: RackView | None,
    spines: Mapping[str, SwitchView | Unobserved],
    elsewhere: Sequence[Seen] = (),
) -> Story:
    """Tell the story of an address; `view` is of the rack that `locate` names, None when it names none.

    `elsewhere` is what ToRs know of an address of no rack.
    """
    place = locate(address, plans)
    beyond = tuple(see(address, name, seen) for name, seen in spines.items())
    if view is None:
        return _of_nobody(address, place, beyond, elsewhere)
    claimed = claims(view)
    holdings = claimed.holdings.get(address, ())
    found = _findings(address, plans, view, spines)
    tors = tuple(see(address, name, seen) for name, seen in view.tors.items())
    notes = tuple(_notes(holdings, claimed, tors))
    agents = claimed.agents
    return Story(
        address,
        place,
        _wrong(found) or _verdict(address, place, claimed, view, tors),
        holdings,
        {name: agent.ports[address] for name, agent in agents.items() if address in agent.ports},
        tuple(_announced(address, agents)),
        {holding.server: agents[holding.server].sides for holding in holdings if holding.server in agents},
        _silent(view),
        tors,
        beyond,
        notes,
        found,
        dict(_siblings(holdings, claimed, view)),
    )


def _of_nobody(address: IPAddress, place: Place, beyond: Sequence[Seen], elsewhere: Iterable[Seen]) -> Story:
    """Tell of an address of no rack; where switches know the way to it, a rack's file may be missing."""
    if place.role is Role.OUTSIDE:
        told = [seen for seen in beyond if _learned(seen)] or [seen for seen in elsewhere if _learned(seen)]
        if told:
            found = _unknown_rack(address, sorted(told, key=lambda seen: seen.switch)[:MANY])
            shown = (*beyond, *(seen for seen in told[:MANY] if seen not in beyond))
            return Story(address, place, found.text, beyond=shown, findings=(found,))
    return Story(address, place, _plain_verdict(address, place), beyond=tuple(beyond))


def _unknown_rack(address: IPAddress, told: Sequence[Seen]) -> Finding:
    """Return the finding of an address of no rack that switches have routes to."""
    routes = [route for seen in told for route in _learned(seen)]
    where = tuple(seen.switch for seen in told)
    prefixes = " and ".join(sorted({str(route.prefix) for route in routes}))
    origins = " and ".join(map(str, sorted({route.as_path[-1] for route in routes})))
    have = "has" if len(where) == 1 else "have"
    return Finding(
        Kind.UNOBSERVED,
        Severity.NOTE,
        "",
        str(address),
        where,
        f"{address} is in no rack that is known, but {' and '.join(where)} {have} {prefixes} from AS {origins}: "
        "is a rack's file missing?",
        "",
        "compare `racks` in the audit file with the racks that there are",
    )


def _learned(seen: Seen) -> tuple[Route, ...]:
    """Return the paths that somebody told a switch, without those of a default route."""
    return tuple(route for route in (*seen.paths, *seen.shorter) if route.as_path and route.prefix.prefixlen)


def _siblings(holdings: Sequence[Holding], claimed: Claims, view: RackView) -> Iterator[tuple[Holding, str]]:
    """Say how the pod's other addresses are: what they do not share with this one is not the cause."""
    own = {holding.address for holding in holdings}
    pods = {(holding.server, holding.pod) for holding in holdings if holding.pod}
    for other in claimed.every():
        if (other.server, other.pod) in pods and other.address not in own:
            wrong = sorted(judge_address(view, other.address), key=worst_first)
            seen = [see(other.address, name, tor) for name, tor in view.tors.items()]
            well = all(any(path.best for path in one.paths) for one in seen)
            fine = f"{other.address} is well" if well else f"nothing is known to be wrong with {other.address}"
            yield other, wrong[0].text if wrong else fine


# ---- what was seen


def see(address: IPAddress, name: str, view: SwitchView | Unobserved) -> Seen:
    """Return what one switch knows of an address."""
    if isinstance(view, Unobserved):
        return Seen(name, silent=view.reason)
    around = [route for route in view.routes if is_inside(address, route.prefix)]
    paths = tuple(route for route in around if route.prefix.prefixlen == route.prefix.max_prefixlen)
    if any(path.best for path in paths):
        return Seen(name, paths)
    wider = [route for route in around if route.prefix.prefixlen < route.prefix.max_prefixlen]
    longest = max((route.prefix.prefixlen for route in wider), default=0)
    shorter = tuple(route for route in wider if route.prefix.prefixlen == longest)
    return Seen(name, paths, shorter, refused=bool(refusal(address, view.refused)))


def _announced(address: IPAddress, agents: Mapping[str, ServerView]) -> Iterator[tuple[str, Announced]]:
    prefix = host_network(address)
    for name, agent in agents.items():
        yield from ((name, route) for route in agent.announced if route.prefix == prefix)


def _silent(view: RackView) -> dict[str, str]:
    found = {name: seen.reason for name, seen in view.servers.items() if isinstance(seen, Unobserved)}
    return {**found, **({"holdings": view.holdings.reason} if isinstance(view.holdings, Unobserved) else {})}


def _notes(holdings: Sequence[Holding], claimed: Claims, tors: Sequence[Seen]) -> Iterator[str]:
    """Say which failures explain what would be findings without them."""
    for holding in holdings:
        agent = claimed.agents.get(holding.server)
        for tor, side in agent.sides.items() if agent else ():
            if side.steers:
                yield f"{tor} is asked to steer: host routes beyond the rack are meant to be there"
            elif not side.healthy:
                seen = next((one for one in tors if one.switch == tor), Seen(tor))
                lacks = "" if seen.paths else ", so that it has no route of its own"
                yield f"{holding.server} does not rely on {tor} ({side.reason or 'no reason given'}){lacks}"
        if agent is not None and agent.draining:
            yield f"{holding.server} drains: its pods are not announced"


# ---- what is wrong


def _findings(
    address: IPAddress,
    plans: Sequence[RackPlan],
    view: RackView,
    spines: Mapping[str, SwitchView | Unobserved],
) -> tuple[Finding, ...]:
    """Return what the comparison finds about this address and its pool, ungrouped."""
    everywhere = PoolMap(plans)
    pool = everywhere.find(address)
    whole = compare_rack(view, everywhere)
    result = replace(
        whole,
        beyond=tuple(one for one in whole.beyond if one.address == address),
        steered={key: tors for key, tors in whole.steered.items() if key == address},
        lacking={tor: missing & {pool} for tor, missing in whole.lacking.items()},
        inhabited=whole.inhabited & {pool},
    )
    beyond = compare_fabric(plans, [result], {name: _narrow(address, seen) for name, seen in spines.items()})
    subjects = {str(address), str(host_network(address)), str(pool)}
    found = {
        *judge_address(view, address),
        *(one for one in whole.findings if one.kind is Kind.UNOBSERVED),
        *(one for one in beyond if one.subject in subjects or _is_general(one, address)),
    }
    return tuple(sorted(found, key=worst_first))


def _is_general(finding: Finding, address: IPAddress) -> bool:
    """Whether a finding that is about something else bears on what is known of an address."""
    return finding.kind is Kind.UNOBSERVED or (
        finding.kind is Kind.PLAN_CONFLICT and is_inside(address, ip_network(finding.subject))
    )


def _narrow(address: IPAddress, seen: SwitchView | Unobserved) -> SwitchView | Unobserved:
    if isinstance(seen, Unobserved):
        return seen
    prefix = host_network(address)
    routes = (one for one in seen.routes if one.prefix == prefix or one.prefix.prefixlen < one.prefix.max_prefixlen)
    return replace(seen, routes=tuple(routes))


# ---- the verdict


def _wrong(found: Sequence[Finding]) -> str:
    """Name the worst finding; empty when nothing is wrong."""
    wrong = [finding for finding in found if finding.kind is not Kind.UNOBSERVED]
    if not wrong:
        return ""
    more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
    return f"{wrong[0].text}{more}."


def _verdict(address: IPAddress, place: Place, claimed: Claims, view: RackView, tors: Sequence[Seen]) -> str:
    """Say how an address is that nothing is wrong with."""
    holdings = claimed.holdings.get(address, ())
    if place.role is not Role.POD and not holdings:
        return _plain_verdict(address, place)
    if not holdings:
        return _vacant(address, place, claimed, view, tors)
    holding = holdings[0]
    who = f"{address} is {holding.pod or 'a pod'} on {holding.server}"
    agent = claimed.agents.get(holding.server)
    if not holding.announce or (agent is not None and agent.draining):
        return f"{who}, and is not announced now: the pod starts or leaves, or its server drains."
    ways = [one.switch for one in tors if any(path.best for path in one.paths)]
    dark = [one.switch for one in tors if one.silent]
    unseen = f"; {' and '.join(dark)} could not be observed" if dark else ""
    return f"{who}, and reachable by {' and '.join(ways) or 'no ToR that was observed'}{unseen}."


def _vacant(address: IPAddress, place: Place, claimed: Claims, view: RackView, tors: Sequence[Seen]) -> str:
    known = claimed.known >= view.plan.servers.keys()
    routed = [one.switch for one in tors if one.paths]
    if routed:
        return f"{address} has a route on {' and '.join(routed)}, and nobody could say which pod has it."
    if not known:
        return f"No pod is known to have {address}, but not every server of {place.rack} could be asked."
    return f"{address} is free: no pod of {place.rack} has it, and no ToR that was observed has a route to it."


def _plain_verdict(address: IPAddress, place: Place) -> str:
    """Say what an address is by the plan."""
    words = {
        Role.POD: f"is for pods of {place.rack}, in {place.prefix}",
        Role.GATEWAY: f"is the gateway of {place.prefix} in {place.rack}, on both ToRs; no pod can have it",
        Role.EDGE: f"is the network or broadcast address of {place.prefix} in {place.rack}; no pod can have it",
        Role.RESERVED: f"is reserved in {place.prefix} of {place.rack}; no pod gets it",
        Role.SERVER: f"is the own address of server {place.name} in {place.rack}",
        Role.TOR: f"is the loopback of {place.name}, a ToR of {place.rack}",
        Role.HOSTS: f"is in the servers' subnet {place.prefix} of {place.rack}, and no server there has it",
        Role.SERVICE: f"is in the service range {place.prefix}: every server of {place.rack} serves it itself",
        Role.OUTSIDE: "is in no prefix of any rack's plan",
    }
    return f"{address} {words[place.role]}."

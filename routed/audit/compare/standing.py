"""How each server stands with each ToR: what its routes should look like there, and what a failure excuses. Pure.

Steering is the legitimate failure state: while one side of a server is not well, the other ToR is asked, by community,
to draw its pods' traffic, and the pods may be gone from the ToR that cannot reach them. The agent says so itself; where
it does not answer, a ToR that has the community on each and every route of that server says it instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from routed.audit.compare.claims import Claims
from routed.audit.compare.learned import Learned, Sorter
from routed.audit.model import RackPlan, ServerView


@dataclass(frozen=True, slots=True)
class Standing:
    """One server and one ToR."""

    communities: frozenset[str]
    """What its routes carry there."""
    excused: bool
    """Its routes may be missing there: the other ToR steers."""
    session_up: bool | None
    """None where the agent was not asked or watches no sides."""
    reason: str = ""
    """What is wrong with this side, for people."""


Standings = Mapping[str, Mapping[str, Standing]]
"""By server, by ToR."""


def standings(plan: RackPlan, claims: Claims, learned: Mapping[str, Learned], sorter: Sorter) -> Standings:
    """Return how each server of the plan stands with each ToR of the plan."""
    tors = [tor.name for tor in plan.rack.tors]
    silent = plan.servers.keys() - claims.agents.keys()
    inferred = _inferred(plan.rack.steering, silent, learned, sorter) if silent and plan.rack.steering else {}
    steering = frozenset((plan.rack.steering,)) if plan.rack.steering else frozenset[str]()
    return {
        server: _told(claims.agents[server], tors, steering)
        if server in claims.agents
        else _guessed(inferred.get(server, frozenset()), tors, steering)
        for server in plan.servers
    }


def steered_to(standing: Mapping[str, Standing]) -> frozenset[str]:
    """Return the ToRs that are asked to draw a server's traffic."""
    return frozenset(tor for tor, side in standing.items() if side.communities)


def _told(agent: ServerView, tors: Iterable[str], steering: frozenset[str]) -> dict[str, Standing]:
    """Return what the agent says of its sides."""
    steers = {tor for tor, side in agent.sides.items() if side.steers}
    found = {}
    for tor in tors:
        side = agent.sides.get(tor)
        found[tor] = Standing(
            steering if tor in steers else frozenset(),
            excused=side is not None and not side.healthy and bool(steers - {tor}),
            session_up=None if side is None else side.session_up,
            reason="" if side is None else side.reason,
        )
    return found


def _guessed(steers: frozenset[str], tors: Iterable[str], steering: frozenset[str]) -> dict[str, Standing]:
    return {
        tor: Standing(steering if tor in steers else frozenset(), bool(steers) and tor not in steers, None)
        for tor in tors
    }


def _inferred(
    community: str, servers: Iterable[str], learned: Mapping[str, Learned], sorter: Sorter
) -> dict[str, frozenset[str]]:
    """Return the ToRs, by server, that have the community on all its routes; none when every ToR does."""
    plain: set[tuple[str, str]] = set()
    marked: set[tuple[str, str]] = set()
    for tor, table in learned.items():
        for paths in table.pods.values():
            for path in paths:
                server = sorter.servers.get(path.next_hops[0]) if path.next_hops else None
                if server is not None and path.communities is not None:
                    (marked if community in path.communities else plain).add((server, tor))
    found = {server: frozenset(tor for tor in learned if (server, tor) in marked - plain) for server in servers}
    return {server: tors for server, tors in found.items() if tors and len(tors) < len(learned)}

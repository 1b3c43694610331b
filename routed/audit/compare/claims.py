"""Who should have which address, from all who could say it. Pure.

An agent is the truth about its own server: the API server and files hear of a pod later than the agent does, and of its
end later still. So where the agent answered, whatever else is said about its server is left aside; where it did not,
the others are believed. An address that two servers claim after that is claimed by both.

A holding without a pod that is not to be announced is a lease in stock: the address is the server's, and whether a pod
has it by now only the agent could say. Nothing is missing or leaked about it until the agent does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ipam.model import IPAddress
from routed.audit.model import Holding, RackView, ServerView, Unobserved


@dataclass(frozen=True, slots=True)
class Claims:
    """What is known of a rack's intent."""

    holdings: Mapping[IPAddress, tuple[Holding, ...]]
    """By address, one per server that claims it."""
    agents: Mapping[str, ServerView]
    """By server; those that answered."""
    known: frozenset[str]
    """Servers all of whose holdings are known: what such a server has no holding for, no pod there has."""

    def every(self) -> tuple[Holding, ...]:
        """Return all holdings, by address."""
        return tuple(holding for address in sorted(self.holdings, key=int) for holding in self.holdings[address])


def claims(view: RackView) -> Claims:
    """Return who claims what in this rack."""
    agents = {name: seen for name, seen in view.servers.items() if isinstance(seen, ServerView)}
    found: dict[IPAddress, tuple[Holding, ...]] = {}
    for seen in agents.values():
        _add(found, seen.holdings)
    if isinstance(view.holdings, Unobserved):
        return Claims(found, agents, frozenset(agents))
    others = [holding for holding in view.holdings if holding.server not in agents]
    _add(found, others)
    everybody = frozenset(view.plan.servers) | {holding.server for holding in others}
    # without others, these are the agents' own, and say nothing about silent servers
    complete = not view.partial and (bool(others) or not agents)
    return Claims(found, agents, everybody | frozenset(agents) if complete else frozenset(agents))


def is_stock(holding: Holding) -> bool:
    """Whether this is a lease of which nobody said that a pod has it."""
    return not holding.announce and not holding.pod


def _add(found: dict[IPAddress, tuple[Holding, ...]], holdings: Iterable[Holding]) -> None:
    for holding in holdings:
        before = found.get(holding.address, ())
        if all(one.server != holding.server for one in before):
            found[holding.address] = (*before, holding)

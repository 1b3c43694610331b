"""Judges one address of a rack's pools: what was intended and announced against what both ToRs learned. Pure.

One root cause yields one fault: what the agent does not announce is not missing on top of that, and what two servers
claim is not judged any further.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ipam.model import IPAddress
from routed.audit.compare import commands
from routed.audit.compare.claims import Claims, is_stock
from routed.audit.compare.faults import Fault
from routed.audit.compare.learned import Learned, Sorter
from routed.audit.compare.planes import Announcements, evidence
from routed.audit.compare.standing import Standing, Standings
from routed.audit.model import Announced, Holding, Kind, RackPlan, Route, Severity
from routed.domain.rack import Server


@dataclass(frozen=True, slots=True)
class Planes:
    """Everything that is known of a rack's addresses."""

    plan: RackPlan
    claims: Claims
    announced: Announcements
    learned: Mapping[str, Learned]
    """By ToR, those that answered."""
    sorter: Sorter
    standings: Standings

    def is_sound(self, address: IPAddress) -> bool:
        """Whether an address is plainly as it should be; False says only that it takes a closer look."""
        holdings = self.claims.holdings.get(address)
        if holdings is None or len(holdings) > 1 or not holdings[0].announce:
            return False
        name = holdings[0].server
        server, agent = self.plan.servers.get(name), self.claims.agents.get(name)
        if server is None or agent is None or agent.draining or self.announced.by.get(address) != [name]:
            return False
        hop, standing, told = server.address(address.version), self.standings[name], self.announced.to[name]
        for tor in self.plan.rack.tors:
            wanted = standing[tor.name].communities
            route = told.get(tor.name, {}).get(address)
            if route is None or route.next_hop != hop or route.communities != wanted:
                return False
            table = self.learned.get(tor.name)
            if table is not None and not _is_plain(table.pods.get(address, ()), server, hop, wanted):
                return False
        return True

    def judge(self, address: IPAddress) -> Iterator[Fault]:
        """Find what is wrong with one address."""
        return _Case(self, address).faults()


def _is_plain(paths: Sequence[Route], server: Server, hop: IPAddress | None, wanted: frozenset[str]) -> bool:
    if len(paths) != 1:
        return False
    path = paths[0]
    return (
        path.best
        and path.installed is not False
        and not path.stale
        and path.next_hops == (hop,)
        and path.as_path == (server.asn,)
        and (path.communities is None or path.communities == wanted)
    )


class _Case:
    """One address, looked at closely."""

    def __init__(self, planes: Planes, address: IPAddress) -> None:
        self._planes, self._address = planes, address
        self._plan, self._claims = planes.plan, planes.claims
        self._paths = {
            tor: [path for path in table.pods.get(address, ()) if planes.sorter.is_local(path)]
            for tor, table in planes.learned.items()
        }
        """Paths from below each ToR; those by way of the fabric are judged with the fabric."""
        self._holdings = self._claims.holdings.get(address, ())

    def faults(self) -> Iterator[Fault]:
        leading = self._leading()
        servers = leading & self._plan.servers.keys()
        announcers = self._planes.announced.by.get(self._address, [])
        claimants = {holding.server for holding in self._holdings}.union(announcers)
        if len(claimants) > 1 or len(servers) > 1:
            yield self._duplicate(sorted(claimants | servers))
        elif self._holdings:
            yield from self._held(self._holdings[0], leading)
        elif leading - servers:
            yield self._nowhere("", leading)
        elif servers or announcers:
            (server,) = servers.union(announcers)
            yield from self._unheld(server)
        elif any(self._paths.values()) and self._claims.known >= self._plan.servers.keys():
            yield self._leaked("", "no pod has it")

    # ---- who has it

    def _held(self, holding: Holding, leading: set[str]) -> Iterator[Fault]:
        server = holding.server
        agent = self._claims.agents.get(server)
        if server not in self._plan.servers:
            yield self._fault(
                Kind.PLAN_CONFLICT,
                Severity.WARNING,
                (server, (server,)),
                "held by a server that the rack's plan does not name",
                (
                    "the plan is out of date, or the server is in another rack",
                    "add the server to the rack file or the Rack object",
                ),
            )
        elif leading - {server}:
            yield (
                self._nowhere(server, leading)
                if leading - self._plan.servers.keys()
                else self._elsewhere(server, leading)
            )
        elif not holding.announce or (agent is not None and agent.draining):
            if any(self._paths.values()) and not (agent is None and is_stock(holding)):
                yield self._leaked(server, "a pod has it that should not be reached (starting, leaving or draining)")
        elif self._plan.servers[server].address(self._address.version) is not None:
            yield from self._expected(server, blind=False)

    def _unheld(self, server: str) -> Iterator[Fault]:
        """Judge an address that leads to one server and has no holding."""
        if server in self._claims.known:
            yield self._leaked(server, "no pod has it")
        else:
            yield from self._expected(server, blind=True)

    # ---- what a server's address should look like

    def _expected(self, server: str, *, blind: bool) -> Iterator[Fault]:
        """Judge the routes of an address that this server should announce; `blind` when nobody could say whether."""
        missing: list[str] = []
        for tor in (tor.name for tor in self._plan.rack.tors):
            standing = self._planes.standings[server][tor]
            fault = self._announcing(server, tor, standing)
            if fault is not None:
                yield fault
                continue
            if tor not in self._paths:
                continue
            if self._paths[tor]:
                yield from self._learned(server, tor, standing)
            elif not standing.excused:
                missing.append(tor)
        if missing:
            yield self._lone(server, missing) if blind else self._missing(server, missing)

    def _announcing(self, server: str, tor: str, standing: Standing) -> Fault | None:
        """Return what is wrong with what the agent announces to one ToR; nothing when it was not asked."""
        if server not in self._claims.agents:
            return None
        told = self._planes.announced.to[server].get(tor, {}).get(self._address)
        if told is None:
            return None if standing.excused else self._unannounced(server, tor)
        return self._misannounced(server, tor, standing, told)

    def _unannounced(self, server: str, tor: str) -> Fault:
        return self._fault(
            Kind.UNANNOUNCED,
            Severity.CRITICAL,
            (server, tuple(sorted((server, tor)))),
            f"{server}'s agent does not announce it to {tor}",
            (
                "the pod is not ready on its server, or the agent could not finish its work",
                commands.on(server, "routed show attachments"),
            ),
        )

    def _misannounced(self, server: str, tor: str, standing: Standing, told: Announced) -> Fault | None:
        wrong = []
        hop = self._plan.servers[server].address(self._address.version)
        if told.next_hop != hop:
            wrong.append(f"with next hop {told.next_hop} instead of {hop}")
        if told.communities != standing.communities and standing.session_up is not False:
            wrong.append(f"with {_communities(told.communities)} instead of {_communities(standing.communities)}")
        if not wrong:
            return None
        return self._fault(
            Kind.UNANNOUNCED,
            Severity.CRITICAL,
            (server, tuple(sorted((server, tor)))),
            f"{server}'s agent announces it to {tor} {' and '.join(wrong)}",
            ("the agent runs with another rack file, or is at fault", commands.on(server, "routed show routes")),
        )

    def _missing(self, server: str, tors: Sequence[str]) -> Fault:
        detour = all(self._planes.learned[tor].pods.get(self._address) for tor in tors)
        standing = self._planes.standings[server][tors[0]]
        if server not in self._claims.agents:
            cause = f"{server}'s agent could not be asked; it may be down, draining, or without a session"
            then = commands.on(server, "routed doctor")
        elif standing.session_up is False:
            cause = f"the BGP session of {server} with {tors[0]} is down"
            then = commands.on(server, "routed show neighbors")
        else:
            cause = f"{tors[0]} refused it: its policy, or its limit of prefixes"
            then = commands.received(tors[0], self._plan.servers[server], self._address)
        return self._fault(
            Kind.MISSING,
            Severity.WARNING if detour else Severity.CRITICAL,
            (server, tuple(sorted(tors))),
            f"no route on {' and '.join(tors)}",
            (cause, then),
        )

    def _lone(self, server: str, tors: Sequence[str]) -> Fault:
        return self._fault(
            Kind.ASYMMETRIC,
            Severity.WARNING,
            (server, tuple(sorted(self._planes.learned))),
            f"on {' and '.join(tor for tor, paths in self._paths.items() if paths)} only, not on {' and '.join(tors)}",
            (f"nobody could say whether {server} should announce it", commands.on(server, "routed show neighbors")),
        )

    # ---- what a ToR learned

    def _learned(self, server: str, tor: str, standing: Standing) -> Iterator[Fault]:
        """Judge the paths that one ToR has from below; all of them lead to the right server."""
        paths = self._paths[tor]
        all_paths = self._planes.learned[tor].pods[self._address]
        if not (standing.excused and standing.session_up is False):  # else these are of before the failure
            yield from self._age(server, tor, standing, paths)
            yield from self._attributes(server, tor, standing, paths)
        if standing.excused:
            return
        if not any(path.best for path in all_paths):
            yield self._fault(
                Kind.NOT_INSTALLED,
                Severity.CRITICAL,
                (server, (tor,)),
                f"{tor} has a route to it and does not use it",
                (
                    f"{tor} cannot resolve the next hop: {server} is not in its neighbour table",
                    commands.on_switch(tor, f"show ip nht | include {self._plan.servers[server].addresses[0]}"),
                ),
            )
        elif any(path.best and path.installed is False for path in all_paths):
            yield self._fault(
                Kind.NOT_INSTALLED,
                Severity.CRITICAL,
                (server, (tor,)),
                f"best path of {tor}, but not in its forwarding table",
                (
                    "the forwarding table is full, or the switch could not write it",
                    commands.on_switch(tor, f"show {commands.ip(self._address)} route {self._address}"),
                ),
            )

    def _age(self, server: str, tor: str, standing: Standing, paths: Sequence[Route]) -> Iterator[Fault]:
        if any(path.stale for path in paths):
            yield self._fault(
                Kind.STALE,
                Severity.WARNING,
                (server, (tor,)),
                f"{tor} keeps it for {server}, which is away, and drops it soon",
                (
                    f"{server}'s agent or its BGP speaker died, or restarts",
                    commands.on(server, "systemctl status routed; routed show neighbors"),
                ),
            )
        elif standing.excused and standing.session_up and self._is_withdrawn(server, tor):
            yield self._fault(
                Kind.STALE,
                Severity.WARNING,
                (server, (tor,)),
                f"{tor} still has it, although {server} withdrew it there",
                (
                    f"{tor} did not take in the withdrawal",
                    commands.received(tor, self._plan.servers[server], self._address),
                ),
            )

    def _is_withdrawn(self, server: str, tor: str) -> bool:
        told = self._planes.announced.to.get(server)
        return told is not None and self._address not in told.get(tor, {})

    def _attributes(self, server: str, tor: str, standing: Standing, paths: Sequence[Route]) -> Iterator[Fault]:
        asn = self._plan.servers[server].asn
        for path in paths:
            if path.as_path != (asn,):
                says = f"AS path {_as_path(path)} on {tor} instead of {asn}"
                cause = "another speaker announces it in the server's name, or the ToR changes AS paths"
                yield self._attribute(server, tor, Severity.WARNING, says, cause)
            if path.communities is not None and path.communities != standing.communities:
                yield self._communities(server, tor, standing, path.communities)

    def _communities(self, server: str, tor: str, standing: Standing, seen: frozenset[str]) -> Fault:
        lost = standing.communities - seen
        steering = frozenset((self._plan.rack.steering or "",))
        if server not in self._claims.agents and seen == steering and not self._everywhere(steering):
            return self._fault(
                Kind.ASYMMETRIC,
                Severity.WARNING,
                (server, tuple(sorted(self._paths))),
                f"{tor} alone is asked to steer it, and the rest of the server's routes are not steered",
                ("an update was lost, or another speaker announces it", commands.on(server, "routed show neighbors")),
            )
        says = f"{_communities(seen)} on {tor} instead of {_communities(standing.communities)}"
        cause = f"{tor} drops the community on its way in" if lost else "something beside routed adds communities"
        return self._attribute(server, tor, Severity.CRITICAL if lost else Severity.WARNING, says, cause)

    def _everywhere(self, communities: frozenset[str]) -> bool:
        return all(path.communities == communities for paths in self._paths.values() for path in paths)

    def _attribute(self, server: str, tor: str, severity: Severity, says: str, cause: str) -> Fault:
        then = commands.on_switch(tor, commands.show(self._address))
        return self._fault(Kind.ATTRIBUTES, severity, (server, (tor,)), says, (cause, then))

    # ---- routes to the wrong place

    def _leading(self) -> set[str]:
        """Return where the paths lead: servers by name, others by address. A ToR's own route may lead nowhere."""
        servers = self._planes.sorter.servers
        return {
            servers.get(hop, str(hop))
            for paths in self._paths.values()
            for path in paths
            for hop in path.next_hops
            if path.as_path or hop in servers
        }

    def _tors(self) -> list[str]:
        return sorted(tor for tor, paths in self._paths.items() if paths)

    def _duplicate(self, servers: Sequence[str]) -> Fault:
        live = [holding for holding in self._holdings if holding.announce]
        harmless = len(live) == 1 and self._leading() <= {live[0].server}
        return self._fault(
            Kind.DUPLICATE,
            Severity.WARNING if harmless else Severity.CRITICAL,
            ("", tuple(servers)),
            f"{' and '.join(servers)} have it at once",
            (
                "two servers own the same part of the pool, or a pod was moved while its old server was unreachable",
                commands.on(servers[0], f"routed show attachments | grep -w {self._address}"),
            ),
        )

    def _elsewhere(self, server: str, leading: set[str]) -> Fault:
        (other,) = leading
        return self._fault(
            Kind.WRONG_NEXT_HOP,
            Severity.CRITICAL,
            (other, tuple(self._tors())),
            f"leads to {other} instead of {server}",
            (
                f"{other} announces an address that is not its own",
                commands.on(other, f"routed show routes | grep -w {self._address}"),
            ),
        )

    def _nowhere(self, server: str, leading: set[str]) -> Fault:
        strangers = sorted(leading - self._plan.servers.keys())
        return self._fault(
            Kind.WRONG_NEXT_HOP,
            Severity.CRITICAL,
            (", ".join(strangers), tuple(self._tors())),
            f"leads to {', '.join(strangers)}, which is no server of the rack"
            + (f", instead of {server}" if server else ""),
            (
                "another speaker announces it, or the rack file misses a server",
                commands.on_switch(self._tors()[0], commands.show(self._address)),
            ),
        )

    def _leaked(self, server: str, why: str) -> Fault:
        pool = next(pool for pool in self._plan.pools if self._address in pool.prefix)
        reserved = self._address == pool.gateway or self._address in pool.edges
        announced = bool(self._planes.announced.by.get(self._address))
        if reserved:
            cause = "the pool's own address, which the ToR's policy should refuse"
        elif announced:
            cause = f"{server}'s agent still announces it"
        elif server in self._claims.agents:
            cause = f"something beside the agent announces it from {server}, or a withdrawal was lost"
        else:
            cause = f"{server or 'the switch'} kept it when its pod went away"
        where = self._tors() or [server]
        then = commands.on_switch(where[0], commands.show(self._address))
        return self._fault(
            Kind.LEAKED,
            Severity.CRITICAL if reserved else Severity.WARNING,
            (server, tuple(where)),
            f"a route on {' and '.join(where)}, but {why}",
            (cause, commands.on(server, "routed show routes") if announced else then),
        )

    def _fault(
        self, kind: Kind, severity: Severity, at: tuple[str, tuple[str, ...]], says: str, advice: tuple[str, str]
    ) -> Fault:
        """Return a fault with what every plane says; `at` is culprit and places, `advice` cause and next command."""
        whose = ", ".join(f"{holding.pod or 'a pod'} on {holding.server}" for holding in self._holdings)
        planes = self._planes
        told = evidence(self._address, self._holdings, planes.claims, planes.announced, planes.learned)
        return Fault(kind, severity, self._address, *at, says, *advice, whose, told)


def _communities(communities: frozenset[str]) -> str:
    if not communities:
        return "no community"
    return f"communit{'y' if len(communities) == 1 else 'ies'} {' '.join(sorted(communities))}"


def _as_path(path: Route) -> str:
    return " ".join(map(str, path.as_path)) or "(none: the switch's own route)"

"""Judges one address of a rack's pools: what was intended and announced against what both ToRs learned. Pure.

One root cause yields one fault: what the agent does not announce is not missing on top of that, and what two servers
claim is not judged any further.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ipam.model import IPAddress
from routed.audit.compare import commands
from routed.audit.compare.arrival import Arrival, spell
from routed.audit.compare.claims import is_stock
from routed.audit.compare.faults import Fault
from routed.audit.compare.planes import Planes, Subject
from routed.audit.compare.standing import Standing
from routed.audit.model import Announced, Holding, Kind, Severity
from routed.domain.workload import host_network


def judge(planes: Planes, address: IPAddress) -> Iterator[Fault]:
    """Find what is wrong with one address."""
    return _Case(Subject(planes, address)).faults()


class _Case:
    """One address, looked at closely."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._planes, self._plan, self._claims = subject.planes, subject.plan, subject.planes.claims

    def faults(self) -> Iterator[Fault]:
        leading = self._subject.leading()
        servers = leading & self._plan.servers.keys()
        announcers = self._planes.announced.by.get(self._subject.address, [])
        claimants = {holding.server for holding in self._subject.holdings}.union(announcers)
        if len(claimants) > 1 or len(servers) > 1:
            yield self._duplicate(sorted(claimants | servers))
        elif self._subject.holdings:
            yield from self._held(self._subject.holdings[0], leading)
        elif leading - servers:
            yield self._nowhere("", leading)
        elif servers or announcers:
            (server,) = servers.union(announcers)
            yield from self._unheld(server)
        elif any(self._subject.paths.values()) and self._claims.known >= self._plan.servers.keys():
            yield self._leaked("", "no pod has it")

    # ---- who has it

    def _held(self, holding: Holding, leading: set[str]) -> Iterator[Fault]:
        server = holding.server
        agent = self._claims.agents.get(server)
        if server not in self._plan.servers:
            yield self._subject.fault(
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
            if any(self._subject.paths.values()) and not (agent is None and is_stock(holding)):
                yield self._leaked(server, "a pod has it that should not be reached (starting, leaving or draining)")
        elif self._plan.servers[server].address(self._subject.address.version) is not None:
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
            if tor not in self._subject.paths:
                continue
            if self._subject.paths[tor]:
                yield from Arrival(self._subject, server, tor, standing).faults()
            elif not standing.excused:
                missing.append(tor)
        if missing:
            yield self._lone(server, missing) if blind else self._missing(server, missing)

    def _announcing(self, server: str, tor: str, standing: Standing) -> Fault | None:
        """Return what is wrong with what the agent announces to one ToR; nothing when it was not asked."""
        if server not in self._claims.agents:
            return None
        told = self._planes.announced.to[server].get(tor, {}).get(self._subject.address)
        if told is None:
            return None if standing.excused else self._unannounced(server, tor)
        return self._misannounced(server, tor, standing, told)

    def _unannounced(self, server: str, tor: str) -> Fault:
        return self._subject.fault(
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
        hop = self._plan.servers[server].address(self._subject.address.version)
        if told.next_hop != hop:
            wrong.append(f"with next hop {told.next_hop} instead of {hop}")
        if told.communities != standing.communities and standing.session_up is not False:
            wrong.append(f"with {spell(told.communities)} instead of {spell(standing.communities)}")
        if not wrong:
            return None
        return self._subject.fault(
            Kind.UNANNOUNCED,
            Severity.CRITICAL,
            (server, tuple(sorted((server, tor)))),
            f"{server}'s agent announces it to {tor} {' and '.join(wrong)}",
            ("the agent runs with another rack file, or is at fault", commands.on(server, "routed show routes")),
        )

    def _missing(self, server: str, tors: Sequence[str]) -> Fault:
        detour = all(self._planes.learned[tor].pods.get(self._subject.address) for tor in tors)
        loss = "traffic takes the way by the other ToR" if detour else self._loss(tors)
        return self._subject.fault(
            Kind.MISSING,
            Severity.WARNING if detour else Severity.CRITICAL,
            (server, tuple(sorted(tors))),
            f"no route on {' and '.join(tors)}; {loss}",
            self._why_missing(server, tors),
        )

    def _loss(self, tors: Sequence[str]) -> str:
        """Say how much these ToRs lose: flows are spread over both, and a ToR without the route drops its share."""
        others = {tor.name for tor in self._plan.rack.tors}.difference(tors)
        if not any(self._subject.paths.get(tor, True) for tor in others):
            return "all traffic from outside its server is lost"
        unseen = not others <= self._subject.paths.keys()
        return f"{'at least ' if unseen else ''}half of the traffic from outside its server is lost"

    def _why_missing(self, server: str, tors: Sequence[str]) -> tuple[str, str]:
        """Return the likely cause and the next command."""
        address, whose = self._subject.address, self._plan.servers[server]
        if server not in self._claims.agents:
            cause = f"{server}'s agent could not be asked; it may be down, draining, or without a session"
            return cause, commands.on(server, "routed doctor")
        if down := [tor for tor in tors if self._planes.standings[server][tor].session_up is False]:
            cause = f"the BGP session of {server} with {' and '.join(down)} is down"
            return cause, commands.on(server, "routed show neighbors")
        said = {tor: self._planes.learned[tor].refused.get((whose.addresses[0], address.version)) for tor in tors}
        known = {tor: host_network(address) in refused for tor, refused in said.items() if refused is not None}
        if refusing := [tor for tor in tors if known.get(tor)]:
            cause = f"{' and '.join(refusing)} received it and refused it: inbound policy"
            return cause, self._planes.switches.policy(refusing, whose, address)
        if len(known) == len(tors):
            cause = f"no policy of {' and '.join(tors)} refused it: never received, or denied for another reason"
            return cause, self._planes.switches.received(tors, whose, address)
        cause = f"{' and '.join(tors)} refused it: inbound policy, or a limit of prefixes"
        return cause, self._planes.switches.refused(tors, whose, address)

    def _lone(self, server: str, tors: Sequence[str]) -> Fault:
        return self._subject.fault(
            Kind.ASYMMETRIC,
            Severity.WARNING,
            (server, tuple(sorted(self._planes.learned))),
            f"on {' and '.join(self._subject.tors())} only, not on {' and '.join(tors)}",
            (f"nobody could say whether {server} should announce it", commands.on(server, "routed show neighbors")),
        )

    # ---- routes to the wrong place

    def _duplicate(self, servers: Sequence[str]) -> Fault:
        live = [holding for holding in self._subject.holdings if holding.announce]
        harmless = len(live) == 1 and self._subject.leading() <= {live[0].server}
        return self._subject.fault(
            Kind.DUPLICATE,
            Severity.WARNING if harmless else Severity.CRITICAL,
            (" and ".join(servers), tuple(servers)),
            f"{' and '.join(servers)} have it at once",
            (
                "two servers own the same part of the pool, or a pod was moved while its old server was unreachable",
                commands.on(servers[0], f"routed show attachments | grep -w {self._subject.address}"),
            ),
        )

    def _elsewhere(self, server: str, leading: set[str]) -> Fault:
        (other,) = leading
        return self._subject.fault(
            Kind.WRONG_NEXT_HOP,
            Severity.CRITICAL,
            (other, tuple(self._subject.tors_to(leading))),
            f"leads to {other} instead of {server}",
            (
                f"{other} announces an address that is not its own",
                commands.on(other, f"routed show routes | grep -w {self._subject.address}"),
            ),
        )

    def _nowhere(self, server: str, leading: set[str]) -> Fault:
        strangers = sorted(leading - self._plan.servers.keys())
        where = tuple(self._subject.tors_to(set(strangers)))
        return self._subject.fault(
            Kind.WRONG_NEXT_HOP,
            Severity.CRITICAL,
            (", ".join(strangers), where),
            f"leads to {', '.join(strangers)}, which is no server of the rack"
            + (f", instead of {server}" if server else ""),
            (
                "another speaker announces it, or the rack file misses a server",
                self._planes.switches.paths(where[0], self._subject.address),
            ),
        )

    def _leaked(self, server: str, why: str) -> Fault:
        pool = next(pool for pool in self._plan.pools if self._subject.address in pool.prefix)
        reserved = self._subject.address == pool.gateway or self._subject.address in pool.edges
        announced = bool(self._planes.announced.by.get(self._subject.address))
        if reserved:
            cause = "the pool's own address, which the ToR's policy should refuse"
        elif announced:
            cause = f"{server}'s agent still announces it"
        elif server in self._claims.agents:
            cause = f"something beside the agent announces it from {server}, or a withdrawal was lost"
        else:
            cause = f"{server or 'the switch'} kept it when its pod went away"
        where = self._subject.tors() or [server]
        then = self._planes.switches.paths(where[0], self._subject.address)
        return self._subject.fault(
            Kind.LEAKED,
            Severity.CRITICAL if reserved else Severity.WARNING,
            (server, tuple(where)),
            f"a route on {' and '.join(where)}, but {why}",
            (cause, commands.on(server, "routed show routes") if announced else then),
        )

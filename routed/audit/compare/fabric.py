"""Judges what no rack can judge alone: host routes beyond their rack, pools' aggregates, the address plan. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet

from ipam.model import IPAddress, IPNetwork
from routed.audit.compare.commands import Switches
from routed.audit.compare.evidence import describe
from routed.audit.compare.faults import MANY, Fault, findings, parts
from routed.audit.compare.handed_on import Beyond
from routed.audit.compare.plan import plan_conflicts
from routed.audit.compare.poolmap import PoolMap, key
from routed.audit.compare.rack import RackResult, by_hand, unobserved
from routed.audit.model import Evidence, Finding, Kind, RackPlan, Route, Severity, SwitchView, Unobserved, fault_key
from routed.audit.places import is_inside


def compare_fabric(
    plans: Sequence[RackPlan], results: Iterable[RackResult], spines: Mapping[str, SwitchView | Unobserved]
) -> Iterator[Finding]:
    """Find what is wrong beyond single racks; `results` are those of the racks that were compared."""
    compared = {result.summary.rack: result for result in results}
    pools = PoolMap(plans)
    yield from plan_conflicts(plans)
    for name, seen in spines.items():
        if isinstance(seen, Unobserved):
            yield unobserved("", name, "beyond", seen, by_hand(name))
    seen_spines = {name: seen for name, seen in spines.items() if isinstance(seen, SwitchView)}
    shells = {tor: shell for result in compared.values() for tor, shell in result.shells.items()}
    switches = Switches(shells | {name: seen.shell for name, seen in seen_spines.items()})
    hosts = {name: list(_hosts(name, seen, pools)) for name, seen in seen_spines.items()}
    yield from _host_routes(plans, compared, pools, [one for beyond in hosts.values() for one in beyond], switches)
    yield from _unheard(plans, compared, seen_spines, hosts, switches)
    yield from _aggregates(compared, pools, seen_spines, switches)


def _hosts(name: str, seen: SwitchView, pools: PoolMap) -> Iterator[Beyond]:
    for route in seen.routes:
        if route.prefix.prefixlen == route.prefix.max_prefixlen:
            address = route.prefix.network_address
            if pools.find(address) is not None:
                yield Beyond(address, name, route)


# ---- host routes beyond their rack


def _host_routes(
    plans: Iterable[RackPlan],
    compared: Mapping[str, RackResult],
    pools: PoolMap,
    on_spines: Iterable[Beyond],
    switches: Switches,
) -> Iterator[Finding]:
    """Report host routes outside their rack that no failure explains, each address once for all switches."""
    asns: dict[int, set[str]] = defaultdict(set)
    for plan in plans:
        for tor in plan.rack.tors:
            asns[tor.asn].add(tor.name)  # a pair, or racks that never meet in one AS path, may share a number
    own_tors = {plan.rack.name: {tor.name for tor in plan.rack.tors} for plan in plans}
    every_tor = set[str]().union(*own_tors.values())
    seen: dict[str, dict[IPAddress, dict[str, list[Route]]]] = defaultdict(lambda: defaultdict(dict))
    ends = [one for result in compared.values() for one in result.beyond]
    for one in (*on_spines, *ends):
        pool = pools.find(one.address)
        rack = "" if pool is None else pools.racks[pool]
        allowed: AbstractSet[str] = frozenset()
        if rack in compared:
            allowed = compared[rack].steered.get(one.address, frozenset()) | compared[rack].dark
        explained = not allowed.isdisjoint(_through(one.path, asns))
        at_home = one.switch in own_tors.get(rack, ()) or one.switch not in every_tor
        if not (explained and at_home):
            seen[rack][one.address].setdefault(one.switch, []).append(one.path)
    for rack, addresses in seen.items():
        yield from findings(rack, (_escaped(address, at, asns, switches) for address, at in addresses.items()))


def _through(path: Route, asns: Mapping[int, AbstractSet[str]]) -> set[str]:
    """Return the ToRs that a path may have passed, by the AS numbers in it."""
    return {tor for asn in path.as_path if asn in asns for tor in asns[asn]}


def _escaped(
    address: IPAddress, at: Mapping[str, Sequence[Route]], asns: Mapping[int, AbstractSet[str]], switches: Switches
) -> Fault:
    exits = sorted({tor for paths in at.values() for path in paths for tor in _through(path, asns)})
    leak = exits[0] if exits else ""
    where = tuple(sorted(at))
    return Fault(
        *(Kind.BEYOND_RACK, Severity.WARNING, address, ", ".join(exits), where),
        f"a host route beyond its rack, on {', '.join(where)}, without a failure that explains it",
        f"{leak}'s policy towards the spines lets it out" if leak else "another speaker announces it to the fabric",
        switches.paths(leak or where[0], address),
        evidence=tuple(Evidence("beyond", switch, describe(path)) for switch in where for path in at[switch]),
    )


def _unheard(
    plans: Iterable[RackPlan],
    compared: Mapping[str, RackResult],
    spines: Mapping[str, SwitchView],
    hosts: Mapping[str, Sequence[Beyond]],
    switches: Switches,
) -> Iterator[Finding]:
    """Report steered addresses that a spine does not hear of from a ToR that it hears of the pools from."""
    steering = {plan.rack.name: plan for plan in plans if plan.rack.name in compared}
    steering = {name: plan for name, plan in steering.items() if compared[name].steered}
    if not steering:
        return
    for spine, seen in spines.items():
        heard = {one.address for one in hosts[spine]}
        neighbours = {
            (route.prefix, route.as_path[0])
            for route in seen.routes
            if route.as_path and route.prefix.prefixlen < route.prefix.max_prefixlen
        }
        for name, plan in steering.items():
            yield from findings(name, _deaf(plan, compared[name], spine, heard, neighbours, switches))


def _deaf(  # noqa: PLR0913, PLR0917 - all that is known of one rack and one spine
    plan: RackPlan,
    result: RackResult,
    spine: str,
    heard: set[IPAddress],
    neighbours: set[tuple[IPNetwork, int]],
    switches: Switches,
) -> Iterator[Fault]:
    asns = {tor.name: tor.asn for tor in plan.rack.tors}
    live = {holding.address: holding for holding in result.summary.holdings if holding.announce}
    for address, tors in result.steered.items():
        holding = live.get(address)
        pool = next((pool.prefix for pool in plan.pools if is_inside(address, pool.prefix)), None)
        exits = sorted(tor for tor in tors if (pool, asns[tor]) in neighbours)
        if holding is None or not exits or address in heard:
            continue
        yield Fault(
            *(Kind.MISSING, Severity.CRITICAL, address, holding.server, (spine,)),
            f"no host route on {spine}, though {exits[0]} is asked to steer: half of its traffic goes the broken way",
            f"{exits[0]}'s policy towards the spines does not let the steering community out",
            switches.paths(exits[0], address),
            f"{holding.pod or 'a pod'} on {holding.server}",
            (Evidence("learned", exits[0], "asked to steer"), Evidence("beyond", spine, "no host route")),
        )


# ---- aggregates


def _aggregates(
    compared: Mapping[str, RackResult], pools: PoolMap, spines: Mapping[str, SwitchView], switches: Switches
) -> Iterator[Finding]:
    """Report pools with pods that a switch has no route to: by switch when it lacks many, else by pool."""
    inhabited = {pool for result in compared.values() for pool in result.inhabited}
    lacking = {tor: missing & inhabited for result in compared.values() for tor, missing in result.lacking.items()}
    for name, seen in spines.items():
        networks = {key(route.prefix) for route in seen.routes if route.prefix.prefixlen < route.prefix.max_prefixlen}
        lacking[name] = pools.unreached(networks) & inhabited
    by_pool: dict[IPNetwork, list[str]] = defaultdict(list)
    for switch, missing in sorted(lacking.items()):
        if len(missing) > MANY:
            yield _switch_lacks(switch, missing, pools.racks, switches)
        else:
            for pool in missing:
                by_pool[pool].append(switch)
    for pool, lacking_it in by_pool.items():
        yield _pool_lacks(pools.racks[pool], pool, lacking_it, switches)


def _switch_lacks(
    switch: str, missing: Iterable[IPNetwork], racks: Mapping[IPNetwork, str], switches: Switches
) -> Finding:
    ordered = sorted(missing, key=lambda pool: (pool.version, pool))
    return Finding(
        Kind.AGGREGATE_MISSING,
        Severity.CRITICAL,
        "",
        switch,
        (switch,),
        f"{switch}: no route to {len(ordered)} pools with pods ({', '.join(map(str, ordered[:MANY]))}, ...)",
        f"{switch} has lost its links or sessions with the fabric",
        switches.sessions(switch),
        tuple(Evidence("beyond", switch, f"no route to {pool}") for pool in ordered[:MANY]),
        frozenset(part for pool in ordered for part in parts(Kind.AGGREGATE_MISSING, str(pool), (switch,))),
        tuple(fault_key(Kind.AGGREGATE_MISSING, racks[pool], str(pool), (switch,)) for pool in ordered),
    )


def _pool_lacks(rack: str, pool: IPNetwork, lacking_it: Sequence[str], switches: Switches) -> Finding:
    where = tuple(sorted(lacking_it))
    return Finding(
        Kind.AGGREGATE_MISSING,
        Severity.CRITICAL,
        rack,
        str(pool),
        where,
        f"{pool}: no route to it on {', '.join(where)}, and pods have addresses of it",
        "the rack's ToRs do not originate it, or a policy on the way refuses it",
        switches.paths(where[0], pool),
        tuple(Evidence("beyond", switch, "no route") for switch in where),
        frozenset(parts(Kind.AGGREGATE_MISSING, str(pool), where)),
    )

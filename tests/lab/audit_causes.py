"""How each finding of an audit is caused on the lab, and put right again. Yields what an audit is to find."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from netaddr import IPSet

from containerlab.agents import Agent
from routed.audit.model import Kind
from tests.auditing import Auditor, Sign, entering
from tests.fabric import ADDRESSES, announcing, eventually
from tests.lab.audit_misconfigured import (
    Cause,
    Caused,
    caused,
    community_lost,
    kept_in,
    left_behind,
    let_out,
    link_cut,
    marked,
    not_aggregated,
    overridden,
    policy,
    prepended,
    refused,
    rewritten,
)
from tests.servers import NO_STEERING, Server

# ---- speakers


@contextlib.contextmanager
def second_speaker(auditor: Auditor) -> Iterator[Caused]:
    """A server without an agent speaks for itself, and one ToR takes whatever it says."""
    stolen, lone, foreign = auditor.pods.far.address(4), "10.102.1.77", "192.0.2.7"
    auditor.racks["r2"]["servers"]["s22"] = {"addresses": [ADDRESSES["s22"]]}
    routes = {"ipv4": [f"{address}/32 next-hop self" for address in (stolen, lone, foreign)]}
    with (
        policy(auditor, "r2b", "FROM-s22", 1, f"{lone}/32", "deny"),
        policy(auditor, "r2a", "FROM-s22", 2, f"{foreign}/32", "permit"),
        announcing(auditor.lab, "s22", routes),
    ):
        yield {
            **caused(stolen, (Kind.DUPLICATE, stolen, ("s21", "s22"))),
            **caused(lone, (Kind.ASYMMETRIC, lone, ("r2a", "r2b")), (Kind.UNOBSERVED, "s22", ("s22",))),
            **caused(foreign, (Kind.FOREIGN, f"{foreign}/32", ("r2a",))),
        }


@contextlib.contextmanager
def died(auditor: Auditor) -> Iterator[Caused]:
    """An agent and its speaker die, and the ToRs wait for them to come back."""
    server, pod = auditor.servers["s12"], auditor.pods.rack
    try:
        server.agent.kill()
        server.agent.kill_speaker()
        yield {
            pod.address(version): {
                Sign(Kind.UNOBSERVED, "s12", ("s12",)),
                *(Sign(Kind.STALE, pod.address(version), (tor,)) for tor in server.tors),
            }
            for version in (4, 6)
        }
    finally:
        start(server)


@contextlib.contextmanager
def another_plan(auditor: Auditor) -> Iterator[Caused]:
    """An agent runs with a rack file that knows one ToR only."""
    server, pod = auditor.servers["s12"], auditor.pods.rack
    changes = {
        "  - {name: r1b, asn: 65012, address: 10.255.1.2}\n": "",
        "members: [etha, ethb]": "members: [etha]",
        **NO_STEERING,
    }
    server.agent.stop()
    try:
        server.agent = Agent.start(server.node, env={"ROUTED_CONFIG": str(server.copy_of_rack_file(changes))})
        server.agent.wait_ready()
        yield {address: {Sign(Kind.UNANNOUNCED, address, ("r1b", "s12"))} for address in map(pod.address, (4, 6))}
    finally:
        if server.agent.alive():
            server.agent.stop()
        start(server)


def start(server: Server) -> None:
    """Start an agent again, and wait until it is at rest."""
    server.start()
    eventually(server.at_rest, f"{server.name} at rest", 60)


# ---- the plan


@contextlib.contextmanager
def full(auditor: Auditor) -> Iterator[Caused]:
    """One rack has no address left, another one has one."""
    used = [pod.address(4) for pod in auditor.pods.all]
    _reserve_all_but(used, auditor.racks["r1"]["pools"])
    _reserve_all_but([*used, "10.102.1.10"], auditor.racks["r2"]["pools"])
    auditor.options["pools"] = {"low": 0.5}
    yield caused(
        "",
        (Kind.POOL_EXHAUSTED, "10.101.0.0/24,10.101.1.0/24", ()),
        (Kind.POOL_LOW, "10.102.0.0/24,10.102.1.0/24", ()),
    )


def _reserve_all_but(kept: Iterable[str], pools: Iterable[dict[str, Any]]) -> None:
    """Reserve all IPv4 addresses of pools that pods could still get."""
    for pool in pools:
        if "." in pool["prefix"]:
            rest = IPSet([pool["prefix"]]) - IPSet([*kept, pool["gateway"]])
            pool["reserved"] = [str(prefix) for prefix in rest.iter_cidrs()]


@contextlib.contextmanager
def planned_twice(auditor: Auditor) -> Iterator[Caused]:
    """A new rack's servers get a subnet out of another rack's pool; one of its ToRs fails, the other one hangs."""
    auditor.racks["r3"] = {
        "rack": "r3",
        "tors": [
            {"name": f"r3{side}", "asn": 65031 + at, "address": f"10.255.3.{1 + at}"} for at, side in enumerate("ab")
        ],
        "hosts": [{"prefix": "10.101.1.128/25", "gateway": "10.101.1.129"}],
        "pools": [{"prefix": "10.103.0.0/24", "gateway": "10.103.0.1"}],
        "servers": {"s31": {"addresses": ["10.101.1.131"]}},
        "bgp": {"asn": 65500},
    }
    auditor.switches = {
        "r3a": {"source": "frr", "command": entering(auditor.lab.node("s11"), "vtysh")},
        "r3b": {"source": "frr", "command": ["sh", "-c", "sleep 60 #"]},
    }
    auditor.options["timeout_s"] = 3
    silent = ((Kind.UNOBSERVED, name, (name,)) for name in ("r3a", "r3b", "s31"))
    yield {
        **caused("10.101.1.130", (Kind.PLAN_CONFLICT, "10.101.1.128/25", ("r1", "r3"))),
        **caused("10.103.0.5", *silent, (Kind.UNOBSERVED, "holdings", ())),
    }


CAUSES: Mapping[Kind, Cause] = {
    Kind.MISSING: refused,
    Kind.UNANNOUNCED: another_plan,
    Kind.LEAKED: left_behind,
    Kind.DUPLICATE: second_speaker,
    Kind.WRONG_NEXT_HOP: rewritten,
    Kind.FOREIGN: second_speaker,
    Kind.ATTRIBUTES: community_lost,
    Kind.ASYMMETRIC: second_speaker,
    Kind.STALE: died,
    Kind.NOT_INSTALLED: overridden,
    Kind.BEYOND_RACK: let_out,
    Kind.AGGREGATE_MISSING: not_aggregated,
    Kind.POOL_EXHAUSTED: full,
    Kind.POOL_LOW: full,
    Kind.PLAN_CONFLICT: planned_twice,
    Kind.UNOBSERVED: planned_twice,
}
"""One for each; there are more."""
TOGETHER: Mapping[str, tuple[Cause, ...]] = {
    "a ToR's policy": (
        refused,
        rewritten,
        prepended,
        marked,
        let_out,
        overridden,
        left_behind,
        not_aggregated,
    ),
    "steering": (link_cut, community_lost, kept_in),
    "another speaker": (second_speaker,),
    "the plan": (full, planned_twice),
    "a dead agent": (died,),
    "an agent with another plan": (another_plan,),
}
"""What does not disturb each other is caused at once: audits take their time."""

"""One audit with most kinds of findings, and what `routed audit` prints of it.

``python -m tests.golden.audits`` writes the texts anew; then read the difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path
from xml.etree.ElementTree import canonicalize

from routed.audit.explain import Story, explain
from routed.audit.model import (
    Audit,
    Evidence,
    Finding,
    Holding,
    Kind,
    PoolSummary,
    PortView,
    RackSummary,
    Severity,
    SwitchView,
    Unobserved,
)
from routed.audit.report import machine, tables
from routed.audit.report.story import story
from tests.fixtures import audits

GOLDEN = Path(__file__).parent / "audit"
SCHEMA = Path(__file__).parents[2] / "docs" / "audit.schema.json"
NARROW = 80
SERVICES = ("web", "cart", "search", "login", "mail", "queue", "batch")


def holdings(number: int, count: int) -> tuple[Holding, ...]:
    """Return `count` pods on four servers of rack `number`, in its two /24 and a few in its /64."""
    found = []
    for at in range(count):
        prefix, host = (0, at + 2) if at < count * 2 // 3 else (1, at - count * 2 // 3 + 2)
        pod = f"shop/{SERVICES[at % 7]}-{at // 7}"
        found.append(Holding(ip_address(f"10.{100 + number}.{prefix}.{host}"), f"s{number}{at % 4 + 1}", pod))
        if at % 9 == 0:
            found.append(Holding(ip_address(f"fd00:{100 + number}::1:{at:x}"), f"s{number}{at % 4 + 1}", pod))
    quiet = found[-1]
    return (*found[:-1], Holding(quiet.address, quiet.server, quiet.pod, announce=False))


def rack(number: int, count: int, tors: dict[str, int | None]) -> RackSummary:
    """Return rack `number` with so many pods."""
    held = holdings(number, count)
    pools = []
    for text in (f"10.{100 + number}.0.0/24", f"10.{100 + number}.1.0/24", f"fd00:{100 + number}::/64"):
        prefix = ip_network(text)
        used = sum(each.address in prefix for each in held)
        if prefix.version == 4:
            edges = tuple(prefix[at] for at in (0, 1, 255))
            pools.append(PoolSummary(prefix, 253, used, edges))
        else:
            pools.append(PoolSummary(prefix, 2**64 - 4, used, tuple(prefix[at] for at in range(4))))
    return RackSummary(f"r{number}", tuple(pools), held, tors)


MISSING = Finding(
    Kind.MISSING,
    Severity.WARNING,
    "r1",
    "10.101.0.23",
    ("r1a",),
    "10.101.0.23 (shop/web-3 on s12) is missing on r1a; r1b has it",
    "r1a refuses it: the session is up and s12 announces it to both",
    "ssh r1a vtysh -c 'show bgp ipv4 unicast neighbors 10.1.0.12 received-routes'",
    (
        Evidence("intended", "s12", "shop/web-3 holds it"),
        Evidence("announced", "s12", "to r1a and r1b, next hop 10.1.0.12"),
        Evidence("learned", "r1a", "no path"),
        Evidence("learned", "r1b", "10.1.0.12, AS path 65500, 3 h old, best"),
        Evidence("installed", "r1b", "yes"),
        Evidence("beyond", "sp1", "only 10.101.0.0/24, as it should be"),
    ),
)
DUPLICATE = Finding(
    Kind.DUPLICATE,
    Severity.CRITICAL,
    "r2",
    "10.102.1.9",
    ("r2a", "r2b", "s21", "s23"),
    "10.102.1.9 leads to two servers: s21 (10.2.0.11) and s23 (10.2.0.13)",
    "s23 hands out a prefix of s21's share: `servers.*.owns` overlap, or a ledger was copied",
    "routed audit explain 10.102.1.9",
    (
        Evidence("intended", "s21", "shop/mail-21 holds it"),
        Evidence("intended", "s23", "batch/report-0 holds it"),
        Evidence("announced", "s21", "to r2a, r2b via 10.2.0.11"),
        Evidence("announced", "s23", "to r2a, r2b via 10.2.0.13"),
        Evidence("learned", "r2a", "via 10.2.0.11 and 10.2.0.13, both best (ECMP)"),
        Evidence("installed", "r2a", "both, so that half of its traffic goes astray"),
    ),
)
UNOBSERVED = Finding(
    Kind.UNOBSERVED,
    Severity.NOTE,
    "r2",
    "r2b",
    ("r2b",),
    "r2b could not be observed: ssh: connect to host r2b port 22: Connection timed out",
    "",
    "ssh r2b vtysh -c 'show version'",
)
FINDINGS = (
    DUPLICATE,
    Finding(
        Kind.LEAKED,
        Severity.CRITICAL,
        "r1",
        "10.101.1.200",
        ("r1a", "r1b"),
        "10.101.1.200 has a route to s14 (10.1.0.14), but no pod",
        "somebody else on s14 announces it",
        "ssh s14 routed show routes",
        (Evidence("intended", "s14", "nobody holds it"), Evidence("learned", "r1a", "10.1.0.14, best")),
    ),
    MISSING,
    Finding(
        Kind.POOL_LOW,
        Severity.WARNING,
        "r2",
        "10.102.0.0/24",
        (),
        "10.102.0.0/24 has 13 of 253 addresses left",
        "",
        "add a pool to rack r2, see docs/operations.md",
        (Evidence("plan", "r2", "capacity 253, used 240"),),
    ),
    UNOBSERVED,
)
KNOWN = Finding(
    Kind.ATTRIBUTES,
    Severity.WARNING,
    "r1",
    "fd00:101::1:9",
    ("r1b",),
    "fd00:101::1:9 has communities 65000:101 on r1b; the policy has none",
    "",
    "routed tor-config --vendor frr --tor r1b r1.yaml",
)
SAMPLE = Audit(
    at=datetime(2026, 3, 4, 9, 30, tzinfo=UTC),
    took_s=4.237,
    racks=(rack(1, 212, {"r1a": 235, "r1b": 236}), rack(2, 360, {"r2a": 400, "r2b": None})),
    findings=FINDINGS,
    observed=14,
    accepted=(KNOWN,),
)
CLEAN = Audit(SAMPLE.at, 3.9, (rack(1, 212, {"r1a": 235, "r1b": 235}),), (), observed=7)


def told() -> Story:
    """Return the story of a pod whose server does not rely on one ToR, with a spine that did not answer."""
    plans = [audits.plan(number) for number in (1, 2)]
    pod = audits.addresses(plans[0], 1)[0]
    server, (cut, steers) = next(iter(plans[0].servers)), [tor.name for tor in plans[0].rack.tors]
    port = PortView("rt3", 4, "0a:58:00:00:00:01", 7, "ready")
    view = audits.with_agent(audits.healthy(plans[0], others=plans), server, ports={pod: port})
    spine = audits.spine("sp1", plans)
    steered = replace(spine, routes=(*spine.routes, audits.escaped(plans[0], pod, steers)))
    spines: dict[str, SwitchView | Unobserved] = {"sp1": steered, "sp2": audits.SILENT}
    return explain(pod, plans, audits.cut(view, server, cut), spines)


def hostile(name: str) -> Audit:
    """Return an audit in which every text that comes from elsewhere is this one."""
    finding = replace(
        MISSING,
        subject=name,
        text=f"=1+1 {name}",
        cause=name,
        next=name,
        rack=name,
        where=(name,),
        evidence=(Evidence("intended", name, name),),
    )
    rack = replace(CLEAN.racks[0], rack=name, holdings=(Holding(ip_address("10.101.0.5"), "s11", name),))
    return replace(CLEAN, racks=(replace(rack, host_routes={name: 1}),), findings=(finding, UNOBSERVED))


TEXTS: dict[str, Callable[[], str]] = {
    "findings.txt": lambda: tables.text(tables.findings(SAMPLE), width=NARROW),
    "details.txt": lambda: tables.text(tables.details(SAMPLE), width=NARROW),
    "story.txt": lambda: tables.text(story(told()), width=NARROW),
    "racks.txt": lambda: tables.text(tables.racks(SAMPLE), width=NARROW),
    "clean.txt": lambda: tables.text(tables.findings(CLEAN), width=NARROW),
    "audit.json": lambda: machine.to_json(SAMPLE) + "\n",
    "audit.csv": lambda: machine.to_csv(SAMPLE).replace("\r\n", "\n"),
    "racks.csv": lambda: machine.racks_to_csv(SAMPLE.racks).replace("\r\n", "\n"),
    # in its canonical form: junitparser writes by lxml where that is installed, which spells the same otherwise
    "audit.xml": lambda: canonicalize(machine.to_junit(SAMPLE)).replace("><", ">\n<") + "\n",
}


def golden(name: str) -> str:
    """Return a text as it was reviewed."""
    return (GOLDEN / name).read_text(encoding="utf-8")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for name, text in TEXTS.items():
        (GOLDEN / name).write_text(text(), encoding="utf-8")
    SCHEMA.write_text(machine.schema_text(), encoding="utf-8")

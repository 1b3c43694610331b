"""From what is wrong with single addresses to findings: one root cause is one finding. Pure.

The rule: faults that say the same of the same places are one finding about the place when more than `MANY` culprits
have them, else one per culprit that has more than `MANY` of them, else one per address. A culprit is the server, or
the neighbour, whose one defect would explain them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from ipam.model import IPAddress, IPNetwork
from routed.audit.model import Evidence, Finding, Kind, Severity, fault_key

MANY = 3
"""More equal faults than this have one cause."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with one address or prefix."""

    kind: Kind
    severity: Severity
    subject: IPAddress | IPNetwork
    culprit: str
    """Server or neighbour; empty when none comes to mind."""
    where: tuple[str, ...]
    """Sorted."""
    says: str
    """What is wrong, without naming the subject: equal for equal faults."""
    cause: str
    next: str
    whose: str = ""
    """Pod and server, for people."""
    evidence: tuple[Evidence, ...] = ()

    def parts(self) -> Iterator[str]:
        """Name it place by place."""
        return parts(self.kind, str(self.subject), self.where)


def parts(kind: Kind, subject: str, where: Iterable[str]) -> Iterator[str]:
    """Name what is wrong with one subject, place by place, however it is grouped."""
    return (f"{kind} {subject} {place}" for place in where)


def findings(rack: str, faults: Iterable[Fault]) -> Iterator[Finding]:
    """Group the faults of a rack into findings."""
    alike: dict[tuple[object, ...], dict[str, list[Fault]]] = defaultdict(lambda: defaultdict(list))
    for fault in faults:
        alike[fault.kind, fault.severity, fault.where, fault.says][fault.culprit].append(fault)
    for by_culprit in alike.values():
        if len(by_culprit) > MANY:
            together = [fault for group in by_culprit.values() for fault in group]
            yield _grouped(rack, ", ".join(together[0].where), f"of {len(by_culprit)} servers", together)
            continue
        for culprit, group in by_culprit.items():
            if len(group) > MANY and culprit:
                yield _grouped(rack, culprit, f"of {culprit}", group)
            else:
                yield from (_single(rack, fault) for fault in group)


def worst_first(finding: Finding) -> tuple[object, ...]:
    """Return the key to sort findings by."""
    return -finding.severity, finding.rack, finding.kind, finding.subject, finding.where


def _single(rack: str, fault: Fault) -> Finding:
    whose = f" ({fault.whose})" if fault.whose else ""
    return Finding(
        fault.kind,
        fault.severity,
        rack,
        str(fault.subject),
        fault.where,
        f"{fault.subject}{whose}: {fault.says}",
        fault.cause,
        fault.next,
        fault.evidence,
        frozenset(fault.parts()),
    )


def _grouped(rack: str, subject: str, of_whom: str, group: Sequence[Fault]) -> Finding:
    first = group[0]
    shown = group[:MANY]
    named = ", ".join(str(fault.subject) for fault in shown)
    return Finding(
        first.kind,
        first.severity,
        rack,
        subject,
        first.where,
        f"{len(group)} addresses {of_whom}: {first.says} ({named}, ...)",
        first.cause,
        first.next,
        tuple(
            Evidence(one.plane, one.where, f"{fault.subject}: {one.says}") for fault in shown for one in fault.evidence
        ),
        frozenset(part for fault in group for part in fault.parts()),
        tuple(fault_key(fault.kind, rack, str(fault.subject), fault.where) for fault in group),
    )

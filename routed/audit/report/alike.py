"""What could not be observed for one and the same reason, as one line: a name server is down once, not once per switch.

For people alone: machines, baselines and the page have each of them. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from routed.audit.compare.faults import MANY
from routed.audit.model import Finding, Kind
from routed.audit.report.summary import counted

_SERVERS, _SWITCHES = ("server", "servers"), ("switch", "switches")
_PLANES = {"announced": _SERVERS, "learned": _SWITCHES, "beyond": _SWITCHES}
"""By plane, who is silent, as one and as several."""


def together(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings; where more than `MANY` places of a kind are unobserved alike, the first stands for all."""
    every = list(findings)
    alike: dict[tuple[str, str], list[Finding]] = {}
    for finding in every:
        alike.setdefault(_reason(finding), []).append(finding)
    shown = []
    for finding in every:
        group = alike[_reason(finding)]
        if len(group) <= MANY:
            shown.append(finding)
        elif finding is group[0]:
            shown.append(_merged(group))
    return shown


def _reason(finding: Finding) -> tuple[str, str]:
    """Return whose and which reason it is, whatever the place is called in it; what is of no such kind has its own."""
    said = finding.evidence[0] if finding.evidence else None
    if said is None or said.plane not in _PLANES or finding.kind is not Kind.UNOBSERVED:
        return "", finding.key
    return _PLANES[said.plane][0], said.says.replace(finding.subject, "")


def _merged(group: list[Finding]) -> Finding:
    first = group[0]
    what = _PLANES[first.evidence[0].plane]
    names = ", ".join(finding.subject for finding in group[:MANY])
    return replace(
        first,
        rack=first.rack if all(finding.rack == first.rack for finding in group) else "",
        where=tuple(place for finding in group for place in finding.where),
        text=f"{counted(len(group), *what)} ({names}, ...) could not be observed; first: {first.evidence[0].says}",
    )

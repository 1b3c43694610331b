"""The single faults that findings stand for, address by address and place by place: what baselines and `watch` go by.

How many other faults there are decides whether an address has a finding of its own or shares one, and that may change
from look to look; its single faults stay the same. Pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import replace

from routed.audit.model import Finding
from routed.audit.report.summary import key, printable

_NAMED = 3
_WITHOUT_PLACE = 3
"""Words of a key that names no place: kind, rack and subject."""


def singles(finding: Finding) -> frozenset[str]:
    """Return the single faults of a finding."""
    return frozenset(one for each in finding.keys or (key(finding),) for one in split(printable(each).strip()))


def split(fault: str) -> frozenset[str]:
    """Return a key place by place."""
    *front, where = fault.split(" ")
    if len(front) < _WITHOUT_PLACE:
        return frozenset({fault})
    return frozenset(" ".join((*front, place)) for place in where.split(","))


def joined(faults: Iterable[str]) -> dict[str, str]:
    """Return keys that name all places of an address at once, each with one of the single faults in it."""
    found: dict[str, list[str]] = defaultdict(list)
    for fault in sorted(faults):
        words = fault.split(" ")
        found[" ".join(words[:-1] if len(words) > _WITHOUT_PLACE else words)].append(fault)
    return {
        ones[0] if ones == [front] else f"{front} {','.join(one.rsplit(' ', 1)[1] for one in ones)}": ones[0]
        for front, ones in found.items()
    }


def narrowed(finding: Finding, faults: AbstractSet[str], word: str) -> Finding:
    """Return a finding as if it stood for some of its single faults alone; `word` says in its sentence which they are.

    All of them: the finding itself.
    """
    own = singles(finding)
    kept = own & faults
    if kept == own:
        return finding
    subjects = sorted({" ".join(fault.split(" ")[2:]) for fault in kept})
    more = f" and {len(subjects) - _NAMED} more" if len(subjects) > _NAMED else ""
    named = ", ".join(subject.replace(" ", " on ") for subject in subjects[:_NAMED])
    return replace(finding, text=f"{finding.text}; {word}: {named}{more}", keys=tuple(sorted(kept)))

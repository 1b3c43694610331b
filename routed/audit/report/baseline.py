"""Findings that are known and accepted: a text file, an address's fault per line, and what is gone since.

Faults are accepted one by one, address by address, however an audit groups them into findings at the moment.
A finding that is not seen where something could not be observed is not gone: nothing is known of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from routed.audit.model import Audit, Finding, Kind
from routed.audit.report.singles import joined, narrowed, singles, split
from routed.audit.report.summary import headline, key
from routed.settings import SettingsError

_HEADER = """\
# What `routed audit --baseline` accepts: a fault per line, up to the first " # ". Say why behind it.
"""
_COMMENT = " # "


@dataclass(frozen=True, slots=True)
class Missed:
    """Keys that an audit did not find again."""

    gone: tuple[str, ...]
    """The fault is repaired."""
    unknown: tuple[str, ...]
    """It could not be seen whether it is."""


def accept(audit: Audit, keys: Iterable[str]) -> Audit:
    """Return the audit with the findings of these keys accepted; of one that is known in part, that part.

    A key may also be that of a finding as it is grouped, which older files list.
    """
    known = _singles(keys)
    left, accepted = [], []
    for finding in audit.findings:
        faults = singles(finding)
        new = frozenset() if split(key(finding)) <= known else faults - known
        if new:
            left.append(narrowed(finding, new, "not accepted"))
        if new != faults:
            accepted.append(narrowed(finding, faults - new, "accepted"))
    return replace(audit, findings=tuple(left), accepted=(*audit.accepted, *accepted))


def missed(keys: Iterable[str], audit: Audit) -> Missed:
    """Return which faults of these keys an audit has no more, and of which it cannot tell."""
    now = (*audit.findings, *audit.accepted)
    present = frozenset(one for finding in now for one in (*singles(finding), *split(key(finding))))
    hidden = [finding for finding in now if finding.kind is Kind.UNOBSERVED]
    absent = sorted(_singles(keys) - present)
    unknown = tuple(old for old in absent if any(_hides(blind, old) for blind in hidden))
    return Missed(tuple(old for old in absent if old not in unknown), unknown)


def _singles(keys: Iterable[str]) -> frozenset[str]:
    return frozenset(one for known in keys for one in split(known))


def _hides(unobserved: Finding, old: str) -> bool:
    """Say whether what could not be observed may hide the finding of this key: in its rack, or at its places."""
    kind, rack, _, *where = old.split(" ")
    if kind == Kind.UNOBSERVED:
        return False
    places = {place for part in where for place in part.split(",")}
    return rack == (unobserved.rack or "-") or not places.isdisjoint({unobserved.subject, *unobserved.where})


def read(path: Path) -> tuple[str, ...]:
    """Return the keys of a baseline; SettingsError when it cannot be read or has a line that is no key."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"baseline {path}: {error}") from error
    keys = {at: line.split(_COMMENT, 1)[0].strip() for at, line in enumerate(lines, 1) if not line.startswith("#")}
    for at, found in keys.items():
        if found and (len(found.split(" ")) < 3 or found.split(" ")[0] not in set(Kind)):
            raise SettingsError(f"baseline {path}, line {at}: {found!r} is no finding; `--write-baseline` writes them")
    return tuple(dict.fromkeys(found for found in keys.values() if found))


def write(path: Path, audit: Audit) -> int:
    """Write every fault, those accepted already among them; return how many. SettingsError when it cannot.

    What could not be observed is left out: that would accept not to see. Whoever means it adds the line.
    """
    found = (finding for finding in audit.findings if finding.kind is not Kind.UNOBSERVED)
    whose = {one: headline(finding) for finding in (*found, *audit.accepted) for one in singles(finding)}
    lines = {line: whose[one] for line, one in joined(whose).items()}
    text = "".join(f"{old}{_COMMENT}{sentence}\n" for old, sentence in sorted(lines.items()))
    try:
        path.write_text(_HEADER + text, encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"baseline {path}: {error.strerror}") from error
    return len(lines)

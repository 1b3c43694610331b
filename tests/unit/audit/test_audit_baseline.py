"""Baselines: what is accepted, what is gone since, and what nobody can say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from routed.audit.model import Finding
from routed.audit.report import baseline
from routed.audit.report.summary import key
from routed.settings import SettingsError
from tests.golden.audits import CLEAN, KNOWN, MISSING, SAMPLE, UNOBSERVED


def test_what_is_written_accepts_all_of_it_but_not_to_see(tmp_path: Path) -> None:
    file = tmp_path / "known.txt"
    assert baseline.write(file, SAMPLE) == 5
    again = baseline.accept(replace(SAMPLE, accepted=()), baseline.read(file))
    assert again.findings == (UNOBSERVED,)
    assert again.accepted == SAMPLE.findings[:-1]
    assert baseline.missed(baseline.read(file), SAMPLE) == baseline.Missed((), ())


def test_whoever_means_it_accepts_not_to_see(tmp_path: Path) -> None:
    file = tmp_path / "known.txt"
    file.write_text(f"{key(UNOBSERVED)} # r2b is being replaced\n", encoding="utf-8")
    assert not baseline.accept(replace(CLEAN, findings=(UNOBSERVED,)), baseline.read(file)).blind


def test_people_may_comment_and_leave_lines_empty(tmp_path: Path) -> None:
    file = tmp_path / "known.txt"
    file.write_text(f"# ours\n\n{MISSING.key} # ticket 4711: r1a is being replaced\n", encoding="utf-8")
    assert baseline.read(file) == (MISSING.key,)


def test_other_findings_are_not_accepted() -> None:
    other = replace(MISSING, where=("r1b",))
    audit = baseline.accept(replace(CLEAN, findings=(MISSING, other)), [MISSING.key])
    assert (audit.findings, audit.accepted) == ((other,), (MISSING,))


def test_an_accepted_finding_that_is_no_more_is_gone() -> None:
    missed = baseline.missed([key(MISSING), key(KNOWN)], SAMPLE)
    assert missed == baseline.Missed((), ())
    missed = baseline.missed([key(MISSING)], CLEAN)
    assert missed == baseline.Missed(gone=(key(MISSING),), unknown=())


@pytest.mark.parametrize(
    "dark",
    [
        replace(UNOBSERVED, rack="r1", subject="s11", where=("s11",)),
        replace(UNOBSERVED, rack="", subject="r1a", where=("r1a",)),
    ],
    ids=["in its rack", "at its place"],
)
def test_where_something_was_not_seen_nothing_is_gone(dark: Finding) -> None:
    audit = replace(CLEAN, findings=(dark,))
    assert baseline.missed([key(MISSING)], audit) == baseline.Missed((), (key(MISSING),))


def test_what_is_seen_again_is_gone_as_unobserved() -> None:
    other = replace(UNOBSERVED, subject="r2a", where=("r2a",))
    audit = replace(CLEAN, findings=(other,))
    assert baseline.missed([key(UNOBSERVED)], audit).gone == (key(UNOBSERVED),)


@pytest.mark.parametrize("line", ["missing r1", "10.1.2.3 is fine", "{"])
def test_lines_that_are_no_finding_are_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "known.txt"
    file.write_text(f"# header\n{line}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"line 2: .* is no finding"):
        baseline.read(file)


def test_files_that_cannot_be_read_or_written_are_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"baseline .*none\.txt"):
        baseline.read(tmp_path / "none.txt")
    with pytest.raises(SettingsError, match="Is a directory"):
        baseline.write(tmp_path, SAMPLE)

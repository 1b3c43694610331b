"""The table of codes: complete, and told as the specification asks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bgp.errors import BgpError
from ipam.errors import LedgerError
from ovs_flows.errors import OvsError
from routed.attach.errors import AttachError
from routed.cni import errors
from routed.cni.errors import CODES, CniError, Code, Failure, code_for


def descendants(root: type[Exception]) -> Iterator[type[Exception]]:
    for child in root.__subclasses__():
        yield child
        yield from descendants(child)


def test_every_exception_has_a_code_of_its_own() -> None:
    own = [kind for kind in descendants(CniError) if kind.__module__ == errors.__name__]
    assert own
    assert {kind.__name__ for kind in own if kind not in CODES} == set()
    assert len({CODES[kind] for kind in own}) == len(own)


@pytest.mark.parametrize("root", [AttachError, BgpError, LedgerError, OvsError])
def test_no_failure_of_a_plane_or_of_the_ledger_is_a_bug(root: type[Exception]) -> None:
    for kind in (root, *descendants(root)):
        assert any(ancestor in CODES for ancestor in kind.__mro__), kind


def test_the_walk_would_notice_an_unmapped_class() -> None:
    class Unmapped(Exception):  # noqa: N818 - only a stand-in
        pass

    assert code_for(Unmapped("x")).code is Code.BUG


def test_no_row_says_bug_or_uses_a_reserved_number() -> None:
    reserved = {0, *range(9, 11), *range(12, 50), *range(52, 100)}
    assert Code.BUG not in CODES.values()
    assert reserved.isdisjoint(int(code) for code in Code)


def test_a_subclass_inherits_its_ancestors_code() -> None:
    class NotYet(errors.TryAgainLater):
        pass

    assert code_for(NotYet("starting")) == Failure(Code.TRY_AGAIN_LATER, "starting", "")


def test_the_cause_is_in_the_details() -> None:
    error = errors.InvalidNetns("no such namespace")
    error.__cause__ = OSError(2, "No such file or directory")
    assert code_for(error) == Failure(Code.INVALID_NETNS, "no such namespace", "[Errno 2] No such file or directory")


@pytest.mark.parametrize("error", [TimeoutError(), TimeoutError("20 s passed")])
def test_a_deadline_is_worth_another_try(error: TimeoutError) -> None:
    assert code_for(error).code is Code.TRY_AGAIN_LATER
    assert code_for(error).msg


def test_a_bug_names_its_class_in_the_details_only() -> None:
    assert code_for(KeyError("slot")) == Failure(Code.BUG, "internal error", "KeyError: 'slot'")


def test_the_tree_in_the_docstring_is_the_table() -> None:
    tree = {
        name: int(number)
        for line in (errors.__doc__ or "").splitlines()
        if "──" in line
        for name, number in [line.split("──")[1].split()[:2]]
    }
    assert tree == {kind.__name__: int(code) for kind, code in CODES.items() if issubclass(kind, CniError)}

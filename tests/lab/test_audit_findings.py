"""Every finding of an audit is caused on the real fabric, found, explained, and gone after the repair.

And what is no fault, or what a failure explains, is not found.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from containerlab import faults
from containerlab.lab import Lab
from routed.audit.model import Kind
from tests.auditing import Auditor, Sign, signs
from tests.fabric import eventually
from tests.lab import audit_causes as causes
from tests.lab.audit_causes import Cause, Caused, caused
from tests.servers import Residents, Server

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

TOGETHER: dict[str, tuple[Cause, ...]] = {
    "a ToR's policy": (
        causes.refused,
        causes.rewritten,
        causes.prepended,
        causes.marked,
        causes.let_out,
        causes.overridden,
        causes.left_behind,
        causes.not_aggregated,
    ),
    "steering": (causes.link_cut, causes.community_lost, causes.kept_in),
    "another speaker": (causes.second_speaker,),
    "the plan": (causes.full, causes.planned_twice),
    "a dead agent": (causes.died,),
    "an agent with another plan": (causes.another_plan,),
}
"""What does not disturb each other is caused at once: audits take their time."""


@pytest.fixture(scope="module")
def auditor(
    lab: Lab, servers: dict[str, Server], residents: Residents, tmp_path_factory: pytest.TempPathFactory
) -> Auditor:
    return Auditor(lab, servers, residents, tmp_path_factory.mktemp("audit"))


@pytest.fixture(autouse=True)
def _clean(auditor: Auditor) -> Iterator[None]:
    """The lab is as it should be before each test, and after it."""
    auditor.until(set(), "a healthy fabric before the test")
    yield
    auditor.plan_anew()
    auditor.until(set(), "a healthy fabric after the repair")


@pytest.mark.parametrize("together", TOGETHER.values(), ids=TOGETHER)
def test_a_fault_is_found_and_explained_and_gone_when_it_is_repaired(
    auditor: Auditor, together: tuple[Cause, ...]
) -> None:
    with contextlib.ExitStack() as stack:
        promised = [stack.enter_context(cause(auditor)) for cause in together]
        auditor.until(everything(promised), "the findings")
        for address, wanted in (item for one in promised for item in one.items() if item[0]):
            told, printed = auditor.explain(address)
            assert wanted <= signs(told.findings)
            assert all(sign.kind in printed for sign in wanted)


def everything(promised: Iterable[Caused]) -> set[Sign]:
    return {sign for one in promised for found in one.values() for sign in found}


# ---- what is no fault


@contextlib.contextmanager
def stopped(auditor: Auditor) -> Iterator[Caused]:
    """An agent ends as for an upgrade: its speaker and its routes stay."""
    server = auditor.servers["s12"]
    server.agent.stop()
    try:
        yield caused("", (Kind.UNOBSERVED, "s12", ("s12",)))
    finally:
        causes.start(server)


@contextlib.contextmanager
def drained(auditor: Auditor) -> Iterator[Caused]:
    """A server is emptied on purpose, and its agent ends."""
    server = auditor.servers["s12"]
    server.node.run(["routed", "drain"])
    try:
        eventually(lambda: not server.agent.alive(), "the end of the agent")
        for tor in server.tors:
            eventually(lambda tor=tor: not server.announced(tor), f"no route of s12 on {tor}")
        yield caused("", (Kind.UNOBSERVED, "s12", ("s12",)))
    finally:
        causes.start(server)


@contextlib.contextmanager
def tor_dead(auditor: Auditor) -> Iterator[Caused]:
    """A ToR has no power."""
    server = auditor.servers["s21"]
    faults.kill(auditor.lab, "r2b")
    try:
        eventually(lambda: "cut" in server.healths(), "the cut side")
        yield caused("", (Kind.UNOBSERVED, "r2b", ("r2b",)))
    finally:
        faults.revive(auditor.lab, "r2b")
        auditor.lab.wait_ready(60)
        eventually(server.at_rest, "s21 at rest", 60)


@pytest.mark.parametrize("state", [causes.link_cut, stopped, drained, tor_dead])
def test_a_failure_that_is_dealt_with_is_no_finding(auditor: Auditor, state: Cause) -> None:
    with state(auditor) as expected:
        assert signs(auditor.audit().findings) == everything([expected])


def test_an_agent_that_restarts_is_at_most_unobserved(auditor: Auditor) -> None:
    server = auditor.servers["s12"]
    server.agent.stop()
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(causes.start, server)
        try:
            while not starting.done():
                assert signs(auditor.audit().findings) <= {Sign(Kind.UNOBSERVED, "s12", ("s12",))}
        finally:
            starting.result()


def test_pods_that_come_and_go_are_no_findings(auditor: Auditor) -> None:
    server = auditor.servers["s12"]
    kept = dict(server.pods)

    def churn() -> None:
        for _ in range(6):
            server.delete(server.add(2))

    with ThreadPoolExecutor(1) as pool:
        churning = pool.submit(churn)
        audits = 0
        try:
            while not churning.done():
                assert signs(auditor.audit().findings) == set()
                audits += 1
        finally:
            churning.result()
            server.clean_up(keep=kept)
    assert audits

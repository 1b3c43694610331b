"""Every finding of an audit is caused on the real fabric, found, explained, and gone after the repair.

And what is no fault, or what a failure explains, is not found.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from containerlab import faults
from containerlab.lab import Lab
from containerlab.node import PROGRAMS
from routed.audit.model import Kind
from tests.auditing import Auditor, Sign, signs
from tests.fabric import eventually
from tests.lab.audit_causes import CAUSES, TOGETHER, start
from tests.lab.audit_misconfigured import Cause, Caused, caused, link_cut, refused
from tests.servers import Residents, RouteWatch, Server

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def auditor(
    lab: Lab, servers: dict[str, Server], residents: Residents, tmp_path_factory: pytest.TempPathFactory
) -> Auditor:
    return Auditor(lab, servers, residents, tmp_path_factory.mktemp("audit"))


@pytest.fixture(autouse=True)
def _as_it_should_be(auditor: Auditor) -> Iterator[None]:
    """Begin with a healthy fabric, whatever a test before has left, and with its own plan."""
    auditor.until(set(), "a healthy fabric")
    yield
    auditor.plan_anew()


@pytest.mark.parametrize("together", TOGETHER.values(), ids=TOGETHER)
def test_a_fault_is_found_and_explained_and_gone_when_it_is_repaired(
    auditor: Auditor, together: tuple[Cause, ...]
) -> None:
    with contextlib.ExitStack() as stack:
        promised = [stack.enter_context(cause(auditor)) for cause in together]
        wanted = everything(promised)
        assert {kind for kind, cause in CAUSES.items() if cause in together} <= {sign.kind for sign in wanted}
        auditor.until(wanted, "the findings")
        for address, about in (item for one in promised for item in one.items() if item[0]):
            told, printed = auditor.explain(address)
            known = {(finding.kind, finding.subject) for finding in told.findings}  # not every switch is asked
            assert {(sign.kind, sign.subject) for sign in about} <= known
            assert all(sign.kind in printed for sign in about)
    auditor.plan_anew()
    auditor.until(set(), "the repair")


def everything(promised: Iterable[Caused]) -> set[Sign]:
    return {sign for one in promised for found in one.values() for sign in found}


def test_the_command_finds_it_and_says_so(auditor: Auditor) -> None:
    address = auditor.pods.one.address(4)
    with refused(auditor) as expected:
        auditor.until(everything([expected]), "the finding")
        done = command(auditor, "--output", "json")
        (finding,) = json.loads(done.stdout)["findings"]
        assert (done.returncode, finding["key"]) == (1, f"missing r1 {address} r1a")
        assert finding["cause"] == "r1a received it and refused it: inbound policy"
        assert finding["next"] == "on r1a: vtysh -c 'show route-map FROM-s11'"
    auditor.until(set(), "the repair")
    assert command(auditor).returncode == 0


def command(auditor: Auditor, *options: str) -> subprocess.CompletedProcess[str]:
    words = [str(PROGRAMS / "routed"), "audit", "--config", str(auditor.write()), *options]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


# ---- what is no fault


@contextlib.contextmanager
def deleted(auditor: Auditor) -> Iterator[Caused]:
    """Somebody deletes a route in a ToR's kernel: FRR puts it back at once."""
    prefix = f"{auditor.pods.one.address(4)}/32"
    with RouteWatch(auditor.lab, "r1a") as watch:
        auditor.lab.node("r1a").run(["ip", "route", "delete", prefix])
        eventually(lambda: prefix in watch.deleted(), "the end of the route")
    yield caused("")


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
        start(server)
        server.node.run(["routed", "undrain"])


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


_POWER = pytest.mark.netns_only("a container that ends takes its cables with it")


@pytest.mark.parametrize("states", [(link_cut, deleted), pytest.param((drained, tor_dead), marks=_POWER)])
def test_failures_that_are_dealt_with_are_no_findings(auditor: Auditor, states: tuple[Cause, ...]) -> None:
    with contextlib.ExitStack() as stack:
        expected = [stack.enter_context(state(auditor)) for state in states]
        assert signs(auditor.audit().findings) == everything(expected)


def test_an_agent_that_restarts_is_unobserved_and_its_routes_are_right(auditor: Auditor) -> None:
    server = auditor.servers["s12"]
    silent = {Sign(Kind.UNOBSERVED, "s12", ("s12",))}
    with ThreadPoolExecutor(1) as pool:
        server.agent.stop()
        try:
            assert signs(auditor.audit().findings) == silent
        finally:
            starting = pool.submit(start, server)
        while not starting.done():
            assert signs(auditor.audit().findings) <= silent
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

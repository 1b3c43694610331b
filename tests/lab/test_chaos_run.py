"""A short chaos run, and the proof that its eyes are open: what is broken by hand is found.

The seed is always the same: a failure tells of a change, not of luck. `make chaos` draws another one each time.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping

import pytest

from containerlab.lab import Lab
from tests.fabric import eventually
from tests.lab.chaos.invariants import Finding, Invariant, Plane, compare
from tests.lab.chaos.runner import Run, prepared
from tests.lab.chaos.survey import Surveyor
from tests.servers import Server, each

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

SEED = 543
"""Its first steps have much in little time: agent, ExaBGP and switch killed, links cut and silent, slots unmounted."""
STEPS = 4


def report(line: str) -> None:
    sys.stdout.write(f"{line}\n")


@pytest.fixture(scope="module")
def chaos_lab() -> Iterator[tuple[Lab, Mapping[str, Server]]]:
    """A lab of its own: what chaos leaves behind is nobody else's."""
    with prepared(f"chaos-test-{os.getpid()}", report) as made:
        yield made


def places(findings: list[Finding]) -> set[tuple[Invariant, str, str, str]]:
    return {(one.invariant, one.what, one.plane, one.where) for one in findings}


def test_what_is_broken_by_hand_is_found(chaos_lab: tuple[Lab, Mapping[str, Server]]) -> None:
    lab, servers = chaos_lab
    surveyor = Surveyor(servers)
    [one], [other], [gone], [far] = (servers[name].add(1) for name in ("s11", "s12", "s21", "s22"))
    host_flows = surveyor.look().host_flows
    eventually(lambda: compare(surveyor.look(), host_flows) == [], "a lab without violations")
    assert surveyor.unreachable() == []
    assert surveyor.unconfirmed() == []

    each(lambda server: server.agent.stop(), servers.values())  # nobody repairs it before it is seen
    address = one.address(4)
    servers["s11"].node.run(["ovs-ofctl", "-O", "OpenFlow14", "del-flows", "br0", f"table=40,ip,nw_dst={address}"])
    servers["s12"].inside(other, "ip", "address", "add", f"{address}/32", "dev", "eth0")
    servers["s21"].remove_netns([gone.netns])
    servers["s22"].inside(far, "ip", "route", "delete", "default")
    del servers["s21"].pods[gone.id]
    lab.node("r1a").run(["ip", "route", "add", "10.101.0.99", "via", "10.1.0.11", "dev", "gw", "onlink"])
    lab.node("sp1").run(["ip", "route", "add", address, "via", "10.254.1.3"])
    found = places(compare(surveyor.look(agents=False), host_flows))
    silent = {(one.what, one.words) for one in surveyor.unreachable()}
    lab.node("r1a").run(["ip", "route", "delete", "10.101.0.99"])
    lab.node("sp1").run(["ip", "route", "delete", address])
    each(Server.start, servers.values())

    lost = gone.address(4)
    assert found >= {
        (Invariant.COMPLETE, address, Plane.FLOWS, "s11"),
        (Invariant.UNIQUE, address, Plane.PODS, "s11, s12"),
        (Invariant.UNLEAKED, lost, Plane.LEDGER, "s21"),
        (Invariant.UNLEAKED, lost, Plane.RIB, "r2a"),
        (Invariant.UNLEAKED, lost, Plane.RECEIVED, "r2b"),
        (Invariant.UNLEAKED, "rp0", "slots' marks", "s21"),
        (Invariant.UNLEAKED, "10.101.0.99", Plane.FIB, "r1a"),
        (Invariant.CONTAINED, address, Plane.FIB, "sp1"),
    }
    assert (address, "silent to s12") in silent
    assert (far.address(4), "silent to s11") in silent
    servers["s21"].plugin.delete(gone.id, None)
    eventually(lambda: compare(surveyor.look(), host_flows) == [], "everything put right")
    each(Server.clean_up, servers.values())


def test_after_faults_and_churn_everything_is_as_it_must_be(chaos_lab: tuple[Lab, Mapping[str, Server]]) -> None:
    lab, servers = chaos_lab
    verdict = Run(lab, servers, SEED, report).play(0, STEPS)
    assert verdict.good, "\n".join([f"seed {SEED}", str(verdict.failure), *map(str, verdict.findings)])
    assert len(verdict.steps) == STEPS

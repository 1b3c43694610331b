"""What to run next, in the words of the switch that it is to be run on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from routed.audit.compare import PoolMap, compare_fabric, compare_rack
from routed.audit.model import Finding, RackView, Route, Shell, SwitchView
from tests.fixtures import audits

PLAN = audits.plan()
A, B = (tor.name for tor in PLAN.rack.tors)
ONE = audits.addresses(PLAN, 1)[0]


def speaking(shell: Shell, view: RackView) -> RackView:
    """Return the rack with a first ToR of this kind; the other one is FRR."""
    seen = view.tors[A]
    assert isinstance(seen, SwitchView)
    return replace(view, tors={**view.tors, A: replace(seen, shell=shell)})


def only(view: RackView) -> Finding:
    (finding,) = compare_rack(view).findings
    return finding


@pytest.mark.parametrize(
    ("shell", "says"),
    [
        (
            Shell.VTYSH,
            (
                f"on {A}: vtysh -c 'show bgp ipv4 unicast neighbors 10.0.4.11 filtered-routes' "
                "-c 'show route-map FROM-s1-1'"
            ),
        ),
        (Shell.BIRDC, f"on {A}: birdc 'show route {ONE}/32 filtered all'"),
        (
            Shell.OTHER,
            f"on {A}: look at what the neighbor 10.0.4.11 sent for {ONE}/32, before the policy, and at that policy",
        ),
    ],
)
def test_a_route_that_was_refused(shell: Shell, says: str) -> None:
    missing = audits.with_tor(audits.healthy(PLAN), A, audits.without(ONE))
    assert only(speaking(shell, missing)).next == says


def test_two_tors_are_asked_at_once_if_they_speak_alike() -> None:
    missing = audits.healthy(PLAN)
    for tor in (A, B):
        missing = audits.with_tor(missing, tor, audits.without(ONE))
    assert only(missing).next.startswith(f"on {A} and {B}: vtysh -c '")
    assert only(speaking(Shell.BIRDC, missing)).next.startswith(f"on {A}: birdc '")


@pytest.mark.parametrize("shell", Shell)
@pytest.mark.parametrize(
    "wrong",
    [{"as_path": (1,)}, {"best": False}, {"installed": False}, {"next_hops": (audits.addresses(PLAN, 9)[8],)}],
)
def test_a_command_is_one_that_the_switch_knows(shell: Shell, wrong: dict[str, object]) -> None:
    then = only(speaking(shell, audits.with_tor(audits.healthy(PLAN), A, audits.at(ONE, **wrong)))).next
    assert then.startswith(f"on {A}: ")
    assert ("vtysh" in then) == (shell is Shell.VTYSH)
    assert then.startswith((f"on {A}: birdc '", f"on {A}: ip route get ")) == (shell is Shell.BIRDC)


@pytest.mark.parametrize("shell", Shell)
def test_a_tor_that_lets_routes_out_is_asked_in_its_own_words(shell: Shell) -> None:
    result = compare_rack(speaking(shell, audits.healthy(PLAN)), PoolMap([PLAN]))
    spine = audits.spine("sp1", [PLAN])
    leak: Route = audits.escaped(PLAN, ONE, A)
    seen = replace(spine, routes=(*spine.routes, leak), shell=Shell.OTHER)
    (finding,) = compare_fabric([PLAN], [result], {"sp1": seen})
    assert (
        finding.next
        == {
            Shell.VTYSH: f"on {A}: vtysh -c 'show bgp ipv4 unicast {ONE}/32'",
            Shell.BIRDC: f"on {A}: birdc 'show route {ONE}/32 all'",
            Shell.OTHER: f"on {A}: look at all its BGP paths to {ONE}/32",
        }[shell]
    )

"""What a seed draws: always the same, and nothing that contradicts itself."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, islice

from hypothesis import given
from hypothesis import strategies as st

from tests.lab.chaos.events import KINDS, Fault, Site, Step, draw
from tests.lab.chaos.faults import ACTIONS

SITE = Site({"s11": ("r1a", "r1b"), "s12": ("r1a", "r1b"), "s21": ("r2a", "r2b")}, ("sp1", "sp2"))
STEPS = 40


def steps(seed: int) -> list[Step]:
    return list(islice(draw(seed, SITE), STEPS))


def test_a_seed_always_draws_the_same() -> None:
    assert steps(7) == steps(7)
    assert steps(7) != steps(8)


def test_every_fault_is_drawn_and_known_how_to_do() -> None:
    drawn = Counter(fault.kind for seed in range(10) for step in steps(seed) for fault in step.faults)
    assert drawn.keys() == KINDS.keys() == ACTIONS.keys()


@given(st.integers(0, 10_000))
def test_every_fault_is_mended_and_no_two_of_a_step_clash(seed: int) -> None:
    for step in steps(seed):
        assert Counter(step.mended) == Counter(step.faults)
        assert not any(one.clashes(other) for one, other in combinations(step.faults, 2))


@given(st.integers(0, 10_000))
def test_pods_are_added_once_and_only_those_that_exist_are_touched(seed: int) -> None:
    there: set[tuple[str, str]] = set()
    for step in steps(seed):
        before, touched = set(there), list[tuple[str, str]]()
        for churn in step.churns:
            pods = {(churn.server, pod) for pod in churn.pods}
            touched += pods
            match churn.kind:
                case "ADD":
                    assert not pods & there
                    there |= pods
                case "ADD and DEL at once":
                    assert not pods & there
                case "ADD again":
                    assert pods <= before
                case "GC":
                    assert not pods
                case _:
                    assert pods <= before
                    there -= pods
        assert len(set(touched)) == len(touched), "a pod is in one churn of a step at most"
        for fault in step.faults:
            if KINDS[fault.kind].on == "pod":
                server, _, pod = fault.target.partition("/")
                assert (server, pod) in before - set(touched)


def test_faults_clash_about_the_same_part_of_a_node_and_about_its_power() -> None:
    cut = Fault("link cut", "r1a:s11")
    assert cut.clashes(Fault("both links cut", "s11"))
    assert cut.clashes(Fault("silent towards the ToR", "r1b:s11"))
    assert not cut.clashes(Fault("link cut", "r1a:s12"))
    assert not cut.clashes(Fault("agent killed", "s11"))
    assert Fault("power lost", "r1a").clashes(Fault("uplink cut", "r1a:up1"))
    assert not Fault("power lost", "r1a").clashes(Fault("bgpd killed", "r1b"))

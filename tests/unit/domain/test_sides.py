"""When a side counts as cut, silent, on hold and good again."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from routed.domain.sides import LACKING_S, Health, Hold, Judge, Side, Sighting

HOLD_S = 3.0
LONGEST_HOLD_S = 60.0
LONG = 1000.0
BOTH = frozenset({4, 6})
WELL = Sighting((), LONG, BOTH)
DARK = Sighting(("no carrier",), LONG)
MUTE = Sighting((), None)


def judge() -> Judge:
    return Judge((Side("r1a", "etha"), Side("r1b", "ethb")), Hold(HOLD_S, LONGEST_HOLD_S))


def healths(by: Judge, first: Sighting, second: Sighting, now: float) -> tuple[Health, ...]:
    return tuple(side.health for side in by.judge((first, second), now))


def test_all_is_good_from_the_start() -> None:
    by = judge()
    assert healths(by, WELL, WELL, 0) == (Health.GOOD, Health.GOOD)
    assert by.review_at == math.inf


def test_a_cut_link_is_cut_at_once_whatever_its_session_says() -> None:
    first, second = judge().judge((DARK, WELL), 0)
    assert (first.health, first.reasons) == (Health.CUT, ("no carrier",))
    assert (first.tor, first.member) == ("r1a", "etha")
    assert second.health is Health.GOOD


def test_a_side_that_is_well_again_holds_before_it_is_good() -> None:
    by = judge()
    by.judge((DARK, WELL), 0)
    assert healths(by, WELL, WELL, 10) == (Health.HOLDING, Health.GOOD)
    assert by.review_at == 10 + HOLD_S
    assert healths(by, WELL, WELL, 12.9) == (Health.HOLDING, Health.GOOD)
    assert healths(by, WELL, WELL, 13) == (Health.GOOD, Health.GOOD)
    assert by.review_at == math.inf


def test_a_link_that_fails_each_time_it_was_found_good_is_trusted_later_and_forgiven_in_the_end() -> None:
    by = judge()
    now, holds = 0.0, []
    for _ in range(8):
        by.judge((DARK, WELL), now)
        by.judge((WELL, WELL), now + 1)
        holds.append(by.review_at - (now + 1))
        now = by.review_at
        by.judge((WELL, WELL), now)
        now += 1
    assert holds[:4] == [HOLD_S, 2 * HOLD_S, 4 * HOLD_S, 8 * HOLD_S]
    assert holds[-1] == LONGEST_HOLD_S
    now += 2 * LONGEST_HOLD_S
    by.judge((DARK, WELL), now)
    by.judge((WELL, WELL), now + 1)
    assert by.review_at == now + 1 + HOLD_S


def test_a_plug_that_bounces_is_one_failure() -> None:
    by = judge()
    for tenth in range(5):
        by.judge((DARK, WELL), tenth / 10)
        by.judge((WELL, WELL), tenth / 10 + 0.05)
    assert by.review_at == 0.45 + HOLD_S


def test_a_missing_session_counts_only_while_the_other_one_is_well_established() -> None:
    by = judge()
    assert healths(by, MUTE, MUTE, 0) == (Health.GOOD, Health.GOOD)
    assert healths(by, MUTE, Sighting((), 0.5), 1) == (Health.GOOD, Health.GOOD)
    assert by.review_at == 1 + HOLD_S - 0.5, "it counts from then on"
    assert healths(by, MUTE, Sighting((), HOLD_S), by.review_at) == (Health.SILENT, Health.GOOD)


def test_sessions_that_end_one_right_after_the_other_make_neither_side_bad() -> None:
    by = judge()
    by.judge((WELL, WELL), 0)
    assert healths(by, MUTE, WELL, 1) == (Health.GOOD, Health.GOOD)
    assert healths(by, MUTE, MUTE, 1.005) == (Health.GOOD, Health.GOOD)
    assert healths(by, MUTE, MUTE, 9) == (Health.GOOD, Health.GOOD)


def test_a_session_that_stays_away_alone_is_blamed_soon() -> None:
    by = judge()
    by.judge((WELL, WELL), 0)
    by.judge((MUTE, WELL), 1)
    assert by.review_at == 1 + LACKING_S
    assert healths(by, MUTE, WELL, 1 + LACKING_S) == (Health.SILENT, Health.GOOD)


def test_an_agent_that_finds_a_session_missing_when_it_starts_blames_it_at_once() -> None:
    """It goes on steering: the one before it did."""
    assert healths(judge(), MUTE, WELL, 0) == (Health.SILENT, Health.GOOD)


def test_a_speaker_that_restarts_makes_neither_side_bad() -> None:
    by = judge()
    steps = [
        (MUTE, MUTE),
        (Sighting((), 0.0, BOTH), MUTE),
        (Sighting((), 2.0, BOTH), Sighting((), 0.0, BOTH)),
        (WELL, WELL),
    ]
    for second, (first, other) in enumerate(steps):
        assert healths(by, first, other, second) == (Health.GOOD, Health.GOOD)


def test_a_session_that_comes_back_holds() -> None:
    by = judge()
    by.judge((MUTE, WELL), 0)
    assert healths(by, Sighting((), 0.0, BOTH), WELL, 5) == (Health.HOLDING, Health.GOOD)
    assert healths(by, Sighting((), 3.0, BOTH), WELL, 8) == (Health.GOOD, Health.GOOD)


def test_a_tor_that_gives_fewer_default_routes_than_the_other_has_no_way_out() -> None:
    first, second = judge().judge((Sighting((), LONG, frozenset({4})), WELL), 0)
    assert (first.health, first.reasons) == (Health.SILENT, ("no IPv6 default route",))
    assert second.health is Health.GOOD


def test_a_rack_that_is_given_no_default_routes_at_all_is_fine() -> None:
    neither = Sighting((), LONG)
    assert healths(judge(), neither, neither, 0) == (Health.GOOD, Health.GOOD)


def test_a_default_route_that_comes_a_moment_later_is_waited_for_at_the_start_and_not_after_a_failure() -> None:
    by, young, early = judge(), Sighting((), 0.1), Sighting((), 0.5, BOTH)
    assert healths(by, young, early, 0) == (Health.GOOD, Health.GOOD)
    assert by.review_at == HOLD_S - 0.1
    by.judge((DARK, WELL), 10)
    assert healths(by, young, WELL, 20) == (Health.SILENT, Health.GOOD)


def test_a_session_that_starts_again_beside_an_old_one_has_a_moment_to_give_its_default_route() -> None:
    by = judge()
    by.judge((WELL, WELL), 0)
    assert healths(by, Sighting((), 0.5), WELL, 10) == (Health.GOOD, Health.GOOD)
    assert by.review_at == 10 + HOLD_S - 0.5
    assert healths(by, Sighting((), HOLD_S), WELL, by.review_at) == (Health.SILENT, Health.GOOD)


def test_a_link_fault_outweighs_a_session() -> None:
    assert healths(judge(), Sighting(("no carrier",), None), WELL, 0) == (Health.CUT, Health.GOOD)


@given(
    st.lists(
        st.tuples(st.sampled_from((WELL, DARK, MUTE)), st.sampled_from((WELL, DARK, MUTE)), st.floats(0.01, 20)),
        min_size=1,
    )
)
def test_whatever_happened_two_well_sides_are_good_after_the_longest_hold(
    story: list[tuple[Sighting, Sighting, float]],
) -> None:
    by, now = judge(), 0.0
    for first, second, pause in story:
        now += pause
        by.judge((first, second), now)
    by.judge((WELL, WELL), now)
    assert healths(by, WELL, WELL, now + LONGEST_HOLD_S) == (Health.GOOD, Health.GOOD)
    assert by.review_at == math.inf

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cohort_pipelines.membership.reconciliation import SLICES, Slices, due, oldest

START = datetime(2026, 11, 22, 12, 7, 3, 141, tzinfo=UTC)
ROUNDS = st.timedeltas(timedelta(seconds=1), timedelta(days=60))


def numbers(slices: Slices | None) -> list[int]:
    return [] if slices is None else [(slices.first + place) % SLICES for place in range(slices.count)]


@given(within=ROUNDS, gaps=st.lists(st.floats(0, 1.5), min_size=1, max_size=40), skew=st.timedeltas(timedelta(0)))
def test_at_every_window_each_slice_was_sent_within_the_time(
    within: timedelta, gaps: list[float], skew: timedelta
) -> None:
    now = START + skew % timedelta(days=400)
    sent = dict.fromkeys(range(SLICES), now)  # the first delivery sends everybody
    for gap in gaps:
        before, now = now, now + within * gap
        turns = numbers(due(before, now, within))
        assert len(turns) == len(set(turns))
        sent |= dict.fromkeys(turns, now)
        assert now - min(sent.values()) < within or now == min(sent.values())


@given(windows=st.integers(2, 300), cadence=st.timedeltas(timedelta(seconds=1), timedelta(hours=2)))
def test_no_slice_is_sent_again_before_its_time_where_windows_are_regular(windows: int, cadence: timedelta) -> None:
    within = windows * cadence
    times = [START + number * cadence for number in range(2 * windows + 1)]
    sent: dict[int, list[datetime]] = {}
    for before, now in pairwise(times):
        for turn in numbers(due(before, now, within)):
            sent.setdefault(turn, []).append(now)

    assert sorted(sent) == list(range(SLICES))
    assert {later - earlier for first, *rest in sent.values() for earlier, later in pairwise([first, *rest])} == {
        within
    }
    assert {len(times) for times in sent.values()} == {2}


@given(windows=st.integers(1, 3000))
def test_regular_windows_share_the_slices_evenly(windows: int) -> None:
    cadence = timedelta(days=30) / windows
    counts = [len(numbers(due(START + n * cadence, START + (n + 1) * cadence, timedelta(days=30)))) for n in range(50)]
    assert max(counts) - min(counts) <= 1


def test_missed_windows_make_more_slices_due_and_never_more_than_all() -> None:
    week = timedelta(days=7)
    one, three, months = (len(numbers(due(START, START + time, week))) for time in (week / 7, 3 * week / 7, 20 * week))
    assert SLICES // 7 <= one <= SLICES // 7 + 1
    assert 3 * SLICES // 7 <= three <= 3 * SLICES // 7 + 1
    assert months == SLICES


def test_nothing_is_due_before_the_first_delivery_or_where_reconciliation_is_off() -> None:
    assert due(None, START, timedelta(days=7)) is None
    assert due(START - timedelta(days=70), START, None) is None


def test_nothing_is_due_at_the_same_moment_or_after_a_clock_was_set_back() -> None:
    assert due(START, START, timedelta(days=7)) is None
    assert due(START, START - timedelta(days=3), timedelta(days=7)) is None


@given(within=ROUNDS, away=st.floats(0.01, 3), room=st.integers(-1, SLICES))
def test_what_a_window_has_no_time_for_stays_due(within: timedelta, away: float, room: int) -> None:
    now, reconciled = START, START - within * away
    waiting = due(reconciled, now, within)
    every, sent = numbers(waiting), list[int]()
    while waiting is not None:
        slices, reconciled = oldest(waiting, room, now, within)
        assert slices.count == min(max(room, 1), waiting.count)
        sent += numbers(slices)
        waiting = due(reconciled, now, within)
    assert sent == every  # each once, the oldest first
    assert reconciled == now or not every


@pytest.mark.parametrize(
    ("key", "first"),
    [("a", 204), ("é", 621), ("user-4711", 217), ("$device:0a1b", 889)],  # the first twelve bits of MD5, modulo 1024
)
def test_the_slice_of_an_id_is_pinned(key: str, first: int) -> None:
    inside, outside = Slices(first, 1), Slices((first + 1) % SLICES, SLICES - 1)
    query = f"SELECT {inside.holding('$key')}, {outside.holding('$key')}"
    assert duckdb.execute(query, {"key": key}).fetchall() == [(True, False)]

from datetime import UTC, datetime, timedelta

import pytest

from cohort_pipelines.delivery.pace import Pace, slices_due
from cohort_pipelines.membership.reconciliation import SLICES

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
WEEK = timedelta(days=7)


@pytest.mark.parametrize(
    ("seconds", "known", "slices"),
    [
        (200, 10_000, SLICES),
        (100, 10_000, SLICES // 2),
        (1, 10_000, SLICES // 200),
        (-5, 10_000, 1),
        (1, 0, SLICES),
    ],
)
def test_half_of_the_time_is_for_reconciliation(seconds: float, known: int, slices: int) -> None:
    pace = Pace(seconds_per_operation=0.01, reading_seconds=0.0, measured=True, usual_change=None)
    due, until = slices_due(pace, NOW - 2 * WEEK, NOW, WEEK, time=timedelta(seconds=seconds), known=known)
    assert due is not None
    assert due.count == slices
    assert (until == NOW) == (slices == SLICES)


def test_a_pace_that_cannot_be_told_leaves_time_for_all() -> None:
    pace = Pace(seconds_per_operation=0.0, reading_seconds=0.0, measured=True, usual_change=None)
    due, _ = slices_due(pace, NOW - WEEK, NOW, WEEK, time=timedelta(seconds=1), known=10_000_000)
    assert due is not None
    assert due.count == SLICES

from datetime import timedelta

import pytest

from cohort_pipelines.delivery.healing import SLICES
from cohort_pipelines.delivery.pace import Pace, slices_in


@pytest.mark.parametrize(
    ("seconds", "held", "slices"),
    [(200, 10_000, SLICES), (100, 10_000, SLICES // 2), (1, 10_000, SLICES // 200), (-5, 10_000, 0), (1, 0, SLICES)],
)
def test_half_of_the_time_is_for_healing(seconds: float, held: int, slices: int) -> None:
    pace = Pace(seconds_per_operation=0.01, reading_seconds=0.0, measured=True, usual_change=None)
    assert slices_in(pace, timedelta(seconds=seconds), held) == slices


def test_a_pace_that_cannot_be_told_leaves_time_for_all() -> None:
    pace = Pace(seconds_per_operation=0.0, reading_seconds=0.0, measured=True, usual_change=None)
    assert slices_in(pace, timedelta(seconds=1), 10_000_000) == SLICES

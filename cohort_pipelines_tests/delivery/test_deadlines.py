from datetime import UTC, datetime, timedelta

import pytest

from cohort_pipelines import clock
from cohort_pipelines.delivery import deadline
from cohort_pipelines.delivery.deadlines import AT_LEAST, MARGIN, ONE_TIME
from cohort_pipelines.windows import Cadence, Window, one_time_window

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minutes", "cadence", "stops"),
    [
        (1, Cadence.QUARTER_HOUR, NOON + timedelta(minutes=15) - MARGIN),
        (14.5, Cadence.QUARTER_HOUR, NOON + timedelta(minutes=14.5) + AT_LEAST),
        (20, Cadence.QUARTER_HOUR, NOON + timedelta(minutes=30) - MARGIN),  # the window of noon is over
        (20, Cadence.TWO_HOURS, NOON + timedelta(hours=2) - MARGIN),
        (20, None, NOON + timedelta(minutes=20) + ONE_TIME),
    ],
)
def test_a_delivery_stops_before_the_next_window(minutes: float, cadence: Cadence | None, stops: datetime) -> None:
    window: Window = cadence.window_at(NOON) if cadence else one_time_window("launch")
    with clock.shifted(NOON + timedelta(minutes=minutes) - clock.now()):
        assert abs(deadline(window, cadence) - stops) < timedelta(seconds=2)

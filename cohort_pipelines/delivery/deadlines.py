"""When a delivery must stop so that the next window can go on from it."""

from datetime import datetime, timedelta

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence, Window

MARGIN = timedelta(minutes=2)
"""Kept free before the next window, for the chunks under way, the new membership and the receipt."""

AT_LEAST = timedelta(minutes=1)
ONE_TIME = timedelta(hours=24)


def deadline(window: Window, cadence: Cadence | None) -> datetime:
    """Return when a delivery for ``window`` that starts now must stop; a one-time export (no cadence) has a day.

    The window that is open now counts: an upload of a window that is over disturbs the next one just as much. One that
    starts late still gets a minute.
    """
    now = clock.now()
    closes = cadence.window_at(now).closes if cadence else window.closes
    if closes is None:
        return now + ONE_TIME
    return max(closes - MARGIN, now + AT_LEAST)

"""The one place that asks what time it is, so that windows can be tested without freezing the world.

Moments come from :func:`now`, durations from :func:`monotonic`: what measures or limits a wait must not follow a clock
that is set back or ahead.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from cohort_pipelines.core.errors import ClockSkewed

TOLERANCE = timedelta(minutes=1)
"""By how much the clocks of this host, the database and Mixpanel may differ."""

_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)  # the first also counts while the machine sleeps
_offset = timedelta(0)


def now() -> datetime:
    """Return the current moment, in UTC, shifted when :func:`shifted` is in force."""
    return datetime.now(UTC) + _offset


def monotonic() -> float:
    """Return seconds since an arbitrary moment; setting the host's clock changes nothing, :func:`shifted` does."""
    return time.clock_gettime(_STEADY) + _offset.total_seconds()


def offset() -> timedelta:
    """Return by how much :func:`now` is shifted; nothing, but where a clock is moved on purpose."""
    return _offset


def host_now() -> datetime:
    """Return what this host's clock says, in UTC, never shifted: for comparing it with other clocks."""
    return datetime.now(UTC)


def require_agreement(
    their_time: datetime, whose: str, asked_at: datetime | None = None, *, confirmed: bool = False
) -> None:
    """Refuse to go on where another clock and this host's differ by more than :data:`TOLERANCE`.

    Args:
        their_time: what the other clock said, not shifted.
        whose: the other clock's owner, in words.
        asked_at: the host's time (:func:`host_now`) when it was asked; it may have answered at any moment since.
        confirmed: whether it had said so once before.

    Raises:
        ClockSkewed: they differ by more.
    """
    here = host_now()
    nearest = min(max(their_time, asked_at or here), here)
    if abs(their_time - nearest) > TOLERANCE:
        raise ClockSkewed(whose, their_time.astimezone(UTC), nearest, confirmed=confirmed)


@contextmanager
def shifted(by: timedelta) -> Iterator[None]:
    """Let this process believe that ``by`` has already passed (negative: that it is still earlier).

    Process-wide on purpose: a run that Dagster executes in other threads sees the same clock.
    """
    global _offset  # noqa: PLW0603  one clock for the process is what this module is
    _offset += by
    try:
        yield
    finally:
        _offset -= by  # not what it was before: shifts may end in another order than they began

"""The one place that asks what time it is, so that windows can be tested without freezing the world."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

_offset = timedelta(0)


def now() -> datetime:
    """Return the current moment, in UTC, shifted when :func:`shifted` is in force."""
    return datetime.now(UTC) + _offset


@contextmanager
def shifted(by: timedelta) -> Iterator[None]:
    """Let this process believe that ``by`` has already passed (negative: that it is still earlier).

    Process-wide on purpose: a run that Dagster executes in other threads sees the same clock.
    """
    global _offset  # noqa: PLW0603  one clock for the process is what this module is
    before = _offset
    _offset = before + by
    try:
        yield
    finally:
        _offset = before

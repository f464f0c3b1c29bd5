from datetime import UTC, datetime, timedelta, timezone

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import ClockSkewed

ALMOST = timedelta(seconds=58)
TOO_MUCH = timedelta(seconds=62)


@pytest.mark.parametrize("apart", [timedelta(0), ALMOST, -ALMOST])
def test_clocks_may_differ_by_a_minute(apart: timedelta) -> None:
    clock.require_agreement(clock.host_now() + apart, "The database")
    with pytest.raises(ClockSkewed):
        clock.require_agreement(clock.host_now() + apart + timedelta(minutes=2), "The database")


@pytest.mark.parametrize("apart", [TOO_MUCH, -TOO_MUCH, timedelta(hours=2), timedelta(hours=-1)])
def test_clocks_that_differ_by_more_are_refused_and_both_are_quoted(apart: timedelta) -> None:
    theirs = clock.host_now() + apart
    with pytest.raises(ClockSkewed, match=f"The database says {theirs:%Y-%m-%d %H:%M:%S} UTC") as skewed:
        clock.require_agreement(theirs, "The database")
    assert "this host 20" in str(skewed.value)
    assert "Nothing was sent" in str(skewed.value)
    assert "NTP" in str(skewed.value)


def test_an_answer_that_took_long_may_be_as_old_as_the_question() -> None:
    asked_at = clock.host_now() - timedelta(minutes=5)
    clock.require_agreement(asked_at - ALMOST, "Mixpanel", asked_at)
    clock.require_agreement(asked_at + timedelta(minutes=2), "Mixpanel", asked_at)
    with pytest.raises(ClockSkewed, match="62 seconds"):
        clock.require_agreement(asked_at - TOO_MUCH, "Mixpanel", asked_at)


def test_a_shifted_clock_and_another_zone_are_no_skew() -> None:
    with clock.shifted(timedelta(hours=3)):
        clock.require_agreement(clock.host_now().astimezone(timezone(timedelta(hours=9))), "The database")


def test_shifts_that_end_in_another_order_than_they_began_leave_nothing_behind() -> None:
    before = clock.offset()
    outer, inner = clock.shifted(timedelta(hours=3)), clock.shifted(timedelta(minutes=5))
    with outer:
        inner.__enter__()
    assert clock.offset() == before + timedelta(minutes=5)
    inner.__exit__(None, None, None)
    assert clock.offset() == before


def test_durations_do_not_follow_the_clock_of_the_host_and_can_be_shifted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "now", lambda: datetime(1999, 12, 31, tzinfo=UTC))
    before = clock.monotonic()
    assert 0 <= clock.monotonic() - before < 60
    with clock.shifted(timedelta(hours=1)):
        assert 3_600 <= clock.monotonic() - before < 3_660

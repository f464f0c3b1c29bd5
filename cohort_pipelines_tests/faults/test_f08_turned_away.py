"""F8: a partner that answers 429 is left alone as long as it says, never past the deadline; the next window goes on."""

from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from email.utils import format_datetime
from functools import partial

import pytest
import tenacity

from cohort_pipelines.core import clock
from cohort_pipelines.orchestration import upload
from cohort_pipelines_tests.faults.projects import Faulty, to_the_window_before, without_waiting
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

PARTNERS = {TAPLYTICS: ("taplytics", "/v2/users", 2 * 32), APPTIMIZE: ("apptimize", "/cohorts", 3)}
"""Service, path, and how many requests all workers together have begun before one knows of the first answer."""

FAR_OFF = {
    "seconds": "3600",
    "a date": "in an hour",
    "an absurd number": "9" * 400,
    "an absurd date": "Fri, 31 Dec 9999 23:59:59 GMT",
}
OF_NO_USE = {"missing": None, "nonsense": "soon", "negative": "-5", "long past": "Thu, 01 Jan 1970 00:00:00 GMT"}


def turn_away(project: Faulty, name: str, wait: str | None, *, times: int | None = None, after: int = 0) -> None:
    """Let the partner of a sync answer 429 with this Retry-After."""
    service, path, _ = PARTNERS[name]
    headers = {} if wait is None else {"Retry-After": in_(timedelta(hours=1)) if wait == "in an hour" else wait}
    project.fault(service, kind="status", status=429, match=path, headers=headers, times=times, after=after)


def in_(time: timedelta) -> str:
    return format_datetime(clock.now() + time, usegmt=True)


@pytest.mark.parametrize("name", PARTNERS)
def test_f08_a_partner_that_is_busy_for_ever_makes_each_window_yield_and_the_next_goes_on(
    project: Faulty, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    without_waiting(monkeypatch)
    monkeypatch.setattr(upload, "deadline", lambda *_: clock.now() + timedelta(seconds=1))
    key = project.syncs[name].key("destination_upload")
    *_, in_flight = PARTNERS[name]
    kinds = FAR_OFF | OF_NO_USE
    for back, (how, wait) in enumerate(kinds.items()):
        passing = 1 if back and name == TAPLYTICS else 0  # a message is all of the additions
        turn_away(project, name, wait, after=passing)
        before, asked = project.held(name), project.judge.asked().total()

        with clock.shifted(to_the_window_before(len(kinds) - back)):
            result = project.run(name)
            wanted = project.judge.payload(name, project.window(name))
            assert project.ledger.windows(name)[0].state == "deferred", how

        assert result.success, how  # amber
        assert key not in [event.asset_key for event in result.get_asset_materialization_events()], how
        [amber] = [each for each in result.get_asset_check_evaluations() if each.check_name == "delivered"]
        assert not amber.passed, how
        assert "deferred at its deadline" in (amber.description or ""), how
        assert before & wanted <= project.held(name) <= before | wanted, how
        asked = project.judge.asked().total() - asked
        rounds = 1 if how in FAR_OFF else 3 * 5  # of requests in flight; without a time it is asked a few times more
        assert 1 <= asked <= passing + in_flight * rounds, how
        project.mend()
        project.churn(0.03)

    monkeypatch.undo()
    assert project.run(name).success
    assert project.held(name) == project.judge.payload(name, project.window(name))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Let a wait between two tries be over at once, with the clock set forward, and collect the seconds."""
    waits: list[float] = []
    with ExitStack() as later:

        async def pass_by(seconds: float) -> None:
            waits.append(seconds)
            later.enter_context(clock.shifted(timedelta(seconds=seconds)))

        monkeypatch.setattr(tenacity, "AsyncRetrying", partial(tenacity.AsyncRetrying, sleep=pass_by))
        yield waits


@pytest.mark.parametrize("wait", ["240", "a date"])
@pytest.mark.parametrize("name", PARTNERS)
def test_f08_a_wait_that_is_named_is_honoured_within_the_window(
    project: Faulty, waits: list[float], name: str, wait: str
) -> None:
    turn_away(project, name, in_(timedelta(seconds=240)) if wait == "a date" else wait, times=1)

    assert project.run(name).success

    [waited] = waits
    assert 100 < waited <= 240  # a date comes nearer while the cohort is read
    assert waited == 240 or wait == "a date"
    assert project.held(name) == project.judge.payload(name, project.window(name))

"""F17: clocks jump, change to and from summer time or go wrong, and runs come at a window's very edge.

Every skipped window is a row with a reason, none is doubled, and no snapshot is filed under a window that it was not
taken in.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from dagster._utils.schedules import schedule_execution_time_iterator

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.devtools.standins.engage import Engage
from cohort_pipelines.ledger.database import Database
from cohort_pipelines_tests.faults.projects import MESSAGES, MIXPANEL, Faulty, opened, said, sync, to_the_window_before
from cohort_pipelines_tests.faults.projects import TAPLYTICS as FLAGS
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS
from cohort_pipelines_tests.orchestration.test_schedules import evaluate

QUARTER = timedelta(minutes=15)
OVER = "Nothing was sent; the audience is as it was."
HOURS = {
    "mixpanel": MIXPANEL,
    "apptimize": MESSAGES,
    "taplytics": FLAGS,
    "quarterly": sync("apptimize", "Beta", "recurring"),
    "two_hourly": sync("taplytics", "Beta"),
}


def windows_with_a_snapshot(project: Faulty, name: str) -> set[str]:
    folders = {file.parent.name for file in project.judge.files(name, "cohort_snapshot")}
    return {unquote(folder.removeprefix("window=")) for folder in folders}


def tick(project: Faulty, name: str, job: str) -> str:
    """Let the schedule's tick of this moment do what it does, and return the window that its run then filed under."""
    moment, before = clock.now(), windows_with_a_snapshot(project, name)
    [request], _ = evaluate(project.definitions, job, moment)
    assert request.partition_key == project.window(name)

    assert project.run(name, request.partition_key).success

    cadence = project.syncs[name].cadence
    assert cadence is not None
    assert windows_with_a_snapshot(project, name) - before <= {cadence.window_at(moment).key}
    return str(request.partition_key)


def test_f17_a_clock_that_jumps_by_two_hours_either_way_doubles_no_window_and_hides_none(project: Faulty) -> None:
    jumps = [timedelta(0), QUARTER, timedelta(hours=2, minutes=15), 2 * QUARTER, timedelta(hours=2, minutes=30)]
    ticked = []
    for jump in jumps:
        with clock.shifted(to_the_window_before(2) + jump):
            ticked.append(tick(project, APPTIMIZE, "recurring_syncs"))
        assert project.judge.group() == project.judge.payload(APPTIMIZE, ticked[-1])
        project.churn(0.02)

    rows = project.ledger.windows(APPTIMIZE)
    keys = [row.key for row in reversed(rows)]
    moments = [Cadence.QUARTER_HOUR.window_named(key).opens for key in keys]
    assert len(keys) == 11
    assert all(later == earlier + QUARTER for earlier, later in pairwise(filter(None, moments)))
    assert {row.key for row in rows if row.state == "delivered"} == set(ticked)
    assert all(row.state == "missed" and row.reason for row in rows if row.key not in ticked)
    assert windows_with_a_snapshot(project, APPTIMIZE) == set(ticked)


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let this host be where clocks are put forward and back."""
    with monkeypatch.context() as zone:
        zone.setenv("TZ", "Europe/Berlin")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    "change",
    [datetime(2025, 3, 30, 1, tzinfo=UTC), datetime(2025, 10, 26, 1, tzinfo=UTC)],
    ids=["to summer time", "back"],
)
@pytest.mark.parametrize(
    ("name", "job", "cadence"),
    [("quarterly", "recurring_syncs", Cadence.QUARTER_HOUR), ("two_hourly", "dynamic_syncs", Cadence.TWO_HOURS)],
)
def test_f17_the_host_changes_its_hours_and_every_window_comes_once(
    tmp_path: Path, change: datetime, name: str, job: str, cadence: Cadence
) -> None:
    before = cadence.window_at(change - 2 * cadence.value).opens
    assert before is not None
    assert before.astimezone().utcoffset() != change.astimezone().utcoffset()
    with opened(tmp_path, HOURS) as project:
        schedule = project.definitions.resolve_schedule_def(job)
        ticks = schedule_execution_time_iterator(
            before.timestamp(), schedule.cron_schedule, schedule.execution_timezone, ascending=True
        )
        moments = [moment.astimezone(UTC) for moment in islice(ticks, 5)]
        assert moments == [before + number * cadence.value for number in range(5)]
        keys = []
        for moment in moments:
            with clock.shifted(moment - clock.now()):
                keys.append(tick(project, name, job))
            assert project.held(name) == project.judge.payload(name, keys[-1])
            project.churn(0.02)

        assert keys == [f"{moment:%Y-%m-%dT%H%MZ}" for moment in moments]
        assert [(row.key, row.state) for row in reversed(project.ledger.windows(name))] == [
            (key, "delivered") for key in keys
        ]
        assert windows_with_a_snapshot(project, name) == set(keys)


@pytest.mark.parametrize("page", [0, 2])
def test_f17_a_snapshot_belongs_to_the_window_in_which_its_first_page_came_or_to_none(
    project: Faulty, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert project.run(APPTIMIZE).success
        first = project.window(APPTIMIZE)
    before, asked = project.judge.group(), project.judge.asked()
    project.churn(0.1)
    answer = Engage.page

    def answer_when_it_is_over(engage: Engage, parameters: dict[str, Any], *about: str) -> dict[str, Any]:
        if int(parameters.get("page") or 0) == page and clock.offset() == earlier:
            later.enter_context(clock.shifted(QUARTER))
        return answer(engage, parameters, *about)

    with clock.shifted(to_the_window_before()), ExitStack() as later:
        earlier, window = clock.offset(), project.window(APPTIMIZE)
        monkeypatch.setattr(Engage, "page", answer_when_it_is_over)
        result = project.run(APPTIMIZE)
        assert project.window(APPTIMIZE, back=1) == window

    [row] = [row for row in project.ledger.windows(APPTIMIZE) if row.key == window]
    if page == 0:
        assert "closed at" in said(result)
        assert OVER in said(result)
        assert (row.state, row.reason) == ("failed", said(result))
        assert (project.judge.group(), project.judge.asked()) == (before, asked)
        assert windows_with_a_snapshot(project, APPTIMIZE) == {first}
    else:
        assert result.success
        assert row.state == "delivered"
        assert windows_with_a_snapshot(project, APPTIMIZE) == {first, window}
        assert project.judge.group() == project.judge.payload(APPTIMIZE, window)


def test_f17_the_last_moment_of_a_window_is_not_the_first_of_the_next(
    project: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert project.run(APPTIMIZE).success
        earlier, next_window = project.window(APPTIMIZE), project.window(APPTIMIZE, back=-1)
        edge = Cadence.QUARTER_HOUR.window_named(next_window).opens
        assert edge is not None
        before, asked = project.judge.group(), project.judge.asked()
        project.churn(0.1)

        with monkeypatch.context() as stopped, clock.shifted(edge - clock.now()):
            stopped.setattr(clock, "now", lambda: edge - timedelta(microseconds=1))
            early = project.run(APPTIMIZE, next_window)
            stopped.setattr(clock, "now", lambda: edge)
            config = {"ops": {f"{APPTIMIZE}__cohort_snapshot": {"config": {"refresh": True}}}}
            late = project.run(APPTIMIZE, earlier, run_config=config)
            assert (project.judge.group(), project.judge.asked()) == (before, asked)
            on_time = project.run(APPTIMIZE, next_window)

    assert "opens at" in said(early)
    assert "closed at" in said(late)
    assert on_time.success
    assert project.judge.group() == project.judge.payload(APPTIMIZE, next_window)
    assert len(project.judge.files(APPTIMIZE, "cohort_snapshot", earlier)) == 1
    assert [(row.key, row.state) for row in project.ledger.windows(APPTIMIZE)] == [
        (next_window, "delivered"),
        (earlier, "delivered"),
    ]


@pytest.mark.parametrize("seconds", [90, -90, 7200, -7200])
def test_f17_a_mixpanel_whose_clock_is_another_is_not_read(project: Faulty, seconds: int) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    before, asked = project.judge.segment(), project.judge.asked()
    project.churn(0.1)
    date(project, seconds)

    result = project.run(TAPLYTICS)

    assert "Mixpanel" in said(result)
    assert "clock" in said(result)
    assert OVER in said(result)
    assert (project.judge.segment(), project.judge.asked()) == (before, asked)
    assert project.judge.files(window=project.window(TAPLYTICS)) == []
    row = project.ledger.windows(TAPLYTICS)[0]
    assert (row.key, row.state) == (project.window(TAPLYTICS), "failed")
    assert "clock" in row.reason

    date(project, 20 if seconds > 0 else -20)  # within a minute: clocks are never quite the same
    assert project.run(TAPLYTICS).success
    assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))


@pytest.mark.parametrize("minutes", [2, -2])
def test_f17_a_ledger_whose_clock_is_another_orders_nothing(
    project: Faulty, monkeypatch: pytest.MonkeyPatch, minutes: int
) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    before, asked = project.held(TAPLYTICS), project.judge.asked()
    project.churn(0.1)
    with monkeypatch.context() as skewed:
        skewed.setattr(Database, "now", lambda *_: clock.now() + timedelta(minutes=minutes))

        result = project.run(TAPLYTICS)

    assert "differ by 120 seconds: the ledger's database says" in said(result)
    assert OVER in said(result)
    assert (project.held(TAPLYTICS), project.judge.asked()) == (before, asked)
    row = project.ledger.windows(TAPLYTICS)[0]
    assert (row.key, row.state) == (project.window(TAPLYTICS), "failed")

    assert project.run(TAPLYTICS).success
    assert project.held(TAPLYTICS) == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))


def date(project: Faulty, offset: int) -> None:
    httpx.post(f"{project.standins.mixpanel_url}/standin/date", json={"offset": offset}).raise_for_status()

"""Mixpanel dates its answers: a snapshot by a wrong clock would be filed under the wrong window."""

import asyncio
import json
from datetime import timedelta
from email.utils import format_datetime

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import ClockSkewed
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import Window
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import Project, check_project_and_cohorts
from cohort_pipelines.snapshots.taking import take_snapshot
from cohort_pipelines_tests.destinations.odd_server import Asked, Raw, in_turn, odd_server, raw

ONE_PAGE = {
    "status": "ok",
    "page": 0,
    "page_size": 1000,
    "session_id": "s",
    "total": 1,
    "results": [{"$distinct_id": "u-1"}],
}


def rows(project: Project, history: History, window: Window) -> int:
    return take_snapshot(project, 1_478_097, history, sync="beta_users", window=window, properties=()).rows


@pytest.mark.parametrize("offset", [-7200.0, -90.0, 90.0, 7200.0])
def test_clocks_that_differ_stop_the_reading_and_file_nothing(
    standins: InThread, project: Project, history: History, window: Window, offset: float
) -> None:
    standins.standins.mixpanel_faults.date_offset = offset
    with pytest.raises(ClockSkewed, match=r"Mixpanel says .* UTC, this host .* UTC\. Two answers say so: this host's"):
        rows(project, history, window)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []
    asked = standins.standins.mixpanel_faults.requests
    assert asked == {("/api/query/engage", 200): 1, ("/api/app/me", 200): 1}  # the second answer costs no query


@pytest.mark.parametrize("offset", [-50.0, 0.0, 50.0])
def test_half_a_minute_is_nothing(
    standins: InThread, project: Project, history: History, window: Window, offset: float
) -> None:
    standins.standins.mixpanel_faults.date_offset = offset
    assert rows(project, history, window) == 2500


def test_it_is_the_hosts_clock_that_counts(project: Project, history: History) -> None:
    with clock.shifted(timedelta(hours=5)):
        opened = clock.now() - timedelta(minutes=1)
        assert rows(project, history, Window("2026-11-22T1715Z", opened, opened + timedelta(minutes=15))) == 2500


@pytest.mark.parametrize(
    "headers", [{}, {"date": ""}, {"date": "yesterday"}, {"date": "Sun, 99 Nov 2026 04:31:14 GMT"}, {"date": "0"}]
)
def test_an_answer_without_a_date_that_can_be_read_is_taken(
    history: History, window: Window, headers: dict[str, str]
) -> None:
    assert rows_by_answer(history, window, headers) == 1


def test_the_date_is_read_from_the_answer(history: History, window: Window) -> None:
    date = format_datetime(clock.now() + timedelta(minutes=10), usegmt=True)
    with pytest.raises(ClockSkewed):
        rows_by_answer(history, window, {"date": date})


@pytest.mark.parametrize("page", [0, 1])
def test_one_answer_that_is_dated_otherwise_fails_no_snapshot(history: History, window: Window, page: int) -> None:
    odd = {"date": format_datetime(clock.now() + timedelta(seconds=90), usegmt=True)}

    async def reply(asked: Asked) -> Raw:
        if not asked.body:
            return raw(200, b"{}", headers={"date": format_datetime(clock.now(), usegmt=True)})
        number = int(asked.body.rpartition(b"page=")[2])
        results = [{"$distinct_id": f"u-{number}"}] if number < 2 else []
        body = ONE_PAGE | {"page": number, "page_size": 1, "total": 2, "results": results}
        return raw(200, json.dumps(body).encode(), headers=odd if number == page else {})

    async def scenario() -> int:
        async with odd_server(reply) as server:
            project = Project(project_id=7, service_account="a", secret="s", api_url=server.url)
            return await asyncio.to_thread(rows, project, history, window)

    assert asyncio.run(scenario()) == 2


def test_the_check_says_it_too(standins: InThread, project: Project) -> None:
    standins.standins.mixpanel_faults.date_offset = -600
    with pytest.raises(ClockSkewed, match="Mixpanel says"):
        check_project_and_cohorts(project)


def rows_by_answer(history: History, window: Window, headers: dict[str, str]) -> int:
    async def scenario() -> int:
        async with odd_server(in_turn(raw(200, json.dumps(ONE_PAGE).encode(), headers=headers))) as server:
            project = Project(project_id=7, service_account="a", secret="s", api_url=server.url)
            return await asyncio.to_thread(rows, project, history, window)

    return asyncio.run(scenario())

"""A busy, failing or odd Mixpanel: what it costs, how long it is waited for, and what is blamed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    MixpanelAnswerTooLarge,
    MixpanelAnswerUnreadable,
    MixpanelCohortUnknown,
    MixpanelError,
    MixpanelRequestRefused,
    MixpanelUnavailable,
    SnapshotTorn,
)
from cohort_pipelines.core.windows import Window
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import Project, patience
from cohort_pipelines.mixpanel.client import Client
from cohort_pipelines.snapshots.taking import Snapshot, take_snapshot

ENGAGE = "/api/query/engage"


def take(project: Project, history: History, window: Window, place: patience.Place | None = None) -> Snapshot:
    return take_snapshot(
        project, 1_478_097, history, sync="beta_users", window=window, properties=(), place=place or nullcontext
    )


@pytest.mark.parametrize(
    "status_and_reason",
    [
        ('"status":"error"', "its status is not ok"),
        ('"status":"ok","error":"broken"', "it names an error"),
        ('"error":null', "missing required field `status`"),
    ],
)
def test_a_page_that_does_not_say_ok_costs_one_query_and_one_reading_anew(
    standins: InThread, project: Project, history: History, window: Window, status_and_reason: tuple[str, str]
) -> None:
    status, says = status_and_reason
    body = f'{{{status},"page":0,"page_size":1000,"session_id":"S","total":1,"results":[{{"$distinct_id":"a"}}]}}'
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=200, body=body, match=ENGAGE, times=None))
    with pytest.raises(MixpanelAnswerUnreadable, match=says):
        take(project, history, window)
    assert standins.standins.mixpanel_faults.requests == {(ENGAGE, 200): 2}


def test_an_unknown_cohort_is_found_by_the_list_without_any_text(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=400, match=ENGAGE, times=None))
    with pytest.raises(MixpanelRequestRefused):
        take(project, history, window)
    with pytest.raises(MixpanelCohortUnknown):
        take_snapshot(project, 5, history, sync="beta_users", window=window, properties=())


def test_a_lost_session_is_not_taken_for_a_deleted_cohort(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    body = '{"error":"session not found for this cohort query"}'
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=404, body=body, contains="page=1"))
    assert take(project, history, window).reread


def test_a_retry_after_of_0_burns_no_tries(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    standins.standins.mixpanel_faults.add(
        Fault(kind="status", status=429, headers={"Retry-After": "0"}, contains="page=0", times=2)
    )
    snapshot = take(project, history, window)
    assert snapshot.seconds >= 1.5
    assert snapshot.queries == 1


@pytest.mark.slow
def test_pages_are_fewer_at_once_where_only_one_place_is_free(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    standins.standins.mixpanel.budget.at_once = 1
    standins.standins.mixpanel_faults.add(Fault(kind="delay", match=ENGAGE, seconds=0.3, times=None))
    snapshot = take(project, history, window)
    assert (snapshot.rows, snapshot.queries, snapshot.reread) == (2500, 1, False)


def test_no_more_pages_are_under_way_than_the_readings_share(
    project: Project, history: History, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    under_way: list[int] = [0]
    ask_once = Client.ask_once

    async def counted(self: Client, *arguments: Any) -> Any:  # noqa: ANN401
        under_way.append(under_way[-1] + 1)
        try:
            return await ask_once(self, *arguments)
        finally:
            under_way.append(under_way[-1] - 1)

    monkeypatch.setattr(Client, "ask_once", counted)

    @asynccontextmanager
    async def place() -> AsyncIterator[patience.Share]:
        yield lambda total: total // 5

    assert take(project, history, window, place).pages == 3
    assert max(under_way) == 1


def test_a_long_wait_gives_the_place_up(
    standins: InThread, project: Project, history: History, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_SHORT", 0.1)
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, contains="page=0"))
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, contains="page=2"))
    turns: list[str] = []

    @asynccontextmanager
    async def place() -> AsyncIterator[None]:
        turns.append("in")
        yield
        turns.append("out")
        await asyncio.sleep(0)

    assert take(project, history, window, place).rows == 2500
    assert turns == ["in", "out"] * 3


def test_a_page_beyond_the_limit_is_asked_for_once(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    with pytest.raises(MixpanelAnswerTooLarge, match="raise max_page_bytes"):
        take(replace(project, max_page_bytes=1_000), history, window)
    assert standins.standins.mixpanel_faults.requests.total() == 1


def test_two_hours_of_server_errors_cost_a_dozen_queries_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = asyncio.run(waits_of_two_hours(MixpanelUnavailable("page 0", "status 503"), monkeypatch))
    assert 7 <= len(waits) <= 12
    assert waits[0] <= 2
    assert sum(waits) > 3_600


async def waits_of_two_hours(error: MixpanelError, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return how long each wait was in a window in which page 0 fails with ``error`` every time; no time passes."""
    waits: list[float] = []
    with ExitStack() as hours:

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            hours.enter_context(clock.shifted(timedelta(seconds=seconds)))

        monkeypatch.setattr(asyncio, "sleep", sleep)
        async with patience.Patience(clock.now() + timedelta(hours=2), nullcontext) as patient:
            with suppress(type(error)):
                while True:
                    await patient.wait(error, costly=True)
    return waits


def test_a_total_beyond_all_sense_takes_no_memory(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    body = (
        f'{{"status":"ok","page":0,"page_size":1,"session_id":"S","total":{10**18},"results":[{{"$distinct_id":"a"}}]}}'
    )
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=200, body=body, match=ENGAGE, times=None))
    with pytest.raises(SnapshotTorn):
        take(project, history, window)

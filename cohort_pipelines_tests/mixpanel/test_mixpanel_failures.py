"""Mixpanel refuses, breaks off or keeps us waiting: the error says which, and nothing is filed."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from email.utils import format_datetime

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    MixpanelCohortUnknown,
    MixpanelCredentialRefused,
    MixpanelError,
    MixpanelNotReached,
    MixpanelOverloaded,
    MixpanelPlanWithoutApi,
    MixpanelProjectUnknown,
    MixpanelTimedOut,
    MixpanelUnavailable,
    QueryBudgetExhausted,
    SnapshotTorn,
    TooManyConcurrentQueries,
)
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import Window, one_time_window
from cohort_pipelines.devtools.standins.faults import Fault, Kind
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import Project, client
from cohort_pipelines.snapshots.taking import Snapshot, take_snapshot

BREAKS: tuple[Kind, ...] = ("status", "cut", "lost_response", "half_body", "html")


def take(
    project: Project,
    history: History,
    window: Window,
    cohort_id: int = 1_478_097,
    deadline: datetime | None = None,
) -> Snapshot:
    return take_snapshot(
        project, cohort_id, history, sync="beta_users", window=window, properties=(), deadline=deadline
    )


@pytest.fixture(autouse=True)
def nothing_is_left_behind(history: History) -> Iterator[None]:
    yield
    with history.scratch() as scratch:
        assert list(scratch.parent.iterdir()) == [scratch]


@pytest.mark.parametrize("kind", BREAKS)
def test_a_page_that_breaks_once_is_asked_for_again(
    standins: InThread, project: Project, history: History, window: Window, kind: Kind
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind=kind, contains="page=2"))
    snapshot = take(project, history, window)
    assert (snapshot.rows, snapshot.requests, snapshot.queries, snapshot.reread) == (2500, 4, 1, False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", BREAKS)
def test_another_try_at_page_0_is_taken_for_another_query(
    standins: InThread, project: Project, history: History, window: Window, kind: Kind
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind=kind, contains="page=0"))
    snapshot = take(project, history, window)
    assert (snapshot.rows, snapshot.requests, snapshot.queries) == (2500, 4, 2)
    assert snapshot.reread == (kind == "html")  # what cannot be read is read anew at once


@pytest.mark.slow
@pytest.mark.parametrize("kind", BREAKS)
def test_what_keeps_breaking_files_nothing(
    standins: InThread, project: Project, history: History, closing_window: Window, kind: Kind
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind=kind, contains="page=1", times=None))
    with pytest.raises((MixpanelUnavailable, SnapshotTorn), match="page 1 "):
        take(project, history, closing_window)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []
    assert closing_window.closes is not None
    assert clock.now() < closing_window.closes + timedelta(seconds=1)


def test_a_slow_answer_is_waited_for(standins: InThread, project: Project, history: History, window: Window) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="delay", contains="page=1", seconds=0.3))
    assert take(project, history, window).requests == 3


def test_an_answer_that_never_ends_is_given_up(
    standins: InThread,
    project: Project,
    history: History,
    closing_window: Window,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client, "REQUEST_SECONDS", 0.1)
    standins.standins.mixpanel_faults.add(Fault(kind="delay", contains="page=1", times=None, seconds=1))
    with pytest.raises(MixpanelTimedOut, match="page 1"):
        take(project, history, closing_window)


def test_nobody_listens(project: Project, history: History, closing_window: Window) -> None:
    nowhere = replace(project, api_url="http://127.0.0.1:9")
    with pytest.raises(MixpanelUnavailable, match="page 0 of cohort 1478097: no whole answer"):
        take(nowhere, history, closing_window)


def test_a_wait_that_is_asked_for_in_seconds_is_kept(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, headers={"Retry-After": "1"}))
    snapshot = take(project, history, window)
    assert snapshot.seconds >= 1
    assert (snapshot.requests, snapshot.queries) == (4, 1)  # a 429 costs no query


@pytest.mark.slow
def test_a_wait_that_is_asked_for_as_a_date_is_kept(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    until = format_datetime(clock.now() + timedelta(seconds=2), usegmt=True)
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=503, headers={"Retry-After": until}))
    assert take(project, history, window).seconds >= 0.9


@pytest.mark.parametrize("wait", ["86400", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_beyond_the_window_is_not_begun(
    standins: InThread, project: Project, history: History, window: Window, wait: str
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, headers={"Retry-After": wait}, times=None))
    with pytest.raises(MixpanelOverloaded):
        take(project, history, window)
    assert standins.standins.mixpanel_faults.requests == {("/api/query/engage", 429): 1}


@pytest.mark.parametrize("scheduled", [True, False])
def test_a_wait_beyond_the_deadline_is_not_begun(
    standins: InThread, project: Project, history: History, window: Window, *, scheduled: bool
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, headers={"Retry-After": "60"}, times=None))
    with pytest.raises(MixpanelOverloaded):
        take(
            project,
            history,
            window if scheduled else one_time_window("by hand"),
            deadline=clock.now() + timedelta(seconds=30),
        )
    assert standins.standins.mixpanel_faults.requests == {("/api/query/engage", 429): 1}


def test_a_request_does_not_outlive_the_deadline_and_its_grace(
    standins: InThread, project: Project, history: History, window: Window, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "GRACE_SECONDS", 0.2)
    standins.standins.mixpanel_faults.add(Fault(kind="delay", contains="page=1", seconds=10))
    deadline = clock.now() + timedelta(seconds=1)
    with pytest.raises(MixpanelTimedOut, match="page 1"):
        take(project, history, window, deadline=deadline)
    assert clock.now() < deadline + timedelta(seconds=5)


def test_a_deadline_beyond_the_window_changes_nothing(
    standins: InThread, project: Project, history: History, closing_window: Window
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, headers={"Retry-After": "60"}, times=None))
    with pytest.raises(MixpanelOverloaded):
        take(project, history, closing_window, deadline=clock.now() + timedelta(hours=1))
    assert standins.standins.mixpanel_faults.requests == {("/api/query/engage", 429): 1}


@pytest.mark.slow
@pytest.mark.parametrize("wait", ["", "soon", "-5", "1.5"])
def test_a_wait_that_makes_no_sense_is_a_short_one(
    standins: InThread, project: Project, history: History, window: Window, wait: str
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, headers={"Retry-After": wait}))
    assert take(project, history, window).requests == 4


def test_shed_load_for_ever_ends_with_the_window(
    standins: InThread, project: Project, history: History, closing_window: Window
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=429, times=None))
    with pytest.raises(MixpanelOverloaded):
        take(project, history, closing_window)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []


def test_an_hour_that_is_used_up_is_said_at_once(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    standins.standins.mixpanel.budget.per_hour = 1
    take(project, history, window)
    with pytest.raises(QueryBudgetExhausted, match="2/1 queries in the last hour"):
        take(project, history, window)


def test_too_many_queries_at_once_are_told_apart(
    standins: InThread, project: Project, history: History, closing_window: Window
) -> None:
    standins.standins.mixpanel.budget.at_once = 0
    with pytest.raises(TooManyConcurrentQueries):
        take(project, history, closing_window)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda project: replace(project, secret="wrong"), MixpanelCredentialRefused),
        (lambda project: replace(project, service_account="nobody"), MixpanelCredentialRefused),
        (lambda project: replace(project, project_id=1), MixpanelProjectUnknown),
    ],
)
def test_a_wrong_project_is_said_at_once(
    project: Project,
    history: History,
    window: Window,
    change: Callable[[Project], Project],
    error: type[MixpanelError],
) -> None:
    with pytest.raises(error):
        take(change(project), history, window)


def test_an_unknown_cohort_is_said(project: Project, history: History, window: Window) -> None:
    with pytest.raises(MixpanelCohortUnknown, match="no cohort 5 "):
        take(project, history, window, cohort_id=5)


def test_a_plan_without_the_api_is_said(standins: InThread, project: Project, history: History, window: Window) -> None:
    error = '{"error": "Your plan does not allow API calls"}'
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=402, body=error))
    with pytest.raises(MixpanelPlanWithoutApi):
        take(project, history, window)


def test_a_credential_that_is_revoked_in_mid_read_files_nothing(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=401, contains="page=2"))
    with pytest.raises(MixpanelCredentialRefused):
        take(project, history, window)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []


def test_no_error_tells_the_secret(project: Project, history: History, window: Window) -> None:
    wrong = replace(project, secret="a-very-secret-secret")
    with pytest.raises(MixpanelCredentialRefused) as refused:
        take(wrong, history, window)
    assert "a-very-secret-secret" not in f"{refused.value} {wrong!r} {refused.value!r}"


def test_a_redirection_is_not_followed(standins: InThread, project: Project, history: History, window: Window) -> None:
    elsewhere = {"Location": f"{standins.mixpanel_url}/api/query/engage?project_id={project.project_id}"}
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=301, headers=elsewhere))
    with pytest.raises(MixpanelNotReached, match="301"):  # a GET without the form would answer for everybody
        take(project, history, window)


def test_an_answer_is_decoded_beside_what_else_is_under_way(project: Project) -> None:
    async def ask() -> bool:
        loop, went_on = asyncio.get_running_loop(), threading.Event()

        def decode(_body: bytes) -> bool:
            loop.call_soon_threadsafe(went_on.set)
            return went_on.wait(5)

        async with client.connect(project) as connected:
            return await connected.ask_once(client.WHO_ASKS, decode, clock.now() + timedelta(seconds=15))

    assert asyncio.run(ask())

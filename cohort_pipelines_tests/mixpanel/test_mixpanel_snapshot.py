import asyncio
import os
import signal
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from types import FrameType
from typing import Any

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import WindowClosed, WindowNotOpenYet
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import Window, one_time_window
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.population import IdMerge, Population
from cohort_pipelines.devtools.standins.server import InThread, in_thread, running
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import AnonymousMembers, Project
from cohort_pipelines.snapshots.taking import Snapshot, take_snapshot

ID = "$apptimize_user_id"
EXPORT = one_time_window("by hand")


ProjectAt = Callable[[Addresses], Project]


def take(project: Project, history: History, window: Window = EXPORT, **options: Any) -> Snapshot:  # noqa: ANN401
    options = {"properties": (ID,)} | options
    return take_snapshot(project, 1_478_097, history, sync="beta_users", window=window, **options)


def rows(history: History, snapshot: Snapshot) -> list[dict[str, Any]]:
    return [row for batch in history.batches(snapshot.file) for row in batch.to_pylist()]


@pytest.mark.parametrize("id_merge", ["original", "simplified"])
def test_every_member_is_filed_as_mixpanel_gave_it(
    project_at: ProjectAt, history: History, window: Window, id_merge: IdMerge
) -> None:
    people = Population(2500, id_merge)
    with in_thread(Settings(members=2500, id_merge=id_merge)) as standins:
        snapshot = take(project_at(standins), history, window)
    assert [(row["distinct_id"], row["has_profile"]) for row in rows(history, snapshot)] == [
        (people.distinct_id(number), bool(people.profile(number))) for number in range(2500)
    ]
    expected = [people.profile(number).get(ID) for number in range(2500)]
    assert [row[ID] for row in rows(history, snapshot)] == [None if one is None else str(one) for one in expected]


def test_a_snapshot_says_what_it_is(standins: InThread, project: Project, history: History, window: Window) -> None:
    before = clock.now()
    snapshot = take(project, history, window)
    assert (snapshot.total, snapshot.rows, snapshot.file.rows) == (2500, 2500, 2500)
    assert snapshot.anonymous == sum(not row["has_profile"] for row in rows(history, snapshot)) == 200
    assert (snapshot.pages, snapshot.requests, snapshot.queries) == (3, 3, 1)
    assert standins.standins.mixpanel.budget.used() == 1
    assert before <= snapshot.taken_at <= clock.now()
    assert not snapshot.reread
    assert history.versions("beta_users", Stage.COHORT_SNAPSHOT, window.key) == [snapshot.file]


def test_mixpanel_is_only_read_inside_of_the_place(standins: InThread, project: Project, history: History) -> None:
    requests = standins.standins.mixpanel_faults.requests
    seen: list[int] = []

    @asynccontextmanager
    async def place() -> AsyncIterator[None]:
        seen.append(requests.total())
        yield
        seen.append(requests.total())

    assert take(project, history, place=place).requests == 3
    assert seen == [0, 3]


def test_fetch_and_skip_agree_on_the_identified(project: Project, history: History) -> None:
    everybody = rows(history, take(project, history))
    identified = rows(history, take(project, history, anonymous_members="skip"))
    fetched = [(row["distinct_id"], row[ID]) for row in everybody if row["has_profile"]]
    assert [(row["distinct_id"], row[ID]) for row in identified] == fetched
    assert all(row["has_profile"] for row in identified)


def test_skip_works_without_any_property(project: Project, history: History) -> None:
    snapshot = take(project, history, anonymous_members="skip", properties=())
    assert snapshot.rows == 2300
    assert rows(history, snapshot)[0].keys() == {"distinct_id", "has_profile", "page"}


@pytest.mark.parametrize(("members", "pages"), [(0, 1), (1, 1), (99, 1), (100, 2), (101, 2), (700, 8)])
def test_the_last_page_is_the_one_that_is_not_full(
    project_at: ProjectAt, history: History, members: int, pages: int
) -> None:
    with in_thread(Settings(members=members, page_size=100)) as standins:
        snapshot = take(project_at(standins), history)
    assert (snapshot.rows, snapshot.pages, snapshot.queries) == (members, pages, 1)


def test_the_same_cohort_is_the_same_file(project: Project, history: History) -> None:
    assert take(project, history).file == take(project, history).file


def test_progress_counts_up_to_the_total(project: Project, history: History) -> None:
    seen: list[tuple[int, int]] = []
    take(project, history, on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_no_more_pages_are_asked_for_at_once_than_allowed(project_at: ProjectAt, history: History) -> None:
    with in_thread(Settings(members=3000, page_size=50, concurrency=5)) as standins:
        snapshot = take(project_at(standins), history)
        answers = standins.standins.mixpanel_faults.requests
    assert snapshot.requests == 61
    assert answers == {("/api/query/engage", 200): 61}


@pytest.mark.slow
def test_no_object_for_a_member_outlives_its_page(project: Project, project_at: ProjectAt, history: History) -> None:
    take(project, history)  # what is built once is built now
    with running(Settings(members=40_000, page_size=250)) as addresses:
        tracemalloc.start()
        try:
            snapshot = take(project_at(addresses), history)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert snapshot.rows == 40_000
    assert peak < 2_500_000  # the ids alone would take 3.4 MB


def test_a_window_that_is_over_gets_no_snapshot(standins: InThread, project: Project, history: History) -> None:
    over = Window("2026-11-22T1200Z", clock.now() - timedelta(minutes=15), clock.now())
    with pytest.raises(WindowClosed):
        take(project, history, over)
    assert not standins.standins.mixpanel_faults.requests


def test_a_window_to_come_gets_no_snapshot(standins: InThread, project: Project, history: History) -> None:
    opens = clock.now() + timedelta(minutes=1)
    with pytest.raises(WindowNotOpenYet):
        take(project, history, Window("2026-11-22T1230Z", opens, opens + timedelta(minutes=15)))
    assert not standins.standins.mixpanel_faults.requests


def test_a_window_that_closes_before_page_0_has_answered_gets_no_snapshot(
    standins: InThread, project: Project, history: History
) -> None:
    now = clock.now()
    standins.standins.mixpanel_faults.add(Fault(kind="delay", seconds=0.4))
    with pytest.raises(WindowClosed):
        take(project, history, Window("2026-11-22T1200Z", now, now + timedelta(seconds=0.2)))
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []


def test_a_window_may_close_while_the_other_pages_are_read(
    standins: InThread, project: Project, history: History
) -> None:
    closes = clock.now() + timedelta(seconds=0.5)
    standins.standins.mixpanel_faults.add(Fault(kind="delay", contains="page=2", seconds=0.7))
    snapshot = take(project, history, Window("2026-11-22T1200Z", clock.now(), closes))
    assert snapshot.taken_at < closes < clock.now()


@pytest.mark.parametrize(
    ("mode", "sent"),
    [
        ("fetch", "filter_by_cohort=%7B%22id%22%3A1478097%7D&include_all_users=true&page=0"),
        ("skip", "include_all_users=false&output_properties=%5B%22%24apptimize_user_id%22%5D&page=0"),
    ],
)
def test_what_is_asked_is_what_is_documented(
    standins: InThread, project: Project, history: History, mode: AnonymousMembers, sent: str
) -> None:
    seen = Fault(kind="delay", seconds=0, contains=sent, times=9)
    standins.standins.mixpanel_faults.add(seen)
    take(project, history, anonymous_members=mode)
    assert seen.times == 8


class Cancelled(BaseException):
    """As Dagster's own interrupt: no Exception, raised by a signal's handler in the main thread."""


@pytest.fixture
def a_signal_cancels() -> Iterator[signal.Signals]:
    def cancel(_number: int, _frame: FrameType | None) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGUSR1, cancel)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_a_cancel_ends_the_reading_wherever_the_loop_is(
    standins: InThread, project: Project, history: History, a_signal_cancels: signal.Signals
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="delay", contains="page=2", seconds=5))

    def cancel_from_a_callback(_done: int, _total: int) -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), a_signal_cancels)

    began = clock.now()
    with pytest.raises(Cancelled):
        take(project, history, on_progress=cancel_from_a_callback)
    assert clock.now() - began < timedelta(seconds=5)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []


def test_a_cancel_during_the_proof_files_nothing(project: Project, history: History) -> None:
    def cancel_at_the_end(done: int, total: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        if done == total:
            task.cancel()

    with pytest.raises(asyncio.CancelledError):
        take(project, history, on_progress=cancel_at_the_end)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []


def test_the_moment_it_shows_is_told_before_any_other_page_is_asked_for(
    standins: InThread, project: Project, history: History
) -> None:
    asked: list[int] = []

    def on_taken() -> None:
        asked.append(standins.standins.mixpanel_faults.requests["/api/query/engage", 200])

    take(project, history, on_taken=on_taken)
    assert asked == [1]


def test_the_moment_is_told_anew_when_the_cohort_is_read_again(
    standins: InThread, project: Project, history: History
) -> None:
    told: list[datetime] = []
    standins.standins.mixpanel_faults.add(Fault(kind="skip_page", contains="page=1"))
    snapshot = take(project, history, on_taken=lambda: told.append(clock.now()))
    assert snapshot.reread
    assert len(told) == 2
    assert told[0] < snapshot.taken_at <= told[1]


def test_what_fails_when_the_moment_is_told_files_nothing(project: Project, history: History) -> None:
    def fail() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        take(project, history, on_taken=fail)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []

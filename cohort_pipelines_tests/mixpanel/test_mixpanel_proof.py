from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cohort_pipelines.core.errors import SnapshotTorn, WindowClosed
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import Window
from cohort_pipelines.devtools.standins.faults import Fault, Kind
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.history import History
from cohort_pipelines.mixpanel import Project
from cohort_pipelines.mixpanel.pages import Page, page_decoder
from cohort_pipelines.mixpanel.proof import Torn, noting, promise_of, require_no_repeats
from cohort_pipelines.snapshots.taking import Snapshot, take_snapshot


def page_of(number: int, *ids: str, **said: Any) -> Page:  # noqa: ANN401  any field of a page
    body = {
        "page": number,
        "status": "ok",
        "page_size": 2,
        "session_id": "S",
        "total": 5,
        "results": [{"$distinct_id": i} for i in ids],
    }
    return page_decoder((), all_have_profiles=False)(msgspec.json.encode(body | said))


FIRST = page_of(0, "a", "b")


@pytest.mark.parametrize(
    ("number", "page"),
    [
        (0, FIRST),
        (1, page_of(1, "c", "d")),
        (1, page_of(1, "c", "d", total=None)),
        (1, page_of(1, "c", "d", total=2)),  # the documentation's reading: the users of this page
        (2, page_of(2, "e")),
    ],
)
def test_a_page_that_keeps_the_promise_is_taken(number: int, page: Page) -> None:
    promise = promise_of(FIRST)
    assert promise.pages == 3
    promise.require_kept(number, page)


@pytest.mark.parametrize(
    ("number", "page", "defect"),
    [
        (1, page_of(2, "c", "d"), "page 1 came back as page 2"),
        (1, page_of(1, "c", "d", session_id="T"), "page 1 belongs to another session"),
        (1, page_of(1, "c", "d", session_id=None), "page 1 belongs to another session"),
        (1, page_of(1, "c", "d", page_size=3), "page 1 is cut to 3 members, page 0 to 2"),
        (1, page_of(1, "c"), "page 1 holds 1 members instead of 2"),
        (1, page_of(1, "c", "d", total=6), "page 1 counts 6 members in the cohort, page 0 5"),
        (2, page_of(2), "page 2 holds 0 members instead of 1"),
        (2, page_of(2, "e", "f"), "page 2 holds 2 members instead of 1"),
    ],
)
def test_a_page_that_breaks_the_promise_is_torn(number: int, page: Page, defect: str) -> None:
    with pytest.raises(Torn, match=defect):
        promise_of(FIRST).require_kept(number, page)


@pytest.mark.parametrize("missing", ["total", "session_id"])
def test_page_0_has_to_promise_something(missing: str) -> None:
    with pytest.raises(Torn, match="page 0 names no"):
        promise_of(page_of(0, "a", "b", **{missing: None}))


def test_a_total_that_only_counts_page_0_is_found_out() -> None:
    promise = promise_of(page_of(0, "a", "b", total=2))
    assert promise.pages == 2
    with pytest.raises(Torn, match="page 1 holds 2 members instead of 0"):
        promise.require_kept(1, page_of(1, "c", "d", total=2))


def noted(folder: Path, *pages: Page) -> Path:
    path = folder / "places.arrow"
    with noting(path) as note:
        for page in pages:
            note(page)
    return path


def test_somebody_on_two_pages_is_found(tmp_path: Path) -> None:
    with pytest.raises(Torn, match="a member stands on two pages") as torn:
        require_no_repeats(noted(tmp_path, FIRST, page_of(1, "c", "b"), page_of(2, "e")))
    assert "'b'" not in str(torn.value)


def test_somebody_twice_on_one_page_is_for_identity_to_judge(tmp_path: Path) -> None:
    path = noted(tmp_path, page_of(0, "a", "a"), page_of(1, "a\x00", "A"), page_of(2, "á"))
    require_no_repeats(path)
    assert path.exists()


def take(project: Project, history: History, window: Window) -> Snapshot:
    return take_snapshot(project, 1_478_097, history, sync="beta_users", window=window, properties=())


TEARS: tuple[Kind, ...] = ("repeat_page", "skip_page", "short_page", "total_changes", "session_changes")


@pytest.mark.parametrize(
    ("tear", "page"), [(tear, page) for tear in TEARS for page in (0, 1, 2) if (tear, page) != ("repeat_page", 0)]
)
def test_a_torn_reading_is_repeated_once(
    project_at: Callable[[Addresses], Project], history: History, window: Window, tear: Kind, page: int
) -> None:
    with in_thread(Settings(members=3500)) as standins:
        standins.standins.mixpanel_faults.add(Fault(kind=tear, contains=f"page={page}"))
        snapshot = take(project_at(standins), history, window)
    assert snapshot.reread
    assert (snapshot.rows, snapshot.queries) == (3500, 2)
    assert history.versions("beta_users", Stage.COHORT_SNAPSHOT, window.key) == [snapshot.file]


@pytest.mark.parametrize("tear", TEARS)
def test_a_reading_torn_twice_files_nothing(
    standins: InThread, project: Project, history: History, window: Window, tear: Kind
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind=tear, contains="page=1", times=None))
    with pytest.raises(SnapshotTorn):
        take(project, history, window)
    assert history.windows("beta_users", Stage.COHORT_SNAPSHOT) == []
    assert standins.standins.mixpanel.budget.used() == 2


def test_a_lost_session_is_a_torn_reading(
    standins: InThread, project: Project, history: History, window: Window
) -> None:
    error = '{"error": "request for page in uncached query for params"}'
    standins.standins.mixpanel_faults.add(Fault(kind="status", status=400, body=error, contains="page=1"))
    assert take(project, history, window).reread


@pytest.mark.slow
def test_a_torn_reading_is_not_repeated_once_the_window_is_closed(
    standins: InThread, project: Project, history: History, closing_window: Window
) -> None:
    standins.standins.mixpanel_faults.add(Fault(kind="delay", contains="page=2", seconds=2.1))
    standins.standins.mixpanel_faults.add(Fault(kind="short_page", contains="page=2"))
    standins.standins.mixpanel_faults.add(Fault(kind="repeat_page", contains="page=1"))
    with pytest.raises(WindowClosed):
        take(project, history, closing_window)
    assert standins.standins.mixpanel.budget.used() == 1

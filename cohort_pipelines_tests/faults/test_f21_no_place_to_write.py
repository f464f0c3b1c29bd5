"""F21: history or ledger cannot be written or are missing: refused before the first request, with the path."""

from collections.abc import Callable
from pathlib import Path

import pytest

from cohort_pipelines.core import clock, settings
from cohort_pipelines.orchestration.resolved import STAGES
from cohort_pipelines_tests.faults.disks import small_disk
from cohort_pipelines_tests.faults.projects import Faulty, opened, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS

NOTHING_SENT = "Nothing was sent; the audience is as it was."


def put_a_file_in_place_of(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not a folder", encoding="utf-8")


def put_a_folder_in_place_of(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.mark.parametrize(
    ("place", "take"),
    [
        ("data", put_a_file_in_place_of),
        ("data/history", put_a_file_in_place_of),
        ("data/history/.scratch", put_a_file_in_place_of),
        ("data/ledger.sqlite", put_a_folder_in_place_of),
        ("data/ledger.sqlite", put_a_file_in_place_of),
    ],
)
def test_f21_at_the_first_run_nobody_is_asked_for_anything(
    project: Faulty, tmp_path: Path, place: str, take: Callable[[Path], None]
) -> None:
    take(tmp_path / place)

    result = project.run(TAPLYTICS)

    assert str(tmp_path / place) in said(result)
    assert NOTHING_SENT in said(result)
    assert project.judge.queried()["/api/query/engage"] == 0
    assert project.judge.asked().total() == 0


@pytest.mark.parametrize("place", ["history", "ledger"])
def test_f21_a_folder_that_became_read_only_is_refused_before_the_first_request(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
    place: str,
) -> None:
    folder = tmp_path / "data" / place
    with opened(tmp_path) as project, small_disk(folder, 8192) as disk:
        if place == "ledger":
            monkeypatch.setenv(settings.LEDGER, f"sqlite:///{folder}/ledger.sqlite")
        with clock.shifted(to_the_window_before()):
            assert project.run(TAPLYTICS).success
        project.churn(0.2)
        for stages in (STAGES, STAGES[3:]):
            segment, asked, queried = project.judge.segment(), project.judge.asked(), project.judge.queried()

            disk.make_read_only()
            result = project.run(TAPLYTICS, stages=stages)
            disk.make_writable()

            assert str(folder) in said(result)
            assert NOTHING_SENT in said(result)
            assert (project.judge.segment(), project.judge.asked()) == (segment, asked)
            assert project.judge.queried()["/api/query/engage"] == queried["/api/query/engage"]
            assert project.run(TAPLYTICS, stages=STAGES[:3]).success

        assert project.run(TAPLYTICS).success
        assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))


@pytest.mark.parametrize("mistyped", [False, True])
def test_f21_a_history_that_is_gone_or_elsewhere_is_refused_before_anybody_is_asked(
    project: Faulty, monkeypatch: pytest.MonkeyPatch, *, mistyped: bool
) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    segment, asked, queried = project.judge.segment(), project.judge.asked(), project.judge.queried()
    project.churn(0.2)
    history = project.judge.data / "history"
    wrong = project.judge.data.with_name("mistyped") / "history" if mistyped else history
    moved = history.rename(history.with_name("moved"))

    with monkeypatch.context() as patched:
        if mistyped:
            patched.setenv(settings.LEDGER, f"sqlite:///{project.judge.data}/ledger.sqlite")
            patched.setenv(settings.DATA, str(wrong.parent))
        results = [project.run(TAPLYTICS), project.run(TAPLYTICS)]  # and not a second time either

    for result in results:
        assert str(wrong) in said(result)
        assert NOTHING_SENT in said(result)
    assert (project.judge.segment(), project.judge.asked()) == (segment, asked)
    assert project.judge.queried()["/api/query/engage"] == queried["/api/query/engage"]
    assert not wrong.exists()

    moved.rename(history)
    assert project.run(TAPLYTICS).success
    assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))

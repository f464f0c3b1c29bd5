"""F15: the disk is full, broken or read-only while something is written: no partial file is ever visible."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.faults.disks import small_disk
from cohort_pipelines_tests.faults.projects import Faulty, opened, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS

SENT_NOTHING = "Nothing was sent; the audience is as it was."
PAGE = 4096


def test_f15_a_disk_that_is_full_at_any_point_leaves_no_partial_file_and_the_next_run_is_exact(
    tmp_path: Path,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
) -> None:
    history = tmp_path / "data" / "history"
    with opened(tmp_path) as project, small_disk(history, 2048) as disk:
        with clock.shifted(to_the_window_before()):
            assert project.run(TAPLYTICS).success
        before, asked = project.judge.segment(), project.judge.asked()
        stages: set[str] = set()
        project.churn(0.2)
        window, pages = project.window(TAPLYTICS), 0
        while True:
            disk.fill(but=pages * PAGE)
            result = project.run(TAPLYTICS)
            disk.empty()

            assert project.judge.damaged() == [], pages
            stages |= failed_stages(result)
            if result.success:
                break
            assert str(history) in said(result), pages
            assert "No space left on device." in said(result), pages
            assert "NOT OURS" not in said(result), pages
            if "delivery stopped after" not in said(result):
                assert SENT_NOTHING in said(result), pages
                assert (project.judge.segment(), project.judge.asked()) == (before, asked), pages
            pages += 1

        assert project.judge.segment() == project.judge.payload(TAPLYTICS, window)
        assert {"cohort_snapshot", "partner_payload", "destination_upload"} <= stages


@pytest.mark.parametrize("free", [64, 148, 300])
def test_f15_a_disk_that_fills_up_amid_a_large_snapshot_fails_its_window_and_no_more(
    tmp_path: Path,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
    free: int,
) -> None:
    """What waits to be written meets the full disk once more when its file is closed."""
    history = tmp_path / "data" / "history"
    with opened(tmp_path, settings=Settings(members=20_000)) as project, small_disk(history, 8192) as disk:
        disk.fill(but=free * 1024)
        result = project.run(TAPLYTICS)
        disk.empty()

        assert said(result).startswith(f"The history could not be written at {history}")
        assert ": No space left on device. No partial file was left. " + SENT_NOTHING in said(result)
        assert [each.state for each in project.ledger.windows(TAPLYTICS)] == ["failed"]
        assert project.judge.asked().total() == 0
        assert project.run(TAPLYTICS, stages=("cohort_snapshot",)).success


def test_f15_a_read_only_disk_is_refused_before_mixpanel_is_asked(
    tmp_path: Path,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
) -> None:
    history = tmp_path / "data" / "history"
    with opened(tmp_path) as project, small_disk(history, 4096) as disk:
        with clock.shifted(to_the_window_before()):
            assert project.run(TAPLYTICS).success
        before, asked, queried = project.judge.segment(), project.judge.asked(), project.judge.queried()
        project.churn(0.2)
        files = set(project.judge.files())

        disk.make_read_only()
        result = project.run(TAPLYTICS)

        assert str(history) in said(result)
        assert "Read-only file system" in said(result)
        assert SENT_NOTHING in said(result)
        assert set(project.judge.files()) == files
        assert project.judge.queried()["/api/query/engage"] == queried["/api/query/engage"]
        assert (project.judge.segment(), project.judge.asked()) == (before, asked)

        disk.make_writable()
        assert project.run(TAPLYTICS).success
        assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """Let the kernel refuse to write any file of this process beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_f15_a_snapshot_that_may_not_be_written_to_its_end_is_not_there_at_all(
    tmp_path: Path,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
) -> None:
    with opened(tmp_path, settings=Settings(members=30_000)) as project:
        with no_file_larger_than(300_000):  # the ledger is smaller, the snapshot is not
            result = project.run(TAPLYTICS)

        assert "File too large" in said(result)
        assert str(tmp_path / "data" / "history") in said(result)
        assert SENT_NOTHING in said(result)
        assert project.judge.files() == []
        assert project.judge.asked().total() == 0

        assert project.run(TAPLYTICS, stages=("cohort_snapshot",)).success
        [snapshot] = project.judge.files()
        assert snapshot.stat().st_size > 300_000
        assert project.judge.damaged() == []


def test_f15_a_disk_that_breaks_while_it_is_written_to_leaves_nothing(
    project: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    before, asked = project.judge.segment(), project.judge.asked()
    project.churn(0.2)

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as worn_out:
        worn_out.setattr(os, "fsync", broken)
        result = project.run(TAPLYTICS)

    assert "Input/output error" in said(result)
    assert str(project.judge.data / "history") in said(result)
    assert project.judge.files(window=project.window(TAPLYTICS)) == []
    assert (project.judge.segment(), project.judge.asked()) == (before, asked)

    assert project.run(TAPLYTICS).success
    assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))


def failed_stages(result: dg.ExecuteInProcessResult) -> set[str]:
    failures = result.filter_events(lambda event: event.is_step_failure)
    return {str(event.step_key).partition("__")[2] for event in failures}

"""F12: the partner accepts more than it stores; red where it can be told.

The published file is read back. Taplytics answers with what it stored, and is known. A receiver of cohort messages
tells nothing: what it accepted and did not store only comes round again with the slices that are reconciled (F35).
"""

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines_tests.faults.projects import (
    FILES,
    MIXPANEL,
    Faulty,
    opened,
    said,
    sync,
    to_the_window_before,
    without_waiting,
)
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS

LIST = "import_list"


@pytest.fixture
def published(tmp_path: Path, at_an_opening: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:  # noqa: ARG001
    monkeypatch.setenv("IMPORTS", str(tmp_path / "imports"))
    declared = {"mixpanel": MIXPANEL, "files": FILES, LIST: sync("files", "Beta", "recurring")}
    with opened(tmp_path, declared) as project:
        with clock.shifted(to_the_window_before()):
            assert project.run(LIST).success
        yield project


def imported(folder: Path) -> set[str]:
    """Return whom an import of the newest file would put into the group."""
    with (folder / "imports" / "Beta" / "current.csv").open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["user_id"]
    return {row[0] for row in rows}


def test_f12_a_disk_that_keeps_less_than_was_written_is_red_and_the_old_file_stays(
    published: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = imported(tmp_path)
    published.churn(0.1)
    name = Path.replace

    def name_and_lose_the_end(part: Path, file: Path) -> Path:
        if file.suffix == ".csv" and not part.is_symlink():
            part.write_bytes(part.read_bytes()[:-40])
        return name(part, file)

    with monkeypatch.context() as lossy:
        lossy.setattr(Path, "replace", name_and_lose_the_end)
        result = published.run(LIST)

    assert "a file lacks what was just written to it" in said(result)
    assert imported(tmp_path) == before

    assert published.run(LIST, stages=("destination_upload",)).success
    assert imported(tmp_path) == published.judge.payload(LIST, published.window(LIST)) != before


def test_f12_a_published_file_that_lost_its_end_later_is_published_anew(published: Faulty, tmp_path: Path) -> None:
    current = tmp_path / "imports" / "Beta" / "current.csv"
    current.write_bytes(current.read_bytes()[:-40])
    before = published.judge.payload(LIST, published.window(LIST, back=8))
    assert imported(tmp_path) != before

    assert published.run(LIST).success

    assert imported(tmp_path) == before


@pytest.mark.parametrize("leaver", [False, True])
def test_f12_a_flag_that_taplytics_does_not_show_as_stored_is_red_and_set_again(
    project: Faulty, monkeypatch: pytest.MonkeyPatch, *, leaver: bool
) -> None:
    without_waiting(monkeypatch)
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    members = sorted(project.judge.segment())
    ignored = members[:3] if leaver else ["joiner-0", "joiner-1"]
    project.profiles({f"joiner-{number}": {"plan": "beta"} for number in range(9)})
    project.leave(members[:9])
    project.behave("taplytics", ignore=ignored)

    result = project.run(TAPLYTICS)

    wanted = project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))
    assert "got no clear answer" in said(result)
    assert project.judge.segment() ^ wanted >= set(ignored)

    project.behave("taplytics", ignore=[])
    assert project.run(TAPLYTICS, stages=("destination_upload",)).success
    assert project.judge.segment() == wanted

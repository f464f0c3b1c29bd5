"""F30: a file of the history that membership needs is gone or damaged: refused, named, and rebuilding ends exact."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import IdsForgotten
from cohort_pipelines.delivery.overwrite import Overwrite
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.recovery.rebuilding import rebuild
from cohort_pipelines_tests.faults.projects import Faulty, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS


class Died(Exception):
    """What ends a writer before it has written down how far it came."""


def remove(file: Path) -> None:
    file.unlink()


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def needed_membership(project: Faulty, name: str) -> Path:
    return max(project.judge.files(name, "membership"), key=lambda file: file.stat().st_mtime_ns)


def needed_plan(project: Faulty, name: str) -> Path:
    return max(project.judge.files(name, "plan"), key=lambda file: file.stat().st_mtime_ns)


def die_half_way(project: Faulty, name: str, patch: pytest.MonkeyPatch) -> None:
    """Let a writer send a part of its plan and then die, so that only the ledger and the plan tell what it did."""
    service, path, after = {
        TAPLYTICS: ("taplytics", "/v2/users", 30),
        APPTIMIZE: ("apptimize", "/cohorts", 1),
    }[name]
    project.fault(service, match=path, kind="status", status=401, after=after, times=None)

    def die(_overwrite: Overwrite, _state: AttemptState, _error: str = "", *, missing: bool = False) -> None:  # noqa: ARG001
        raise Died

    with patch.context() as dying:
        dying.setattr(Overwrite, "end", die)
        assert "Died" in said(project.run(name))
    project.mend()


@pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])
@pytest.mark.parametrize("damage", [remove, flip_a_bit])
@pytest.mark.parametrize("needed", [needed_membership, needed_plan])
def test_f30_without_a_file_that_membership_needs_nothing_is_sent_and_rebuilding_ends_exact(
    project: Faulty,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    damage: Callable[[Path], None],
    needed: Callable[[Faulty, str], Path],
) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert project.run(name).success
    project.churn(0.1)
    with clock.shifted(to_the_window_before()):
        if needed is needed_plan:
            die_half_way(project, name, monkeypatch)
        else:
            assert project.run(name).success
    project.churn(0.1)
    before, asked = project.held(name), project.judge.asked()
    file = needed(project, name)
    damage(file)

    sentence = said(project.run(name))

    assert str(file) in sentence
    assert "Nothing was sent; the audience is as it was." in sentence
    assert "is a plan or a membership, run `cohort-pipelines ledger rebuild`" in sentence
    assert (project.held(name), project.judge.asked()) == (before, asked)

    rebuilt = rebuild(project.ledger, project.history)
    assert rebuilt.left_out == (damage is flip_a_bit)
    assert said(project.run(name)) == ""
    assert project.held(name) == project.judge.payload(name, project.window(name))


@pytest.mark.parametrize("left", ["nothing", "marks"])
def test_f30_without_the_whole_history_former_members_are_not_forgotten_unasked(project: Faulty, left: str) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    project.churn(0.2)
    segment, asked, queried = project.judge.segment(), project.judge.asked(), project.judge.queried()
    history, lost = project.judge.data / "history", project.judge.data / "lost"
    history.rename(lost)
    if left == "marks":
        shutil.copytree(lost / ".ledger", history / ".ledger")

    sentence = said(project.run(TAPLYTICS))

    assert "cohort-pipelines ledger rebuild" in sentence
    assert str(history) in sentence
    assert (project.judge.segment(), project.judge.asked()) == (segment, asked)
    if left == "nothing":
        assert project.judge.queried() == queried
        assert not history.exists()
    with pytest.raises(IdsForgotten, match=f"may hold {len(segment):,} ids"):
        rebuild(project.ledger, project.history)
    assert "cohort-pipelines ledger rebuild" in said(project.run(TAPLYTICS))  # which has read a new audience by now
    with pytest.raises(IdsForgotten):
        rebuild(project.ledger, project.history)
    assert (project.judge.segment(), project.judge.asked()) == (segment, asked)

    shutil.copytree(lost, history, dirs_exist_ok=True)
    rebuild(project.ledger, project.history)
    assert said(project.run(TAPLYTICS)) == ""
    assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))


def test_f30_a_file_that_is_put_back_is_as_good_as_ever(project: Faulty) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    project.churn(0.1)
    file = needed_membership(project, TAPLYTICS)
    backup = file.rename(project.judge.data / "backup")
    assert str(file) in said(project.run(TAPLYTICS))

    backup.rename(file)

    assert project.run(TAPLYTICS).success
    assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))

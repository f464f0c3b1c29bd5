"""F29: the ledger is lost, put back from a backup, or there are two: refused, with the way out, which ends exact."""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cohort_pipelines.core import clock, settings
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.recovery.rebuilding import rebuild
from cohort_pipelines_tests.databases import KINDS
from cohort_pipelines_tests.faults.ledgers import copy_of, place, put_back
from cohort_pipelines_tests.faults.projects import Faulty, opened, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

SYNCS = (TAPLYTICS, APPTIMIZE)
WAY_OUT = "cohort-pipelines ledger rebuild"


@pytest.fixture(params=KINDS)
def places(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Return where two ledgers can be kept, in either kind of database."""
    with ExitStack() as kept:
        folders = [tmp_path / name for name in ("first", "second")]
        first, second = (kept.enter_context(place(request.param, folder)) for folder in folders)
        yield first, second


def require_exact(project: Faulty) -> None:
    for name in SYNCS:
        assert said(project.run(name)) == ""
        assert project.held(name) == project.judge.payload(name, project.window(name)), name


def require_refused(project: Faulty) -> None:
    before, asked, queried = project.all_held(), project.judge.asked(), project.judge.queried()
    for name in SYNCS:
        sentence = said(project.run(name))
        assert WAY_OUT in sentence, name
        assert "Nothing was sent; the audience is as it was." in sentence, name
    assert (project.all_held(), project.judge.asked(), project.judge.queried()) == (before, asked, queried)


def deliver_half(project: Faulty) -> None:
    """Let a window's deliveries stop half-way, so that some of its joiners are known to its plan alone."""
    project.churn(0.1)
    for service, path, after in (("taplytics", "/v2/users", 30), ("apptimize", "/cohorts", 1)):
        project.fault(service, match=path, kind="status", status=401, after=after, times=None)
    for name in SYNCS:
        assert "delivery stopped after" in said(project.run(name)), name
    project.mend()
    project.churn(0.1)


@pytest.mark.parametrize("fate", ["lost", "put back from a backup", "doubled"])
def test_f29_a_ledger_that_is_not_the_historys_is_refused_and_rebuilding_ends_exact(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
    places: tuple[str, str],
    fate: str,
) -> None:
    first, second = places
    with opened(tmp_path) as project:
        monkeypatch.setenv(settings.LEDGER, first)
        with clock.shifted(to_the_window_before(3)):
            require_exact(project)
            backup = copy_of(first)
            project.churn(0.1)
        with clock.shifted(to_the_window_before(2)):
            require_exact(project)
        with clock.shifted(to_the_window_before()):
            deliver_half(project)

        if fate == "put back from a backup":
            put_back(first, backup)
            right, wrong = first, None
        else:
            Ledger(second)
            monkeypatch.setenv(settings.LEDGER, second)
            right, wrong = second, first
            if fate == "doubled":
                put_back(second, backup)
        require_refused(project)

        rebuilt = rebuild(Ledger(right), project.history)
        assert rebuilt.targets == 2
        require_exact(project)

        if wrong:
            monkeypatch.setenv(settings.LEDGER, wrong)
            require_refused(project)


def test_f29_two_ledgers_cannot_take_turns(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
    places: tuple[str, str],
) -> None:
    with opened(tmp_path) as project:
        told: Counter[str] = Counter()
        for turn in range(4):
            url = places[turn % 2]
            monkeypatch.setenv(settings.LEDGER, url)
            if turn == 1:
                put_back_copy(places)
            before = project.judge.segment()
            with clock.shifted(to_the_window_before(4 - turn)):
                sentence = said(project.run(TAPLYTICS))
                window = project.window(TAPLYTICS)
            project.churn(0.1)
            if sentence:
                assert WAY_OUT in sentence
                assert project.judge.segment() == before
                told["rejected"] += 1
            else:
                assert project.judge.segment() == project.judge.payload(TAPLYTICS, window)
                told["delivered"] += 1
        assert told == {"rejected": 1, "delivered": 3}


def put_back_copy(places: tuple[str, str]) -> None:
    """Let the second ledger be what the first one is now."""
    Ledger(places[1])
    put_back(places[1], copy_of(places[0]))

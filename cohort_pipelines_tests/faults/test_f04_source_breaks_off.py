"""F4: the source fails in mid-read, and nothing is uploaded."""

from collections.abc import Mapping
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.mixpanel import client
from cohort_pipelines.orchestration import sealing
from cohort_pipelines_tests.faults.projects import Faulty, said, to_the_window_before, without_waiting
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

A_LATER_PAGE: Mapping[str, object] = {"match": "/api/query/engage", "contains": "page=2", "times": None}
BREAKS_OFF: Mapping[str, Mapping[str, object]] = {
    "status 500": {"kind": "status", "status": 500},
    "status 502 with a page": {"kind": "status", "status": 502, "body": "<html>Bad gateway</html>"},
    "a page with 200": {"kind": "html"},
    "cut": {"kind": "cut"},
    "half a body": {"kind": "half_body"},
    "a time-out of theirs": {"kind": "timed_out"},
    "shed load": {"kind": "load_shed"},
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)


@pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])
def test_f04_a_source_that_fails_in_mid_read_leaves_the_audience_as_it_was(
    project: Faulty, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(name).success
    segment, group, asked = project.judge.segment(), project.judge.group(), project.judge.asked()
    project.churn(0.2)
    window = project.window(name)
    for how, what in BREAKS_OFF.items():
        project.fault("mixpanel", **A_LATER_PAGE, **what)

        with monkeypatch.context() as hurried:
            hurried.setattr(sealing, "deadline", lambda *_: clock.now() + timedelta(seconds=0.5))
            result = project.run(name)

        assert "Nothing was sent; the audience is as it was." in said(result), how
        assert project.judge.files(name, window=window) == [], how
        assert (project.judge.segment(), project.judge.group()) == (segment, group), how
        assert project.judge.asked() == asked, how
        assert project.ledger.windows(name)[0].state == "failed", how
        project.mend()

    assert project.run(name).success
    assert project.held(name) == project.judge.payload(name, window)


def test_f04_a_failure_that_passes_is_made_up_for_in_the_same_reading(project: Faulty) -> None:
    project.fault("mixpanel", match="/api/query/engage", contains="page=2", kind="status", status=500, times=2)

    assert project.run(TAPLYTICS).success

    assert project.judge.segment() == project.judge.payload(TAPLYTICS, project.window(TAPLYTICS))
    assert project.standins.standins.mixpanel.budget.used() == 1


def test_f04_an_answer_that_takes_too_long_is_no_answer(project: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    segment, asked = project.judge.segment(), project.judge.asked()
    project.churn(0.2)
    project.fault("mixpanel", **A_LATER_PAGE, kind="delay", seconds=60)
    monkeypatch.setattr(client, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(sealing, "deadline", lambda *_: clock.now() + timedelta(seconds=2))

    result = project.run(TAPLYTICS)

    assert "Nothing was sent; the audience is as it was." in said(result)
    assert project.judge.files(window=project.window(TAPLYTICS)) == []
    assert (project.judge.segment(), project.judge.asked()) == (segment, asked)

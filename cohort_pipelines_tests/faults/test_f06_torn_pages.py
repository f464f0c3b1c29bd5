"""F6: pages that do not fit together are read again once, and never uploaded."""

from cohort_pipelines.core import clock
from cohort_pipelines_tests.faults.projects import Faulty, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

TORN = ("repeat_page", "skip_page", "short_page", "total_changes", "session_changes")
PAGES = ("page=1", "page=3")


def test_f06_a_torn_reading_is_never_uploaded(project: Faulty) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(TAPLYTICS).success
    before, asked = project.judge.segment(), project.judge.asked()
    project.churn(0.2)
    window = project.window(TAPLYTICS)

    for kind in TORN:
        for page in PAGES:
            project.fault("mixpanel", match="/api/query/engage", contains=page, kind=kind, times=None)
            queries = project.standins.standins.mixpanel.budget.used()
            result = project.run(TAPLYTICS)

            assert "do not make up one cohort, twice in a row" in said(result), (kind, page)
            assert project.standins.standins.mixpanel.budget.used() == queries + 2, (kind, page)
            assert project.judge.files(window=window) == [], (kind, page)
            assert (project.judge.segment(), project.judge.asked()) == (before, asked), (kind, page)
            project.mend()

    assert project.run(TAPLYTICS).success
    assert project.judge.segment() == project.judge.payload(TAPLYTICS, window)


def test_f06_a_reading_that_was_torn_once_is_made_up_for_by_another(project: Faulty) -> None:
    for back, kind in enumerate(TORN, start=1):
        project.fault("mixpanel", match="/api/query/engage", contains="page=1", kind=kind)
        with clock.shifted(to_the_window_before(len(TORN) - back)):
            assert project.run(APPTIMIZE).success, kind
            window = project.window(APPTIMIZE)
            assert project.standins.standins.mixpanel.budget.used() == 2, kind  # of that hour

        assert project.judge.group() == project.judge.payload(APPTIMIZE, window), kind
        project.mend()
        project.churn(0.1)

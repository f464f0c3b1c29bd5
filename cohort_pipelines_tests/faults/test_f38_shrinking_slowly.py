"""F38: an audience that loses a fifth in every window is held before it has lost half of what it was within the day."""

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines_tests.faults.projects import BETA_USERS, Faulty, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

WINDOWS = 12  # of two hours: a day


@pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])
def test_f38_an_audience_that_shrinks_by_a_fifth_in_every_window_is_held_within_the_day(
    project: Faulty, name: str
) -> None:
    with clock.shifted(to_the_window_before(WINDOWS)):
        assert project.run(name).success
    full, mixpanel = project.held(name), project.standins.standins.mixpanel.project
    members = mixpanel.members(mixpanel.cohorts[BETA_USERS], only_with_profile=True)
    left = [mixpanel.distinct_id(number) for number in members]
    payloads, outcomes = [], []
    for back in reversed(range(WINDOWS)):
        gone, left = left[: len(left) // 5], left[len(left) // 5 :]
        project.leave(gone)
        with clock.shifted(to_the_window_before(back)):
            outcomes.append(said(project.run(name)))
            payloads.append(project.judge.payload(name, project.window(name)))

    delivered = outcomes.index(next(outcome for outcome in outcomes if outcome))
    assert delivered in {2, 3}  # 0.8 ** 3 is 0.51, give or take who has a partner id
    assert all("Held by the gate max_shrink" in outcome for outcome in outcomes[delivered:])
    assert len(payloads[-1]) < len(full) / 5
    assert project.held(name) == payloads[delivered - 1]
    assert len(project.held(name)) >= len(full) / 2

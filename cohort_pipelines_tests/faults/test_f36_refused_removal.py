"""F36: a removal is refused; that is red whatever the tolerance for additions, and it is tried in every window."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines import clock
from cohort_pipelines_tests.faults.projects import (
    MESSAGES,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    opened,
    said,
    sync,
    to_the_window_before,
)

FLAGS, GROUP = "beta_flags", "beta_group"
DECLARED = {
    "mixpanel": MIXPANEL,
    "taplytics": TAPLYTICS,
    "apptimize": MESSAGES,
    FLAGS: sync("taplytics", "Beta", more=", max_refused: 5"),
    GROUP: sync("apptimize", "Beta", "recurring", more=", max_refused: 5"),
}


@pytest.fixture
def tolerant(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    with opened(tmp_path, DECLARED) as project:
        yield project


@pytest.mark.parametrize(("name", "partner", "prefix"), [(FLAGS, "taplytics", ""), (GROUP, "apptimize", "i_")])
def test_f36_a_refused_removal_is_red_within_the_tolerance_and_tried_again(
    tolerant: Faulty, name: str, partner: str, prefix: str
) -> None:
    people = {f"leaver-{number}": {"plan": "beta", "$apptimize_user_id": f"i_leaver-{number}"} for number in range(9)}
    tolerant.profiles(people)
    with clock.shifted(to_the_window_before(4)):
        assert tolerant.run(name).success
    stuck, bad_joiner = f"{prefix}leaver-4", f"{prefix}joiner-0"
    tolerant.leave(people)
    tolerant.churn(0.02)
    tolerant.behave(partner, refuse=[stuck])

    for back in (3, 2):  # in each window anew, though nothing has changed
        with clock.shifted(to_the_window_before(back)):
            result = tolerant.run(name)
            wanted = tolerant.judge.payload(name, tolerant.window(name))
        assert "refused 0 additions and 1 removals" in said(result)
        assert tolerant.held(name) == wanted | {stuck}

    tolerant.profiles({"joiner-0": {"plan": "beta", "$apptimize_user_id": "i_joiner-0"}})
    tolerant.behave(partner, refuse=[bad_joiner])
    with clock.shifted(to_the_window_before()):
        assert tolerant.run(name).success  # a refused addition is tolerated
    assert tolerant.held(name) == wanted

    tolerant.behave(partner, refuse=[])
    assert tolerant.run(name).success
    assert tolerant.held(name) == tolerant.judge.payload(name, tolerant.window(name)) == wanted | {bad_joiner}

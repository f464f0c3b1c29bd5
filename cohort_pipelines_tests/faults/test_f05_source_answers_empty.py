"""F5: the source says that nobody is left, or hardly anybody, and that is held until somebody says that it is so."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines import history
from cohort_pipelines.core import clock
from cohort_pipelines.ledger import approvals
from cohort_pipelines_tests.faults.projects import (
    LAPSED_USERS,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    opened,
    said,
    sync,
    to_the_window_before,
)
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS as BETA_USERS

LAPSED = "lapsed_users"


@pytest.fixture
def lapsed(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    """Return a project that delivers a cohort of profiles alone, which can really be empty."""
    declared = {"mixpanel": MIXPANEL, "taplytics": TAPLYTICS, LAPSED: sync("taplytics", "Lapsed", cohort=LAPSED_USERS)}
    with opened(tmp_path, declared) as project:
        yield project


def test_f05_an_empty_cohort_is_held_until_it_is_approved_by_name(lapsed: Faulty) -> None:
    with clock.shifted(to_the_window_before()):
        assert lapsed.run(LAPSED).success
    before, asked = lapsed.judge.segment("Lapsed"), lapsed.judge.asked()
    lapsed.profiles({user: {"lapsed": False} for user in before})
    window = lapsed.window(LAPSED)

    result = lapsed.run(LAPSED)

    assert lapsed.judge.payload(LAPSED, window) == set()
    assert "Held by the gate" in said(result)
    assert (lapsed.judge.segment("Lapsed"), lapsed.judge.asked()) == (before, asked)
    assert len(before) > 5

    approvals.approve(lapsed.ledger, LAPSED, who="ada", why="the campaign is over")
    assert lapsed.run(LAPSED, stages=("destination_upload",)).success
    assert lapsed.judge.segment("Lapsed") == set()
    receipt = history.receipts(LAPSED).iloc[-1]
    assert str(receipt["approved"]).startswith("ada at ")
    assert str(receipt["approved"]).endswith(": the campaign is over")


@pytest.mark.parametrize("name", [BETA_USERS, APPTIMIZE])
def test_f05_a_cohort_that_lost_nine_in_ten_is_held_and_the_override_is_bound_to_it(project: Faulty, name: str) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert project.run(name).success
    before, asked = project.held(name), project.judge.asked()
    snapshot = sorted(user for user, _ in members(project, name))
    project.leave(snapshot[: len(snapshot) * 9 // 10])

    with clock.shifted(to_the_window_before()):
        assert "Held by the gate" in said(project.run(name))
        assert "Held by the gate" in said(project.run(name, stages=("destination_upload",)))
        assert (project.held(name), project.judge.asked()) == (before, asked)
        approvals.approve(project.ledger, name, who="ada", why="the beta shrinks")
    project.leave(snapshot[len(snapshot) * 9 // 10 :][:5])  # so that it is another payload

    assert "Held by the gate" in said(project.run(name))
    assert (project.held(name), project.judge.asked()) == (before, asked)

    approvals.approve(project.ledger, name, who="ada", why="and this one too")
    assert project.run(name, stages=("destination_upload",)).success
    assert project.held(name) == project.judge.payload(name, project.window(name))
    assert len(project.held(name)) < len(before) / 5
    assert str(history.receipts(name).iloc[-1]["approved"]).endswith(": and this one too")


def members(project: Faulty, name: str) -> list[tuple[str, bool]]:
    """Return distinct_id and whether there is a profile of the members that the newest snapshot has."""
    table = history.read(name, "cohort_snapshot", root=project.judge.data / "history")
    found = zip(table["distinct_id"], table["has_profile"], strict=True)
    return [(str(user), True) for user, has_profile in found if has_profile]

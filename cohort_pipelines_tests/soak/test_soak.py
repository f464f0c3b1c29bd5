from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cohort_pipelines.core.errors import PartnerRequestRejected
from cohort_pipelines.delivery import pace
from cohort_pipelines.delivery.gates import Facts, Gates
from cohort_pipelines.ledger.approvals import Verdict
from cohort_pipelines.membership import state
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import users
from cohort_pipelines_tests.soak.__main__ import broken_by, first_broken, run_batch, shortest
from cohort_pipelines_tests.soak.bench import bench
from cohort_pipelines_tests.soak.model import Tally
from cohort_pipelines_tests.soak.plain import plain_difference
from cohort_pipelines_tests.soak.promises import Promises
from cohort_pipelines_tests.soak.story import IDS, STRANGERS, Numbers, Step, Story, shrunk, story_of

STORIES = 60


def test_a_story_is_the_same_for_the_same_seed_and_its_text_makes_it() -> None:
    story = story_of(4711)
    assert story == story_of(4711) != story_of(4712)
    assert eval(repr(story), {"Story": Story, "Step": Step}) == story  # noqa: S307  what somebody pastes


def test_of_a_story_that_fails_the_least_that_has_to_happen_is_told() -> None:
    def fails(story: Story) -> bool:
        return any(step.gated and 3 in step.audience for step in story.steps)

    failing = next(story for seed in range(99) if fails(story := story_of(seed)))
    least = shrunk(failing, fails)
    assert repr(least).startswith("Story(steps=(Step(")
    assert repr(least).endswith("audience=frozenset({3}), gated=True),))")


@pytest.mark.parametrize("mishap", [{"amid": "paused"}, {"amid": "out of time"}, {"dies_at": 26}])
def test_what_is_edited_during_a_first_fill_that_is_cut_short_is_reconciled_in_time(mishap: Mapping[str, Any]) -> None:
    first = Step(audience=Numbers(range(5)), edited=Numbers(range(5)), **mishap)
    with bench() as place:
        assert not broken_by(Story((first, Step("pause", first.audience)), reconciles=True), Tally(), place)


def test_a_takeover_that_a_pause_prevents_leaves_what_was_refused_before_it() -> None:
    first = Step(audience=Numbers({5}), amid="overtaken")
    restored = Step("restore and pause", back=2, rejected=Numbers({3}), amid="overtaken", amid_request=3)
    with bench() as place:
        assert not broken_by(Story((first, Step(), restored), rejection_tolerance=2), Tally(), place)


@pytest.mark.slow
def test_whatever_happens_green_is_exact() -> None:
    tally = run_batch(1, STORIES)
    assert not tally.violations, shortest(*tally.violations[0])
    assert min(tally.crashes, tally.held, tally.approved, tally.restores, tally.overtaken, tally.deleted) > 0
    assert tally.strangers > 0


@pytest.mark.slow
def test_the_plain_difference_against_the_last_finished_overwrite_is_found_to_be_wrong() -> None:
    with plain_difference():
        assert first_broken()[1] == "green, and not the payload"


@pytest.mark.slow
def test_certainty_that_comes_too_early_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "SETTLES_AFTER", timedelta(0))
    assert first_broken()[1] == "settled, and yet a request may still land"


@pytest.mark.slow
def test_an_edit_that_is_never_reconciled_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "due", lambda *_, **__: None)
    assert first_broken()[1] == "green, and not the payload"


@pytest.mark.slow
def test_a_stranger_that_is_taken_for_ours_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.write_text("\n".join(["id", *users(*range(IDS, IDS + STRANGERS))]), encoding="utf-8")
    monkeypatch.setattr(Promises, "terms", Terms(initial_members=str(ours)))
    assert first_broken()[1] == "a stranger was taken for ours"


@pytest.mark.slow
def test_a_deleted_target_that_nobody_makes_anew_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartnerRequestRejected, "may_miss_the_target", False)
    assert first_broken()[1] == "a quiet window failed: DeliveryStopped"


@pytest.mark.slow
def test_a_gate_that_holds_nobody_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def let_all_pass(_: Gates, facts: Facts) -> list[Verdict]:
        assert facts.users >= 0
        return []

    monkeypatch.setattr(Gates, "judge", let_all_pass)
    assert first_broken()[1] == "no gate held it"

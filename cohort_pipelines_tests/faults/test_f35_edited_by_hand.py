"""F35: somebody edits the target, or Mixpanel's own sync still runs; it is undone in `reconcile_within`, and told."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.orchestration import connected
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines_tests.faults.projects import (
    BETA_USERS,
    MESSAGES,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    adding,
    opened,
    said,
    sync,
    to_the_window_before,
)

FLAGS, GROUP = "beta_flags", "beta_group"
DECLARED = {
    "mixpanel": MIXPANEL,
    "taplytics": adding(TAPLYTICS, "reconcile_within: 1"),
    "apptimize": adding(MESSAGES, "reconcile_within: 1"),
    FLAGS: sync("taplytics", "Beta"),
    GROUP: sync("apptimize", "Beta", "recurring"),
}
PARTNER = {FLAGS: "taplytics", GROUP: "apptimize"}
DAY = 12  # windows of two hours
EDITED = 40


@pytest.fixture
def beta(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    with opened(tmp_path, DECLARED) as project:
        yield project


@pytest.mark.parametrize("name", PARTNER)
def test_f35_what_somebody_edited_by_hand_is_reconciled_within_the_promised_time(beta: Faulty, name: str) -> None:
    mixpanel = beta.standins.standins.mixpanel.project
    members = mixpanel.members(mixpanel.cohorts[BETA_USERS], only_with_profile=True)
    with clock.shifted(to_the_window_before(DAY + 2)):
        assert beta.run(name).success
    everybody = beta.held(name)
    beta.leave(mixpanel.distinct_id(number) for number in members[: 2 * EDITED])
    with clock.shifted(to_the_window_before(DAY + 1)):
        assert beta.run(name).success
        wanted = beta.judge.payload(name, beta.window(name))
    gone = sorted(everybody - wanted)
    assert beta.held(name) == wanted
    assert len(gone) > EDITED
    beta.edit(PARTNER[name], "Beta", add=gone[:EDITED], remove=sorted(wanted)[:EDITED])

    wrong, asked = [], beta.judge.asked().total()
    for back in reversed(range(DAY + 1)):
        wrong.append(len(beta.held(name) ^ wanted))
        with clock.shifted(to_the_window_before(back)):
            assert beta.run(name).success

    assert wrong[0] == 2 * EDITED
    assert wrong == sorted(wrong, reverse=True)
    assert 0 < wrong[DAY // 2] < 2 * EDITED  # slice by slice, and not all at once
    assert beta.held(name) == wanted
    assert beta.judge.asked().total() - asked < 1.5 * len(everybody)


def test_f35_a_group_that_somebody_deletes_is_made_anew_with_everybody(beta: Faulty) -> None:
    with clock.shifted(to_the_window_before(2)):
        assert beta.run(GROUP).success
    beta.churn(0.1)
    deleted = httpx.delete(beta.standins.apptimize_url.replace("/cohorts", "/standin/groups"), params={"name": "Beta"})
    assert deleted.raise_for_status().json()["users"] > EDITED

    with clock.shifted(to_the_window_before(1)):
        told = said(beta.run(GROUP))
    assert beta.run(GROUP).success

    assert "does not know the target (404): it was deleted there" in told
    assert "Nobody is in the target until the next run, which makes it anew" in told
    assert beta.held(GROUP) == beta.judge.payload(GROUP, beta.window(GROUP))


def test_f35_check_warns_of_a_sync_that_mixpanel_still_runs(beta: Faulty, tmp_path: Path) -> None:
    [package] = tmp_path.glob("faulty_*")
    tree = component_tree(package)
    for running in (2, 0):
        beta.standins.standins.mixpanel.active_integrations = running

        said = {each.name: each for each in connected.check_all(tree, resolved_syncs(tree))}

        for name in (FLAGS, GROUP):
            assert said[name].connected, name
            warned = "Mixpanel still runs 2 syncs of its own for this cohort; turn them off" in said[name].text
            assert warned == bool(running), name

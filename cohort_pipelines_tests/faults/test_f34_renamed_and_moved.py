"""F34: names, keys and declarations change; nobody loses members by it, and no target is left unseen."""

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.orchestration import connected
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines_tests.faults.projects import (
    BETA_USERS,
    LAPSED_USERS,
    MESSAGES,
    MIXPANEL,
    TAPLYTICS,
    Faulty,
    opened,
    redeclared,
    said,
    sync,
    to_the_window_before,
)
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS as SEGMENT
from cohort_pipelines_tests.orchestration.operating import operate

BETA, RENAMED = "beta_users", "testers"
CONNECTIONS = {"mixpanel": MIXPANEL, "taplytics": TAPLYTICS}
HERE = {**CONNECTIONS, BETA: sync("taplytics", "Beta")}

Declare = Callable[[Mapping[str, str]], Faulty]


@pytest.fixture
def beta(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    """Return a project whose one sync has filled its field in the window before."""
    with opened(tmp_path, HERE) as project:
        with clock.shifted(to_the_window_before()):
            assert project.run(BETA).success
        project.churn(0.1)
        yield project


@pytest.fixture
def declare(beta: Faulty, tmp_path: Path) -> Declare:
    return lambda declared: redeclared(beta, tmp_path, declared)


def fields(project: Faulty) -> dict[str, int]:
    """Return every field that any user has at Taplytics, with how many members it has."""
    state = httpx.get(f"{project.standins.taplytics_url}/standin/state").raise_for_status().json()
    found: dict[str, int] = state["fields"]
    return found


def orphans(tmp_path: Path) -> dict[str, str]:
    """Return what `check` says of targets, by name, of the declarations that were written last."""
    package = max(tmp_path.glob("faulty_*"), key=lambda folder: folder.stat().st_mtime_ns)
    tree = component_tree(package)
    found = connected.check_all(tree, resolved_syncs(tree))
    return {each.name: each.text for each in found if each.warning}


@pytest.mark.parametrize("name", [SEGMENT, APPTIMIZE])
def test_f34_a_cohort_that_is_renamed_in_mixpanel_keeps_its_target(project: Faulty, name: str) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(name).success
    before, asked = project.held(name), project.judge.asked().total()
    joined, left = project.standins.standins.mixpanel.project.churn(0.05)
    project.standins.standins.mixpanel.project.cohorts[BETA_USERS].name = "Beta Users (2027)"

    assert project.run(name).success

    assert project.held(name) == project.judge.payload(name, project.window(name))
    assert len(project.held(name) & before) >= len(before) - left
    assert project.judge.asked().total() - asked < joined + left + 10
    assert set(fields(project)) <= {"Beta Users"}
    assert set(project.standins.standins.apptimize.groups) <= {"Mixpanel: Beta Users"}


def test_f34_keys_that_are_rotated_move_nothing(project: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    with clock.shifted(to_the_window_before()):
        assert project.run(SEGMENT).success
        assert project.run(APPTIMIZE).success
    asked = project.judge.asked().total()
    services = project.standins.standins
    services.taplytics.key = services.apptimize.token = services.mixpanel.secret = "rotated"
    for variable in ("TAPLYTICS_API_KEY", "APPTIMIZE_TOKEN", "MIXPANEL_SECRET"):
        monkeypatch.setenv(variable, "rotated")

    assert project.run(SEGMENT).success
    assert project.run(APPTIMIZE).success

    assert project.judge.segment() == project.judge.payload(SEGMENT, project.window(SEGMENT))
    assert project.judge.group() == project.judge.payload(APPTIMIZE, project.window(APPTIMIZE))
    assert project.judge.asked().total() - asked < 20  # a slice to reconcile each, and nobody who was there already


def test_f34_a_sync_that_is_renamed_sends_nothing_until_it_is_given_its_target(
    beta: Faulty, declare: Declare, tmp_path: Path
) -> None:
    before, asked = beta.judge.segment("Beta"), beta.judge.asked()
    renamed = declare({**CONNECTIONS, RENAMED: sync("taplytics", "Beta")})

    refused = said(renamed.run(RENAMED))

    assert f"The target 'Beta' belongs to the sync '{BETA}'" in refused
    assert "cohort-pipelines retarget" in refused
    assert (beta.judge.segment("Beta"), beta.judge.asked()) == (before, asked)
    assert orphans(tmp_path)["target 'Beta'"].endswith(f"takes it over with: cohort-pipelines retarget {RENAMED}")

    asked = beta.judge.asked()  # the check knocks
    assert operate(renamed, "retarget", sync=RENAMED).success
    assert (beta.judge.segment("Beta"), beta.judge.asked()) == (before, asked)
    assert renamed.run(RENAMED).success
    wanted = beta.judge.payload(RENAMED, renamed.window(RENAMED))
    assert beta.judge.segment("Beta") == wanted != before
    assert (beta.judge.asked() - asked).total() < len(before ^ wanted) + 10
    assert fields(beta) == {"Beta": len(wanted)}
    assert orphans(tmp_path) == {}


def test_f34_a_sync_that_is_pointed_elsewhere_leaves_nobody_behind(
    beta: Faulty, declare: Declare, tmp_path: Path
) -> None:
    before = beta.judge.segment("Beta")
    moved = declare({**CONNECTIONS, BETA: sync("taplytics", "Gamma")})

    assert "now declared for 'Gamma'" in said(moved.run(BETA))
    assert fields(beta) == {"Beta": len(before)}
    assert orphans(tmp_path)["target 'Beta'"].endswith(f"declared for another: cohort-pipelines retarget {BETA}")

    assert operate(moved, "retarget", sync=BETA).success
    assert moved.run(BETA, stages=("destination_upload",)).success

    assert beta.judge.segment("Beta") == set()
    assert beta.judge.segment("Gamma") == beta.judge.payload(BETA, moved.window(BETA))
    assert orphans(tmp_path) == {}


def test_f34_a_sync_that_is_deleted_is_seen_until_its_target_is_empty(
    beta: Faulty, declare: Declare, tmp_path: Path
) -> None:
    before = beta.judge.segment("Beta")
    left = declare(CONNECTIONS)

    for _ in range(2):  # looking at it changes nothing
        told = orphans(tmp_path)["target 'Beta'"]
        assert told.startswith(f"up to {len(before)} users in taplytics at 127.0.0.1")
        assert told.endswith(f"they stay there until: cohort-pipelines retire {BETA}")
    assert beta.judge.segment("Beta") == before

    assert operate(left, "retire", sync=BETA).success

    assert beta.judge.segment("Beta") == set()
    assert orphans(tmp_path) == {}


@pytest.mark.parametrize("known_by", ["cohort_id", "name"])
def test_f34_another_cohort_for_a_target_leaves_nobody_behind(
    tmp_path: Path,
    at_an_opening: None,  # noqa: ARG001  the clock is set first
    known_by: str,
) -> None:
    """Whether the receiver knows its groups by the cohort's id or by its name."""
    connections = {"mixpanel": MIXPANEL, "apptimize": MESSAGES}

    def groups(project: Faulty) -> dict[str, set[str]]:
        return {name: set(each.ids) for name, each in project.standins.standins.apptimize.groups.items()}

    with opened(tmp_path, {**connections, BETA: sync("apptimize", "Beta", "recurring")}) as project:
        project.behave("apptimize", known_by=known_by)
        with clock.shifted(to_the_window_before()):
            assert project.run(BETA).success
        before, asked = groups(project), project.judge.asked()
        other = {**connections, BETA: sync("apptimize", "Beta", "recurring", cohort=LAPSED_USERS)}
        changed = redeclared(project, tmp_path, other)

        told = said(changed.run(BETA))
        assert f"now declared for the cohort {LAPSED_USERS}" in told
        assert (groups(project), project.judge.asked()) == (before, asked)
        warned = f"its owner {BETA} is declared for another cohort: cohort-pipelines retarget {BETA}"
        assert orphans(tmp_path)["target 'Beta'"].endswith(warned)

        assert operate(changed, "retarget", sync=BETA).success
        assert not any(groups(project).values())
        ahead = dg.partition_loading_context(effective_dt=datetime.now(UTC) + timedelta(hours=2))
        with clock.shifted(to_the_window_before(-1)), ahead:
            assert changed.run(BETA).success
            wanted = project.judge.payload(BETA, changed.window(BETA))

        held = {name: ids for name, ids in groups(project).items() if ids}
        assert held == {str(LAPSED_USERS) if known_by == "cohort_id" else "Beta": wanted}
        assert orphans(tmp_path) == {}


def test_f34_two_syncs_that_swap_their_targets_end_with_the_others(tmp_path: Path, at_an_opening: None) -> None:  # noqa: ARG001
    one, other = "one", "other"

    def declared(first: str, second: str) -> dict[str, str]:
        return {**CONNECTIONS, one: sync("taplytics", first), other: sync("taplytics", second)}

    with opened(tmp_path, declared("Beta", "Gamma")) as project:
        with clock.shifted(to_the_window_before()):
            assert project.run(one).success
            assert project.run(other).success
        project.churn(0.1)
        swapped = redeclared(project, tmp_path, declared("Gamma", "Beta"))
        kept = project.judge.segment("Gamma")

        assert operate(swapped, "retarget", sync=one).success
        assert (project.judge.segment("Beta"), project.judge.segment("Gamma")) == (set(), kept)
        assert operate(swapped, "retarget", sync=other).success

        for name, target in ((one, "Gamma"), (other, "Beta")):
            assert swapped.run(name).success
            assert project.judge.segment(target) == project.judge.payload(name, swapped.window(name))
        assert set(fields(project)) == {"Beta", "Gamma"}

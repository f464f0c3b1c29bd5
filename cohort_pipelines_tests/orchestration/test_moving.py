"""Targets that are moved, swapped or given up while declarations are not what they were."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins import apptimize
from cohort_pipelines.devtools.standins.groups import CohortMessage, read_message
from cohort_pipelines.ledger import pauses, targets
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
    without_waiting,
)
from cohort_pipelines_tests.orchestration.operating import operate

pytestmark = pytest.mark.slow

FLAGS, GROUP = "flags", "groups"
CONNECTIONS = {"mixpanel": MIXPANEL, "taplytics": TAPLYTICS, "apptimize": MESSAGES}
DECLARED = {
    **CONNECTIONS,
    FLAGS: sync("taplytics", "Beta"),
    GROUP: sync("apptimize", "Group", "recurring"),
}


@pytest.fixture
def filled(tmp_path: Path, _opening: None) -> Iterator[Faulty]:
    """Return a project with a field and a group that were filled in the window before."""
    with opened(tmp_path, DECLARED) as project:
        with clock.shifted(to_the_window_before()):
            assert project.run(FLAGS).success
            assert project.run(GROUP).success
        yield project


def without(name: str) -> dict[str, str]:
    return {each: text for each, text in DECLARED.items() if each != name}


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return a list to which each message to Apptimize adds the project and the cohort in whose name it is sent."""
    names: list[tuple[str, str]] = []

    def read(body: bytes) -> CohortMessage:
        said_by = json.loads(body)["parameters"]
        names.append((said_by["mixpanel_project_id"], said_by["mixpanel_cohort_id"]))
        return read_message(body)

    monkeypatch.setattr(apptimize, "read_message", read)
    return names


def retired(project: Faulty) -> set[str]:
    return {each.target.name for each in targets.all_targets(project.ledger) if each.retired}


def test_who_is_not_declared_any_more_leaves_in_the_name_of_the_cohort_that_was_sent(
    filled: Faulty, tmp_path: Path, named: list[tuple[str, str]]
) -> None:
    left = redeclared(filled, tmp_path, without(GROUP))

    assert operate(left, "retire", sync=GROUP).success

    assert filled.judge.group("Group") == set()
    assert set(named) == {("2529987", str(BETA_USERS))}


def test_the_connection_is_checked_in_the_name_of_the_cohort_that_is_sent(
    filled: Faulty, tmp_path: Path, named: list[tuple[str, str]]
) -> None:
    assert filled.judge.group("Group")
    tree = component_tree(next(tmp_path.glob("faulty_*")))

    assert all(each.connected for each in connected.check_all(tree, resolved_syncs(tree)))

    assert set(named) == {("2529987", str(BETA_USERS))}


def test_an_old_target_is_emptied_in_the_name_of_the_old_cohort(
    filled: Faulty, tmp_path: Path, named: list[tuple[str, str]]
) -> None:
    other = sync("apptimize", "Elsewhere", "recurring", cohort=LAPSED_USERS)
    moved = redeclared(filled, tmp_path, DECLARED | {GROUP: other})

    assert operate(moved, "retarget", sync=GROUP).success

    assert filled.judge.group("Group") == set()
    assert set(named) == {("2529987", str(BETA_USERS))}


@pytest.mark.parametrize(
    ("url", "says"), [("no url", "the URL must start with"), ("https://a\tb", "APPTIMIZE_URL holds a line break")]
)
def test_another_destination_s_malformed_url_holds_up_nothing(
    filled: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, says: str
) -> None:
    monkeypatch.setenv("APPTIMIZE_URL", url)
    left = redeclared(filled, tmp_path, without(FLAGS))
    package = max(tmp_path.glob("faulty_*"), key=lambda folder: folder.stat().st_mtime_ns)
    tree = component_tree(package)

    told = {each.name: each for each in connected.check_all(tree, resolved_syncs(tree))}

    assert told["target 'Beta'"].text.endswith(f"they stay there until: cohort-pipelines retire {FLAGS}")
    assert not told["apptimize"].connected
    assert "target 'Group'" not in told
    assert operate(left, "retire", sync=FLAGS).success
    assert filled.judge.segment("Beta") == set()
    assert says in said(operate(left, "retire", sync=GROUP))


def test_what_cannot_be_emptied_is_not_paused_either(
    filled: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = redeclared(filled, tmp_path, DECLARED)
    monkeypatch.setenv("TAPLYTICS_URL", os.environ["TAPLYTICS_URL"].replace("127.0.0.1", "localhost"))

    sentence = said(operate(moved, "retire", sync=FLAGS))

    assert "no destination that can be loaded reaches 'Beta'" in sentence
    assert "is paused" not in sentence
    assert pauses.paused(filled.ledger, FLAGS) is None


def test_a_retirement_that_fails_says_that_the_sync_is_paused(filled: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)
    filled.fault("taplytics", kind="status", status=503, times=None)

    sentence = said(operate(filled, "retire", sync=FLAGS))

    assert sentence.startswith("The delivery stopped after 0 of")
    assert sentence.endswith(f"{FLAGS} is paused; cohort-pipelines resume {FLAGS} lets it deliver again.")
    assert pauses.paused(filled.ledger, FLAGS) is not None


def test_a_restore_that_pauses_and_fails_says_that_the_sync_is_paused(
    filled: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled.churn(0.2)
    assert filled.run(FLAGS).success
    earlier = filled.window(FLAGS, back=1)
    without_waiting(monkeypatch)
    filled.fault("taplytics", kind="status", status=503, times=None)

    failed = said(operate(filled, "restore", sync=FLAGS, window=earlier))
    assert "is paused" not in failed
    failed = said(operate(filled, "restore", sync=FLAGS, window="nobody's", pause=True))
    assert "is paused" not in failed

    failed = said(operate(filled, "restore", sync=FLAGS, window=earlier, pause=True))

    assert failed.endswith(f"{FLAGS} is paused; cohort-pipelines resume {FLAGS} lets it deliver again.")


def test_a_target_whose_host_has_moved_is_given_up_as_it_is_by_name_only(
    filled: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = filled.judge.segment("Beta")
    monkeypatch.setenv("TAPLYTICS_URL", os.environ["TAPLYTICS_URL"].replace("127.0.0.1", "localhost"))
    asked = filled.judge.asked()

    assert "give it up as it is with --forget" in said(operate(filled, "retarget", sync=FLAGS))
    assert retired(filled) == set()
    assert operate(filled, "retarget", sync=FLAGS, forget=True).success

    assert (filled.judge.segment("Beta"), filled.judge.asked()) == (before, asked)
    assert retired(filled) == {"Beta"}
    assert filled.run(FLAGS).success


def test_two_that_swap_their_targets_wait_for_neither(filled: Faulty, tmp_path: Path) -> None:
    both = DECLARED | {"second": sync("taplytics", "Gamma")}
    two = redeclared(filled, tmp_path, both)
    with clock.shifted(to_the_window_before()):
        assert two.run("second").success
    swapped = redeclared(two, tmp_path, both | {FLAGS: sync("taplytics", "Gamma"), "second": sync("taplytics", "Beta")})

    for name in (FLAGS, "second"):
        assert operate(swapped, "retarget", sync=name).success

    filled.churn(0.1)
    for name, target in ((FLAGS, "Gamma"), ("second", "Beta")):
        assert swapped.run(name).success
        assert filled.judge.segment(target) == filled.judge.payload(name, swapped.window(name)) != set()
    assert {(each.target.name, each.owner) for each in targets.all_targets(two.ledger)} == {
        ("Beta", "second"), ("Gamma", FLAGS), ("Group", GROUP),
    }  # fmt: skip

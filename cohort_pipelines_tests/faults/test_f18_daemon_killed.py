"""F18: a run is cancelled in the UI, or the daemon is killed: not green, and the cancel comes between two batches."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines_tests.live import Live, serving, until
from cohort_pipelines_tests.live_project import TAPLYTICS, LiveProject, new_project, roomy
from cohort_pipelines_tests.test_daemon import ended_run, launch_as_the_ui_does, stages

MEMBERS = "/api/query/engage"
USERS = "/v2/users/"
_CANCEL = """mutation($run: String!) { terminateRun(runId: $run, terminatePolicy: SAFE_TERMINATE) { __typename } }"""
_MATERIALIZED = """query($key: AssetKeyInput!) { assetNodeOrError(assetKey: $key) { ... on AssetNode {
    assetMaterializations { partition } } } }"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LiveProject]:
    with new_project(tmp_path / "live", members=3_000) as project:
        yield project


def slowly(project: LiveProject) -> None:
    fault = {"kind": "delay", "match": USERS, "seconds": 0.4, "times": None}
    httpx.post(f"{project.standins.taplytics_url}/standin/faults", json=fault).raise_for_status()


def quickly(project: LiveProject) -> None:
    httpx.delete(f"{project.standins.taplytics_url}/standin/faults").raise_for_status()


def sent(project: LiveProject) -> Counter[str]:
    return Counter(user for user, _ in httpx.get(f"{project.standins.taplytics_url}/standin/writes").json())


def green_windows(dagster: Live) -> set[str]:
    node = dagster.ask(_MATERIALIZED, key={"path": [TAPLYTICS, "destination_upload"]})
    return {each["partition"] for each in node["assetMaterializations"]}


def begin(project: LiveProject, dagster: Live) -> tuple[str, str]:
    """Launch the sync against a slow partner and return the run and its window, once some users are there."""
    until(lambda: roomy(Cadence.TWO_HOURS), "a window with time left")
    slowly(project)
    window = Cadence.TWO_HOURS.window_at(clock.now()).key
    run_id = launch_as_the_ui_does(dagster, TAPLYTICS, window)
    until(lambda: len(project.segment()) > 300, "the first chunk")
    return run_id, window


def test_f18_a_run_cancelled_in_the_ui_ends_between_two_chunks_and_the_daemons_death_is_survived(
    project: LiveProject,
) -> None:
    with serving(project.folder, project.environment) as dagster:
        cancelled, window = begin(project, dagster)
        assert dagster.ask(_CANCEL, run=cancelled)["__typename"] == "TerminateRunSuccess"

        run = ended_run(dagster, cancelled)

        assert run["status"] == "CANCELED"
        assert "destination_upload" not in stages(run)
        assert green_windows(dagster) == set()
        [row] = project.ledger.windows(TAPLYTICS)
        assert row.state == "deferred"
        read = project.traffic()[MEMBERS]
        before = sent(project)
        assert 300 < before.total() < 2_500

        again, window = begin_again(project, dagster)
        until(lambda: len(sent(project)) > len(before), "a chunk of the second run")
        dagster.kill_everything()

    assert max(sent(project).values()) == 1  # nothing was under way when the first run was cancelled
    quickly(project)
    with serving(project.folder, project.environment) as dagster:
        assert ended_run(dagster, again)["status"] == "FAILURE"
        assert green_windows(dagster) == set()
        third = ended_run(dagster, launch_as_the_ui_does(dagster, TAPLYTICS, window))
        assert third["status"] == "SUCCESS"
        assert green_windows(dagster) == {window}
    assert project.segment() == project.payload(TAPLYTICS, window)
    assert project.traffic()[MEMBERS] == read > 0  # a sealed snapshot is kept, whatever becomes of the runs
    twice = [user for user, times in sent(project).items() if times > 1]
    assert len(twice) <= 2 * 250  # what was under way: two chunks


def begin_again(project: LiveProject, dagster: Live) -> tuple[str, str]:
    window = Cadence.TWO_HOURS.window_at(clock.now()).key
    assert project.ledger.windows(TAPLYTICS)[0].key == window
    return launch_as_the_ui_does(dagster, TAPLYTICS, window), window

"""Dagster's own daemon, webserver and code server over a project: schedules, backfills, launches, sudden death."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines_tests.live import Live, serving, until
from cohort_pipelines_tests.live_project import (
    APPTIMIZE,
    LAUNCH_LIST,
    MODULE,
    TAPLYTICS,
    LiveProject,
    new_project,
    roomy,
)

pytestmark = pytest.mark.slow

REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": MODULE}
EVERY_MINUTE = REPOSITORY | {"scheduleName": "every_minute"}
STAGES = ("cohort_snapshot", "identified_users", "partner_payload", "destination_upload")
ENGAGE = "/api/query/engage"
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveProject]:
    with new_project(tmp_path_factory.mktemp("live")) as project:
        yield project


@pytest.fixture(scope="module")
def dagster(project: LiveProject) -> Iterator[Live]:
    with serving(project.folder, project.environment) as dagster:
        yield dagster


@pytest.fixture(scope="module")
def sealed(project: LiveProject) -> list[str]:
    """Past windows with a delivered snapshot each, of which the last is the newest."""
    sealed = project.deliver_windows(TAPLYTICS, {3: 0.05, 2: 0.05, 1: 0.05})
    assert project.segment() == project.payload(TAPLYTICS, sealed[-1])
    return sealed


def ended_run(dagster: Live, run_id: str) -> dict[str, Any]:
    query = """query($run: ID!) { runOrError(runId: $run) { ... on Run {
        runId status endTime tags { key value } assetMaterializations { assetKey { path } } } } }"""

    def ended() -> dict[str, Any] | None:
        run: dict[str, Any] = dagster.ask(query, run=run_id)
        return run if run["status"] in ENDED else None

    return until(ended, f"the end of run {run_id}")


def tag(run: dict[str, Any], key: str) -> str:
    return next(str(each["value"]) for each in run["tags"] if each["key"] == key)


def switch_on_every_minute(dagster: Live) -> None:
    query = """mutation($selector: ScheduleSelector!) { startSchedule(scheduleSelector: $selector) {
        ... on ScheduleStateResult { scheduleState { status } } } }"""
    assert dagster.ask(query, selector=EVERY_MINUTE)["scheduleState"]["status"] == "RUNNING"


def switch_off_every_minute(dagster: Live) -> None:
    found = """query($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) {
        ... on Schedule { id } } }"""
    query = """mutation($id: String!) { stopRunningSchedule(id: $id) {
        ... on ScheduleStateResult { scheduleState { status } } } }"""
    schedule = dagster.ask(found, selector=EVERY_MINUTE)["id"]
    assert dagster.ask(query, id=schedule)["scheduleState"]["status"] == "STOPPED"


def newest_tick_with_a_run(dagster: Live) -> dict[str, Any] | None:
    query = """query($selector: ScheduleSelector!) { scheduleOrError(scheduleSelector: $selector) { ... on Schedule {
        scheduleState { ticks(limit: 5) { timestamp status runIds skipReason error { message } } } } } }"""
    ticks: list[dict[str, Any]] = dagster.ask(query, selector=EVERY_MINUTE)["scheduleState"]["ticks"]
    assert [each["error"] for each in ticks if each["error"]] == []
    return next((each for each in ticks if each["runIds"]), None)


def backfill(dagster: Live, *, partitions: list[str], **what: object) -> str:
    query = """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
        __typename ... on LaunchBackfillSuccess { backfillId } } }"""
    launched = dagster.ask(query, params={"partitionNames": partitions, "fromFailure": False, "tags": [], **what})
    assert launched["__typename"] == "LaunchBackfillSuccess"
    return str(launched["backfillId"])


def state_of_backfill(dagster: Live, backfill_id: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return the backfill's status and its runs by partition."""
    query = """query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
        status error { message } runs { status tags { key value } assetMaterializations { assetKey { path } } } } } }"""
    found = dagster.ask(query, id=backfill_id)
    assert found["error"] is None
    return str(found["status"]), {tag(run, "dagster/partition"): run for run in found["runs"]}


def launch_as_the_ui_does(dagster: Live, sync: str, partition: str) -> str:
    """Launch the sync's four assets for one partition, in the steps of the UI's dialog `Launch 1 run`."""
    keys = [{"path": [sync, stage]} for stage in STAGES]
    nodes = dagster.ask(
        """query($keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) { jobNames
            assetChecksOrError { ... on AssetChecks { checks { name jobNames assetKey { path } } } } } }""",
        keys=keys,
    )
    job = next(name for name in nodes[0]["jobNames"] if all(name in node["jobNames"] for node in nodes))
    checks = [each for node in nodes for each in node["assetChecksOrError"]["checks"] if job in each["jobNames"]]
    of_partition = dagster.ask(
        """query($job: PipelineSelector!, $partition: String!, $keys: [AssetKeyInput!]!) {
            pipelineOrError(params: $job) { ... on Pipeline {
                partition(partitionName: $partition, selectedAssetKeys: $keys) {
                    runConfigOrError { ... on PartitionRunConfig { yaml } }
                    tagsOrError { ... on PartitionTags { results { key value } } } } } } }""",
        job=REPOSITORY | {"pipelineName": job},
        partition=partition,
        keys=keys,
    )["partition"]
    launched = dagster.ask(
        """mutation($params: ExecutionParams!) { launchPipelineExecution(executionParams: $params) {
            __typename ... on LaunchRunSuccess { run { runId } } } }""",
        params={
            "mode": "default",
            "executionMetadata": {"tags": of_partition["tagsOrError"]["results"]},
            "runConfigData": of_partition["runConfigOrError"]["yaml"] or "{}",
            "selector": REPOSITORY
            | {
                "pipelineName": job,
                "assetSelection": keys,
                "assetCheckSelection": [{"name": each["name"], "assetKey": each["assetKey"]} for each in checks],
            },
        },
    )
    assert launched["__typename"] == "LaunchRunSuccess"
    return str(launched["run"]["runId"])


def two_hours_before(key: str) -> str:
    opens = Cadence.TWO_HOURS.window_named(key).opens
    assert opens is not None
    return Cadence.TWO_HOURS.window_at(opens - Cadence.TWO_HOURS.value).key


def stages(run: dict[str, Any]) -> list[str]:
    return [each["assetKey"]["path"][-1] for each in run["assetMaterializations"]]


def test_a_run_that_the_scheduler_starts_delivers_within_a_minute(project: LiveProject, dagster: Live) -> None:
    until(lambda: roomy(Cadence.QUARTER_HOUR), "a window with time left")
    switch_on_every_minute(dagster)
    try:
        tick = until(lambda: newest_tick_with_a_run(dagster), "a tick that starts a run")
    finally:
        switch_off_every_minute(dagster)

    [run_id] = tick["runIds"]
    run = ended_run(dagster, run_id)

    assert run["status"] == "SUCCESS"
    assert sorted(stages(run)) == sorted(STAGES)
    assert run["endTime"] - tick["timestamp"] < 60
    window = tag(run, "dagster/partition")
    assert project.group() == project.payload(APPTIMIZE, window)
    assert len(project.group()) > 300
    newest, *_ = project.ledger.windows(APPTIMIZE)
    assert (newest.key, newest.state) == (window, "delivered")


def test_rebuilding_past_windows_neither_reads_nor_sends(
    project: LiveProject, dagster: Live, sealed: list[str]
) -> None:
    traffic, segment = project.traffic(), project.segment()
    job = {"partitionSetName": "rebuild_dynamic_syncs_partition_set", "repositorySelector": REPOSITORY}

    started = backfill(dagster, partitions=sealed, selector=job)
    until(lambda: state_of_backfill(dagster, started)[0] != "REQUESTED", "the end of the backfill", 240)

    status, runs = state_of_backfill(dagster, started)
    assert status == "COMPLETED_SUCCESS"
    assert {window: (run["status"], stages(run)) for window, run in runs.items()} == dict.fromkeys(
        sealed, ("SUCCESS", ["identified_users", "partner_payload"])
    )
    assert project.traffic() == traffic
    assert project.segment() == segment


def test_a_backfill_of_the_whole_chain_leaves_the_audience_as_it_is(
    project: LiveProject, dagster: Live, sealed: list[str]
) -> None:
    traffic, segment = project.traffic(), project.segment()
    before = two_hours_before(sealed[0])
    chain = [{"path": [TAPLYTICS, stage]} for stage in STAGES]

    started = backfill(dagster, partitions=[before, *sealed], assetSelection=chain)

    def ended() -> dict[str, dict[str, Any]] | None:
        _, runs = state_of_backfill(dagster, started)
        return runs if len(runs) == 4 and all(run["status"] in ENDED for run in runs.values()) else None

    runs = until(ended, "the end of the backfill's runs", 240)
    assert {window: (run["status"], "destination_upload" in stages(run)) for window, run in runs.items()} == {
        before: ("FAILURE", False),  # what the cohort was then can no longer be read
        sealed[0]: ("SUCCESS", False),  # superseded by the newest audience
        sealed[1]: ("SUCCESS", False),
        sealed[2]: ("SUCCESS", True),  # the one that is delivered: nothing differs
    }
    sent = project.traffic() - traffic
    assert set(sent) <= {"/v2/users/"}
    assert sent.total() <= len(segment) / 20  # no more than the slice whose turn it was to be reconciled
    assert project.segment() == segment


def test_the_ui_can_materialize_the_window_that_is_open(project: LiveProject, dagster: Live) -> None:
    until(lambda: roomy(Cadence.TWO_HOURS), "a window with time left")
    window = Cadence.TWO_HOURS.window_at(clock.now()).key

    run = ended_run(dagster, launch_as_the_ui_does(dagster, TAPLYTICS, window))

    assert run["status"] == "SUCCESS"
    assert sorted(stages(run)) == sorted(STAGES)
    assert project.segment() == project.payload(TAPLYTICS, window)


def test_a_one_time_export_is_a_partition_added_by_hand(project: LiveProject, dagster: Live) -> None:
    added = dagster.ask(
        """mutation($repository: RepositorySelector!, $name: String!, $key: String!) {
            addDynamicPartition(repositorySelector: $repository, partitionsDefName: $name, partitionKey: $key) {
                __typename } }""",
        repository=REPOSITORY,
        name=f"{LAUNCH_LIST}_exports",
        key="Launch day: everybody",
    )
    assert added["__typename"] == "AddDynamicPartitionSuccess"

    run = ended_run(dagster, launch_as_the_ui_does(dagster, LAUNCH_LIST, "Launch day: everybody"))

    assert run["status"] == "SUCCESS"
    delivered = project.group("Mixpanel: Launch List")
    assert delivered == project.payload(LAUNCH_LIST, "Launch day: everybody")
    assert len(delivered) > 300


def test_after_a_machine_went_down_during_a_read_the_next_run_delivers(tmp_path: Path) -> None:
    with new_project(tmp_path / "killed") as project:
        faults = f"{project.standins.mixpanel_url}/standin/faults"
        slow = {"kind": "delay", "match": ENGAGE, "contains": "page=1", "seconds": 600}
        httpx.post(faults, json=slow).raise_for_status()
        with serving(project.folder, project.environment) as dagster:
            dead = launch_as_the_ui_does(dagster, APPTIMIZE, Cadence.QUARTER_HOUR.window_at(clock.now()).key)
            until(lambda: project.traffic()[ENGAGE], "the first page, of which the second one never comes")
            dagster.kill_everything()
        httpx.delete(faults).raise_for_status()
        assert project.group() == set()

        with serving(project.folder, project.environment) as again:
            assert "Ended 1 runs that a dead process had left." in again.output
            assert ended_run(again, dead)["status"] == "FAILURE"
            until(lambda: roomy(Cadence.QUARTER_HOUR), "a window with time left")
            switch_on_every_minute(again)
            tick = until(lambda: newest_tick_with_a_run(again), "a tick that starts a run")
            run = ended_run(again, tick["runIds"][0])

        assert run["status"] == "SUCCESS"
        assert run["endTime"] - tick["timestamp"] < 60  # the dead run does not hold the pool
        window = tag(run, "dagster/partition")
        assert project.group() == project.payload(APPTIMIZE, window)
        assert len(project.group()) > 300

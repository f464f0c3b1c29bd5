"""F41: kill -9 of a run worker, or of the process of its step, at every step: the next tick delivers within a minute.

Each step has a process of its own where a project sets no executor. Two syncs at once, so that both ways to die cost
one round; each round has syncs of its own, whose targets are still empty. Reading, computing, uploading are the rounds.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import select

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.schema import ChunkState
from cohort_pipelines_tests.live import Live, serving, until
from cohort_pipelines_tests.live_project import MODULE, LiveProject, new_project, roomy
from cohort_pipelines_tests.test_daemon import ENGAGE, ended_run, launch_as_the_ui_does, tag

pytestmark = pytest.mark.slow

MESSAGES = "/cohorts"
KILLED_AT = ("cohort_snapshot", "partner_payload", "destination_upload")
STARTS_AND_DELIVERS = 30.0  # seconds, of two runs with five processes each, on a busy machine
COHORTS = {"worker": 1_478_097, "step": 1_478_098}
"""Who is killed, and whose members are delivered meanwhile."""

# A tick of the product's own schedule whenever the file says another one is wanted, for the syncs that it names.
_DEFINITIONS = """
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg

from cohort_pipelines.orchestration import project_definitions

ASKED = Path(__file__).with_name("asked")


@dg.definitions
def defs() -> dg.Definitions:
    ours = project_definitions(Path(__file__).parent)
    opens_a_window = ours.resolve_schedule_def("recurring_syncs")

    @dg.sensor(
        job_name="recurring_syncs",
        minimum_interval_seconds=1,
        default_status=dg.DefaultSensorStatus.RUNNING,
        required_resource_keys={"records"},
    )
    def ticks(context: dg.SensorEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        asked = ASKED.read_text(encoding="utf-8") if ASKED.exists() else ""
        if asked == (context.cursor or ""):
            yield dg.SkipReason("no tick is wanted")
            return
        context.update_cursor(asked)
        resources = {"records": context.resources.records}
        with dg.build_schedule_context(
            instance=context.instance,
            scheduled_execution_time=datetime.now(UTC),
            repository_def=context.repository_def,
            resources=resources,
        ) as at:
            requests = opens_a_window.evaluate_tick(at).run_requests or []
        for each in requests:
            if each.tags["cohort_pipelines/syncs"] in asked.split():
                yield each._replace(run_key=None)

    return dg.Definitions(
        assets=ours.assets,
        asset_checks=ours.asset_checks,
        jobs=ours.jobs,
        sensors=[ticks],
        resources=ours.resources,
        executor=dg.multiprocess_executor,
    )
"""
_SYNC = """
type: cohort_pipelines.orchestration.CohortSync
attributes:
  {{source: demo_project, cohort_id: {cohort}, destination: {name}_receiver, target: {name}, type: recurring,
    since: 2025-01-01}}
"""
_RECEIVER = """
type: cohort_pipelines.orchestration.ApptimizeDestination
attributes:
  {{region: eu, account: {name}, delivery: http, url: "{{{{ env.APPTIMIZE_URL }}}}",
    token: "{{{{ env.APPTIMIZE_TOKEN }}}}"}}
"""
_EVENTS = """query($run: ID!) { runOrError(runId: $run) { ... on Run { eventConnection { events { __typename
    ... on MessageEvent { message stepKey } ... on DisplayableEvent { metadataEntries { label
    ... on TextMetadataEntry { text } } } } } } } }"""
_RUNS = """query($sync: String!) { runsOrError(filter: {tags: [{key: "cohort_pipelines/syncs", value: $sync}]}) {
    ... on Runs { results { runId } } } }"""


def sync_of(stage: str, victim: str) -> str:
    return f"{victim}_killed_at_{stage}"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LiveProject]:
    with new_project(tmp_path / "live") as project:
        package = project.folder / MODULE
        (package / "definitions.py").write_text(_DEFINITIONS, encoding="utf-8")
        for stage in KILLED_AT:
            for victim, cohort in COHORTS.items():
                name = sync_of(stage, victim)
                for folder, declared in ((name, _SYNC), (f"{name}_receiver", _RECEIVER)):
                    (package / "defs" / folder).mkdir()
                    text = declared.format(name=name, cohort=cohort)
                    (package / "defs" / folder / "defs.yaml").write_text(text, encoding="utf-8")
        yield project


def workers(dagster: Live, run_id: str, step: str) -> dict[str, int]:
    """Return the number of the run's worker, and of the process of ``step`` once it works."""
    found: dict[str, int] = {}
    for event in dagster.ask(_EVENTS, run=run_id)["eventConnection"]["events"]:
        noted = {each["label"]: each.get("text") for each in event.get("metadataEntries", [])}
        if "pid" in noted and event["__typename"] == "EngineEvent":
            found.setdefault("worker", int(noted["pid"]))
        elif event["__typename"] == "StepWorkerStartedEvent" and event["stepKey"] == step:
            found["step"] = int(noted["pid"])
    return found


def hold(project: LiveProject, stage: str) -> None:
    """Let what ``stage`` asks for stay unanswered, but for a first request of each run."""
    stuck = {
        "cohort_snapshot": (project.standins.mixpanel_url, {"match": ENGAGE, "contains": "page=1"}),
        "destination_upload": (project.standins.apptimize_url, {"match": MESSAGES, "contains": "add_members"}),
    }
    if stage in stuck:
        url, which = stuck[stage]
        fault = {"kind": "delay", "seconds": 600, "times": None, **which}
        httpx.post(httpx.URL(url).copy_with(path="/standin/faults"), json=fault).raise_for_status()


def mend(project: LiveProject) -> None:
    for url in (project.standins.mixpanel_url, project.standins.apptimize_url):
        httpx.delete(httpx.URL(url).copy_with(path="/standin/faults")).raise_for_status()


def is_stuck(project: LiveProject, stage: str, asked_before: int) -> bool:
    """Tell whether both runs wait for an answer, if ``stage`` asks for any."""
    if stage == "cohort_snapshot":
        return project.traffic()[ENGAGE] >= asked_before + len(COHORTS)
    if stage == "destination_upload":
        under_way = select(schema.attempt.c.sync).join(schema.chunk).where(schema.chunk.c.state == ChunkState.INTENT)
        with project.ledger.read() as connection:
            return len(set(connection.execute(under_way).scalars())) == len(COHORTS)
    return True


def step_to_kill(stage: str, victim: str) -> str:
    """Return the step that is killed; of the two that compute, a run that loses its worker does so in the first."""
    return "identified_users" if (stage, victim) == ("partner_payload", "worker") else stage


def run_and_kill(project: LiveProject, dagster: Live, stage: str) -> None:
    """Run both syncs of ``stage`` until that step is at work, and kill the worker of one and the step of the other."""
    hold(project, stage)
    asked_before = project.traffic()[ENGAGE]
    window = Cadence.QUARTER_HOUR.window_at(clock.now()).key
    runs = {victim: launch_as_the_ui_does(dagster, sync_of(stage, victim), window) for victim in COHORTS}
    killed: set[str] = set()

    def all_killed() -> bool:
        for victim in runs.keys() - killed:
            found = workers(dagster, runs[victim], f"{sync_of(stage, victim)}__{step_to_kill(stage, victim)}")
            if "step" in found and is_stuck(project, stage, asked_before):
                os.kill(found[victim], signal.SIGKILL)
                killed.add(victim)
        return len(killed) == len(COHORTS)

    until(all_killed, f"{stage} of both runs at work")


def runs_of(dagster: Live, sync: str) -> list[str]:
    return [each["runId"] for each in dagster.ask(_RUNS, sync=sync)["results"]]


def delivered_by_the_next_tick(project: LiveProject, dagster: Live, syncs: Sequence[str]) -> list[dict[str, Any]]:
    (project.folder / MODULE / "asked").write_text(" ".join(syncs), encoding="utf-8")
    until(lambda: all(runs_of(dagster, sync) for sync in syncs), "the runs that a tick starts")
    return [ended_run(dagster, runs_of(dagster, sync)[0]) for sync in syncs]


def test_f41_after_a_kill_of_a_worker_or_a_step_the_next_tick_delivers_within_a_minute(project: LiveProject) -> None:
    late = {}
    with serving(project.folder, project.environment) as dagster:
        for stage in KILLED_AT:
            until(lambda: roomy(Cadence.QUARTER_HOUR), "a window with time left")
            run_and_kill(project, dagster, stage)
            killed = time.monotonic()
            mend(project)

            runs = delivered_by_the_next_tick(project, dagster, [sync_of(stage, victim) for victim in COHORTS])

            late[stage] = time.monotonic() - killed
            for victim, run in zip(COHORTS, runs, strict=True):
                sync = sync_of(stage, victim)
                assert (sync, run["status"]) == (sync, "SUCCESS")
                assert project.group(sync) == project.payload(sync, tag(run, "dagster/partition")) != set()
    assert max(late.values()) < 60 + STARTS_AND_DELIVERS, late

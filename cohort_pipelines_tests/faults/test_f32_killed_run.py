"""F32: kill -9 of a run under the real daemon and queue: the next tick is delivered, and waits for no dead run."""

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines_tests.live import Live, serving, until
from cohort_pipelines_tests.live_project import APPTIMIZE, LiveProject, new_project, roomy
from cohort_pipelines_tests.test_daemon import (
    ended_run,
    launch_as_the_ui_does,
    newest_tick_with_a_run,
    switch_off_every_minute,
    switch_on_every_minute,
    tag,
)

_EVENTS = """query($run: ID!) { runOrError(runId: $run) { ... on Run { eventConnection { events {
    ... on MessageEvent { message } } } } } }"""
_STATUS = "query($run: ID!) { runOrError(runId: $run) { ... on Run { status } } }"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LiveProject]:
    with new_project(tmp_path / "live") as project:
        yield project


def kill_run(dagster: Live, run_id: str) -> None:
    """Kill the processes that work on a run, which its events name."""
    events = dagster.ask(_EVENTS, run=run_id)["eventConnection"]["events"]
    workers = {int(number) for each in events for number in re.findall(r"\(pid: (\d+)\)", each.get("message", ""))}
    assert workers
    for ends in (signal.SIGSTOP, signal.SIGKILL):  # stopped first, so that none of them sees another one die
        for worker in sorted(workers):
            os.kill(worker, ends)
    assert dagster.ask(_STATUS, run=run_id)["status"] == "STARTED"  # so far Dagster cannot tell


def test_f32_after_a_kill_of_a_run_in_its_upload_the_next_tick_is_delivered(project: LiveProject) -> None:
    faults = str(httpx.URL(project.standins.apptimize_url).copy_with(path="/standin/faults"))
    httpx.post(faults, json={"kind": "delay", "match": "/cohorts", "after": 1, "seconds": 600}).raise_for_status()
    with serving(project.folder, project.environment) as dagster:
        dead = launch_as_the_ui_does(dagster, APPTIMIZE, Cadence.QUARTER_HOUR.window_at(clock.now()).key)
        until(lambda: project.traffic()["/cohorts"] >= 1, "the first message")
        kill_run(dagster, dead)
        httpx.delete(faults).raise_for_status()

        until(lambda: not project.ledger.is_delivering(APPTIMIZE), "the end of the dead writer's lease", 150)
        until(lambda: roomy(Cadence.QUARTER_HOUR), "a window with time left")
        switch_on_every_minute(dagster)
        try:
            tick = until(lambda: newest_tick_with_a_run(dagster), "a tick that starts a run")
        finally:
            switch_off_every_minute(dagster)
        [next_run] = tick["runIds"]
        run = ended_run(dagster, next_run)

        assert run["status"] == "SUCCESS"
        window = tag(run, "dagster/partition")
        assert project.group() == project.payload(APPTIMIZE, window)

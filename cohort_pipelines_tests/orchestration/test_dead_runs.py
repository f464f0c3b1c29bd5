import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from uuid import uuid4

import dagster as dg
import pytest
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.events import EngineEventData
from dagster._core.test_utils import create_run_for_test

from cohort_pipelines.core import process_names
from cohort_pipelines.orchestration.dead_runs import PROCESS_TAG, SYNCS_TAG, end_dead_runs, process_tag
from cohort_pipelines.orchestration.resources import Records

ALIVE = [DagsterRunStatus.STARTING, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING]
NOT_ALIVE = [
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.SUCCESS,
    DagsterRunStatus.FAILURE,
    DagsterRunStatus.CANCELED,
]


def started_run(
    instance: DagsterInstance, process: int | None = None, status: DagsterRunStatus = DagsterRunStatus.STARTED
) -> dg.DagsterRun:
    """Make a run that names a process, or this one, as its worker."""
    run_id = str(uuid4())
    run: dg.DagsterRun = create_run_for_test(instance, run_id=run_id, status=status, tags=process_tag(run_id, process))
    return run


def run_of_a_killed_process(
    instance: DagsterInstance, status: DagsterRunStatus = DagsterRunStatus.STARTED
) -> dg.DagsterRun:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        run = started_run(instance, child.pid, status)
        child.kill()
    return run


@pytest.mark.parametrize("status", ALIVE)
def test_a_run_without_a_worker_is_ended_only_where_no_daemon_lives(status: DagsterRunStatus) -> None:
    with dg.instance_for_test() as instance:
        run = create_run_for_test(instance, status=status)

        assert end_dead_runs(instance) == 0
        assert end_dead_runs(instance, untagged=True) == 1

        assert status_of(instance, run) == DagsterRunStatus.FAILURE
        assert end_dead_runs(instance, untagged=True) == 0


@pytest.mark.parametrize("status", ALIVE)
def test_a_run_whose_worker_was_killed_is_ended_and_one_whose_worker_lives_is_not(status: DagsterRunStatus) -> None:
    with dg.instance_for_test() as instance:
        lives = started_run(instance, status=status)
        assert end_dead_runs(instance) == 0
        dead = run_of_a_killed_process(instance, status)

        assert end_dead_runs(instance, untagged=True) == 1
        assert (status_of(instance, lives), status_of(instance, dead)) == (status, DagsterRunStatus.FAILURE)


@pytest.mark.parametrize("untagged", [False, True])
def test_a_number_that_a_run_noted_on_another_host_is_not_looked_up_on_this_one(
    monkeypatch: pytest.MonkeyPatch, *, untagged: bool
) -> None:
    with (
        dg.instance_for_test() as instance,
        subprocess.Popen([sys.executable, "-c", ""]) as gone,
    ):
        gone.wait()
        run = create_run_for_test(instance, status=DagsterRunStatus.STARTING, tags={SYNCS_TAG: "a,b"})
        instance.report_engine_event("Started process for run", run, EngineEventData.in_process(gone.pid))
        started = dg.DagsterEvent(event_type_value=dg.DagsterEventType.RUN_START.value, job_name=run.job_name)
        instance.report_dagster_event(started, run.run_id)
        began = time.time()
        monkeypatch.setattr(time, "time", lambda: began + 120)

        assert end_dead_runs(instance, untagged=untagged) == untagged


def test_a_worker_that_was_killed_and_is_not_reaped_yet_is_dead() -> None:
    with (
        dg.instance_for_test() as instance,
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child,
    ):
        started_run(instance, child.pid)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)

        assert end_dead_runs(instance) == 1


def test_a_run_is_ended_whose_process_number_has_come_to_another_process() -> None:
    with dg.instance_for_test() as instance:
        run_id = str(uuid4())
        [(tag, mine)] = process_tag(run_id).items()
        before, _, started = mine.rpartition(":")
        other = {tag: f"{before}:{int(started) - 1}"}
        create_run_for_test(instance, run_id=run_id, status=DagsterRunStatus.STARTED, tags=other)

        assert end_dead_runs(instance) == 1


@pytest.mark.parametrize(("signal", "ended"), [(None, 0), (ProcessLookupError, 1), (PermissionError, 1)])
def test_where_the_kernel_names_no_start_the_number_decides(
    monkeypatch: pytest.MonkeyPatch, signal: type[OSError] | None, ended: int
) -> None:
    """After a reboot it may be that of another user's process."""

    def kill(_process: int, _signal: int) -> None:
        if signal:
            raise signal

    monkeypatch.setattr(process_names, "_started", lambda _process: "")
    monkeypatch.setattr("os.kill", kill)
    with dg.instance_for_test() as instance:
        started_run(instance)
        assert end_dead_runs(instance) == ended


def on_another_host(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(socket, "gethostname", lambda: "another")


def in_another_container(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(os, "readlink", lambda _path: "pid:[1]")


@pytest.mark.parametrize("elsewhere", [on_another_host, in_another_container])
@pytest.mark.parametrize("untagged", [False, True])
def test_a_run_of_another_host_is_left_alone(
    elsewhere: Callable[[pytest.MonkeyPatch], None], *, untagged: bool
) -> None:
    with dg.instance_for_test() as instance:
        with pytest.MonkeyPatch.context() as patch:
            elsewhere(patch)
            run_of_a_killed_process(instance)
        assert end_dead_runs(instance, untagged=untagged) == 0


def test_the_host_alone_tells_where_the_kernel_has_no_namespaces(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(os, "readlink", refuse)
    with dg.instance_for_test() as instance:
        run_of_a_killed_process(instance)
        assert end_dead_runs(instance) == 1


def test_a_run_that_is_executed_again_is_not_taken_for_that_of_the_dead_process() -> None:
    with dg.instance_for_test() as instance:
        dead = run_of_a_killed_process(instance)
        again = create_run_for_test(instance, status=DagsterRunStatus.STARTED, tags=dead.tags)

        assert end_dead_runs(instance) == 1
        assert status_of(instance, again) == DagsterRunStatus.STARTED


@dg.op(required_resource_keys={"records"})
def look() -> int:
    return os.getpid()


@dg.job(executor_def=dg.in_process_executor, resource_defs={"records": Records()})
def one_process() -> None:
    look()


@dg.job(executor_def=dg.multiprocess_executor, resource_defs={"records": Records()})
def a_process_for_each_step() -> None:
    look()


@pytest.mark.slow
@pytest.mark.parametrize("job", [one_process, a_process_for_each_step])
def test_a_run_names_its_worker_also_where_each_step_has_a_process_of_its_own(job: dg.JobDefinition) -> None:
    with dg.instance_for_test() as instance:
        result = dg.execute_job(dg.reconstructable(globals()[job.name]), instance=instance)

        run = instance.get_run_by_id(result.run_id)
        assert run is not None
        assert run.tags[PROCESS_TAG] == process_tag(run.run_id)[PROCESS_TAG]


@pytest.mark.parametrize("status", NOT_ALIVE)
def test_any_other_run_stays_as_it_is(status: DagsterRunStatus) -> None:
    with dg.instance_for_test() as instance:
        run = create_run_for_test(instance, status=status)

        assert end_dead_runs(instance, untagged=True) == 0

        assert status_of(instance, run) == status


def status_of(instance: DagsterInstance, run: dg.DagsterRun) -> DagsterRunStatus:
    found = instance.get_run_by_id(run.run_id)
    assert found is not None
    return found.status

"""Runs that a dead process left behind: ended by whatever starts next, so that nothing waits for them.

Dagster's local launcher cannot tell that a worker is dead (Dagster 1.13: supports_check_run_worker_health is False for
it): where the code server that started a worker is gone too, its run stays STARTED, and keeps its place in the queue,
until the maximum run time. So each run carries a tag that names the process which works on it.
"""

import multiprocessing
import os
import signal
import sys
import threading

import dagster as dg

from cohort_pipelines.core.errors import CohortPipelinesError
from cohort_pipelines.core.process_names import is_gone, name_of
from cohort_pipelines.orchestration.instance import instance_at

_ALIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
PROCESS_TAG = "cohort_pipelines/process"
SYNCS_TAG = "cohort_pipelines/syncs"


def process_tag(run_id: str, process: int | None = None) -> dict[str, str]:
    """Return the tag by which a run of ``process`` on this host, or of this very one, is known to be alive.

    It names the run too, since a run that is executed again passes its tags on.
    """
    return {PROCESS_TAG: f"{run_id}:{name_of(process)}"}


def tag_with_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int | None:
    """Let a run name the process that works on it, where its starter has not done so; return its number."""
    worker = _noted_worker(instance, run)
    if _worker_of(run) is None and worker is not None and not is_gone(name_of(worker)):
        instance.add_run_tags(run.run_id, process_tag(run.run_id, worker))
    return worker


def end_with_worker(worker: int | None) -> None:
    """Let this process die with ``worker``, if that has started it for a step of its run.

    Else it would go on for a run that has ended, and keep its permit to read or its lease as long.
    """
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid == worker:

        def wait_and_die() -> None:
            parent.join()
            os.kill(os.getpid(), signal.SIGKILL)

        threading.Thread(target=wait_and_die, name="end with the worker", daemon=True).start()


def end_dead_runs(instance: dg.DagsterInstance, *, untagged: bool = False) -> int:
    """End every run of ``instance`` that counts as alive though its process is not; return how many there were.

    Runs of other hosts are left alone, and so are those whose worker has not been named yet: its host cannot be told.
    ``untagged``: those are dead too, wherever they ran, which is only right while no daemon of the instance lives.
    """
    runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=_ALIVE)) if _is_dead(run, untagged=untagged)]
    for run in runs:
        instance.report_run_failed(
            run,
            "The process that worked on this run is gone: it was killed, or the machine went down. What it had "
            "sent is in the ledger; the next window goes on from there.",
        )
    return len(runs)


def _is_dead(run: dg.DagsterRun, *, untagged: bool) -> bool:
    worker = _worker_of(run)
    return untagged if worker is None else is_gone(worker)


def _noted_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> int | None:
    """Return the number of a run's worker, which Dagster notes before those of the steps' own processes."""
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    notes = (each.dagster_event.engine_event_data.metadata for each in events if each.dagster_event)
    return next((int(str(note["pid"].value)) for note in notes if "pid" in note), None)


def _worker_of(run: dg.DagsterRun) -> str | None:
    """Return the name of the process that a run names as its worker, or None where it names none."""
    run_id, _, worker = run.tags.get(PROCESS_TAG, "").partition(":")
    return worker if run_id == run.run_id else None


def main() -> None:
    """End the dead runs of the instance at DAGSTER_HOME while no daemon of it lives, and print how many there were."""
    try:
        with instance_at(os.environ["DAGSTER_HOME"]) as opened:
            ended = end_dead_runs(opened, untagged=True)
    except CohortPipelinesError as error:
        sys.exit(str(error))
    if ended:
        sys.stdout.write(f"Ended {ended} runs that a dead process had left.\n")

"""Runs that a dead process left behind: ended by whatever starts next, so that nothing waits for them.

Dagster's local launcher cannot tell that a worker is dead (Dagster 1.13: supports_check_run_worker_health is False for
it): where the code server that started a worker is gone too, its run stays STARTED, and keeps its place in the queue,
until the maximum run time. So each run carries a tag that names the process which works on it.
"""

import os
import socket
import sys
from pathlib import Path

import dagster as dg

from cohort_pipelines.errors import CohortPipelinesError
from cohort_pipelines.orchestration.instance import instance_at

_ALIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
_ENDED = frozenset("ZX")  # states of a process that was killed and is not reaped yet (proc(5))
PROCESS_TAG = "cohort_pipelines/process"


def process_tag(run_id: str, process: int | None = None) -> dict[str, str]:
    """Return the tag by which a run of ``process`` on this host, or of this very one, is known to be alive.

    It names the run too, since a run that is executed again passes its tags on.
    """
    process = process or os.getpid()
    return {PROCESS_TAG: f"{run_id}:{socket.gethostname()}:{process}:{_started(process)}"}


def tag_with_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Let a run name the process that works on it, where whoever started it has not done so.

    Dagster notes the worker's number before all others, also where each step has a process of its own.
    """
    if _worker_of(run) is not None:
        return
    events = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ENGINE_EVENT)
    notes = (each.dagster_event.engine_event_data.metadata for each in events if each.dagster_event)
    worker = next((int(str(note["pid"].value)) for note in notes if "pid" in note), None)
    if worker is not None and _started(worker):
        instance.add_run_tags(run.run_id, process_tag(run.run_id, worker))


def end_dead_runs(instance: dg.DagsterInstance, *, untagged: bool = False) -> int:
    """End every run of ``instance`` that counts as alive though its process is not; return how many there were.

    Runs of other hosts are left alone, and so are those whose worker has not named itself yet. ``untagged``: those are
    dead too, wherever they ran, which is only right while no daemon of the instance lives.
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
    if worker is None or worker[0] != socket.gethostname():
        return untagged
    _, process, started = worker
    return not (_started(process) == started if started else _exists(process))


def _worker_of(run: dg.DagsterRun) -> tuple[str, int, str] | None:
    """Return host, number and start of the process that a run names as its worker, or None where it names none."""
    run_id, _, worker = run.tags.get(PROCESS_TAG, "").partition(":")
    if run_id != run.run_id:
        return None
    host, process, started = worker.rsplit(":", 2)
    return host, int(process), started


def _started(process: int) -> str:
    """Return when a process was started, in the kernel's own ticks since it booted; empty where it does not tell.

    With it a number that has come to another process is told apart. A process that has ended has none.
    """
    try:
        told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    fields = told.rpartition(")")[2].split()  # those behind the name, which may hold anything (proc(5))
    return "" if fields[0] in _ENDED else fields[19]


def _exists(process: int) -> bool:
    """Say whether there is such a process of this user, where the kernel does not tell when it was started."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def main() -> None:
    """End the dead runs of the instance at DAGSTER_HOME while no daemon of it lives, and print how many there were."""
    try:
        with instance_at(os.environ["DAGSTER_HOME"]) as opened:
            ended = end_dead_runs(opened, untagged=True)
    except CohortPipelinesError as error:
        sys.exit(str(error))
    if ended:
        sys.stdout.write(f"Ended {ended} runs that a dead process had left.\n")

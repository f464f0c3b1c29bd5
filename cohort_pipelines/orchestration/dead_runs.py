"""Runs that a dead process left behind: ended before the daemon starts, so that nothing waits for them.

Dagster's local launcher cannot tell that a worker is dead: its run stays STARTED, with its pool slot, until the maximum
run time (Dagster 1.13: supports_check_run_worker_health is False for it).
"""

import os
import socket
import sys
from pathlib import Path

import dagster as dg

from cohort_pipelines.errors import CohortPipelinesError
from cohort_pipelines.orchestration.instance import instance_at

_ALIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
PROCESS_TAG = "cohort_pipelines/process"


def process_tag() -> dict[str, str]:
    """Return the tag by which a run of this very process is known to be alive."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}"}


def end_dead_runs() -> int:
    """End every run of the instance at DAGSTER_HOME that counts as alive and is not; return how many there were.

    Raises:
        RunsNotRecorded: the instance's records cannot be used.

    Only right while no daemon of the instance lives: :mod:`cohort_pipelines.dev` sees to that. A run that the command
    line executes in its own process is left alone while that process lives.
    """
    with instance_at(os.environ["DAGSTER_HOME"]) as instance:
        runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=_ALIVE)) if not _lives(run)]
        for run in runs:
            instance.report_run_failed(
                run,
                "The process that worked on this run is gone: it was killed, or the machine went down. What it had "
                "sent is in the ledger; the next window goes on from there.",
            )
    return len(runs)


def _lives(run: dg.DagsterRun) -> bool:
    host, process, started = [*run.tags.get(PROCESS_TAG, "").rsplit(":", 2), "", ""][:3]
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, PermissionError):
        return False
    return _started(int(process)) == started  # else the number has come to another process


def _started(process: int) -> str:
    """Return when a process was started, in the kernel's own ticks since it booted; empty where it does not tell."""
    try:
        told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    return told.rpartition(")")[2].split()[19]  # of the fields behind the name, which may hold anything (proc(5))


if __name__ == "__main__":
    try:
        ended = end_dead_runs()
    except CohortPipelinesError as error:
        sys.exit(str(error))
    if ended:
        sys.stdout.write(f"Ended {ended} runs that a dead process had left.\n")

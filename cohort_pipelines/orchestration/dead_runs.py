"""Runs that a dead process left behind: ended before the daemon starts, so that nothing waits for them.

Dagster's local launcher cannot tell that a worker is dead: its run stays STARTED, with its pool slot, until the maximum
run time (Dagster 1.13: supports_check_run_worker_health is False for it).
"""

import os
import socket
import sys

import dagster as dg

_ALIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
PROCESS_TAG = "cohort_pipelines/process"


def process_tag() -> dict[str, str]:
    """Return the tag by which a run of this very process is known to be alive."""
    return {PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}"}


def end_dead_runs() -> int:
    """End every run of the instance at DAGSTER_HOME that counts as alive and is not; return how many there were.

    Only right while no daemon of the instance lives: :mod:`cohort_pipelines.dev` sees to that. A run that the command
    line executes in its own process is left alone while that process lives.
    """
    with dg.DagsterInstance.get() as instance:
        runs = [run for run in instance.get_runs(dg.RunsFilter(statuses=_ALIVE)) if not _lives(run)]
        for run in runs:
            instance.report_run_failed(
                run,
                "The process that worked on this run is gone: it was killed, or the machine went down. What it had "
                "sent is in the ledger; the next window goes on from there.",
            )
    return len(runs)


def _lives(run: dg.DagsterRun) -> bool:
    host, _, process = run.tags.get(PROCESS_TAG, "").rpartition(":")
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, PermissionError):  # since a reboot the number may be another user's process
        return False
    return True


if __name__ == "__main__":
    ended = end_dead_runs()
    if ended:
        sys.stdout.write(f"Ended {ended} runs that a dead process had left.\n")

"""Runs that a dead process left behind: ended before the daemon starts, so that nothing waits for them.

Dagster's local launcher cannot tell that a worker is dead: its run stays STARTED, with its pool slot, until the maximum
run time (facts of Dagster 1.13: RunLauncher.supports_check_run_worker_health is False for it).
"""

import sys

import dagster as dg

_ALIVE = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def end_dead_runs() -> int:
    """End every run of the instance at DAGSTER_HOME that still counts as alive; return how many there were.

    Only right while no daemon and no worker of the instance lives: :mod:`cohort_pipelines.dev` sees to that.
    """
    with dg.DagsterInstance.get() as instance:
        runs = instance.get_runs(dg.RunsFilter(statuses=_ALIVE))
        for run in runs:
            instance.report_run_failed(
                run,
                "The process that worked on this run is gone: it was killed, or the machine went down. What it had "
                "sent is in the ledger; the next window goes on from there.",
            )
    return len(runs)


if __name__ == "__main__":
    ended = end_dead_runs()
    if ended:
        sys.stdout.write(f"Ended {ended} runs that a dead process had left.\n")

"""How long a run may last, and when a delivery must yield so that neither the next window nor the monitor cuts it off.

Dagster's monitor ends a run at its maximum run time, since it cannot tell a long run from a dead one. A delivery that
would come near that limit, or near the end of its window, stops between two chunks instead; the next run goes on.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from cohort_pipelines import delivery
from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence, Window

MAX_RUNTIME_TAG = "dagster/max_runtime"
UNKNOWN_LENGTH = {"cohort_pipelines/unknown_length": "true"}
"""The tag of runs that may take any time, such as first fills; dagster.yaml lets fewer of them run than of all runs."""

_ONE_TIME = timedelta(days=1)
_EARLY = timedelta(minutes=1)  # before the monitor: time for the chunks under way, and to note what was done
_SPARE = timedelta(seconds=15)  # before the next tick: a dead run must have been ended


def max_runtime(cadence: Cadence | None) -> timedelta:
    """Return how long a run that we launch may last: below the cadence, or a day for a one-time export.

    Runs from the UI carry no tag, and end at dagster.yaml's own maximum.
    """
    return _ONE_TIME if cadence is None else cadence.value - _SPARE


def runtime_tags(cadence: Cadence | None) -> dict[str, str]:
    """Return the run tags that tell Dagster's monitor about :func:`max_runtime`."""
    return {MAX_RUNTIME_TAG: str(int(max_runtime(cadence).total_seconds()))}


def deadline(context: dg.AssetExecutionContext, cadence: Cadence | None, window: Window) -> datetime:
    """Return the moment by which a delivery of ``window`` must yield, on this process's clock."""
    return min(
        delivery.deadline(window, cadence),
        clock.now() + _left_of_run(context, cadence) - _EARLY,
    )


def _left_of_run(context: dg.AssetExecutionContext, cadence: Cadence | None) -> timedelta:
    limit = float(context.run.tags.get(MAX_RUNTIME_TAG, 0)) or context.instance.run_monitoring_max_runtime_seconds
    allowed = timedelta(seconds=limit) if limit else max_runtime(cadence)
    record = context.instance.get_run_record_by_id(context.run.run_id)
    if record is None or record.start_time is None:
        return allowed
    return allowed - (datetime.now(UTC) - datetime.fromtimestamp(record.start_time, UTC))

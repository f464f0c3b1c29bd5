"""Partitions: one time-based definition for each cadence, shared by every sync of it; names for one-time exports."""

from collections.abc import Iterable
from datetime import date

import dagster as dg

from cohort_pipelines.core.windows import KEY_FORMAT, Cadence, Window, one_time_window

CADENCES = {"dynamic": Cadence.TWO_HOURS, "recurring": Cadence.QUARTER_HOUR}


def scheduled_partitions(cadence: Cadence, since: Iterable[date]) -> dg.TimeWindowPartitionsDefinition:
    """Return the windows of ``cadence`` from the earliest of ``since`` up to the one that is open now."""
    return dg.TimeWindowPartitionsDefinition(
        cron_schedule=cadence.cron, start=min(since).strftime("%Y-%m-%dT0000Z"), fmt=KEY_FORMAT, end_offset=1
    )


def export_partitions(sync: str) -> dg.DynamicPartitionsDefinition:
    """Return the one-time exports of ``sync``, named by the person who asks for one."""
    return dg.DynamicPartitionsDefinition(name=f"{sync}_exports")


def window_of(cadence: Cadence | None, key: str) -> Window:
    """Return the window behind a partition key; without a cadence it is a one-time export.

    Raises:
        ExportNameInvalid: the name of a one-time export cannot be kept.
    """
    return one_time_window(key) if cadence is None else cadence.window_named(key)

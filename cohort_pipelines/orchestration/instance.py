"""Dagster's instance, opened so that a disk which refuses its records is one sentence."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from sqlalchemy.exc import DBAPIError, IntegrityError

from cohort_pipelines.delivery.database import said_by
from cohort_pipelines.errors import RunsNotRecorded


@contextmanager
def instance_at(home: str) -> Iterator[dg.DagsterInstance]:
    """Open the instance whose dagster.yaml is in the folder ``home``.

    Raises:
        RunsNotRecorded: its records cannot be opened, or while it is open its database refuses.
    """
    try:
        opened = dg.DagsterInstance.from_config(home)
    except OSError as error:
        raise RunsNotRecorded(home, error.strerror or type(error).__name__) from error
    except DBAPIError as error:
        raise RunsNotRecorded(home, said_by(error)) from error
    try:
        with opened as instance:
            yield instance
    except IntegrityError:  # ours to mend, no disk's
        raise
    except DBAPIError as error:  # the ledger's others are errors of ours
        raise RunsNotRecorded(home, said_by(error)) from error

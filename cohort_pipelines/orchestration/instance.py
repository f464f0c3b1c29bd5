"""Dagster's instance, opened so that a wrong dagster.yaml or a disk which refuses its records is one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from sqlalchemy.exc import DBAPIError, IntegrityError

from cohort_pipelines.core.errors import RunsNotRecorded
from cohort_pipelines.ledger import said_by
from cohort_pipelines.orchestration.sentences import sentence


@contextmanager
def instance_at(home: str) -> Iterator[dg.DagsterInstance]:
    """Open the instance whose dagster.yaml is in the folder ``home``.

    Raises:
        RunsNotRecorded: its dagster.yaml is wrong, its records cannot be opened, or while it is open its database
            refuses.
    """
    try:
        opened = dg.DagsterInstance.from_config(home)
    except OSError as error:
        raise RunsNotRecorded(home, error.strerror or type(error).__name__) from error
    except DBAPIError as error:
        raise RunsNotRecorded(home, said_by(error)) from error
    except dg.DagsterInvalidConfigError as error:
        raise RunsNotRecorded(home, _where(error)) from error
    except Exception as error:  # YAML's own, and checks of Dagster's that have no class of errors in common
        raise RunsNotRecorded(home, sentence(error)) from error
    try:
        with opened as instance:
            yield instance
    except IntegrityError:  # ours to mend, no disk's
        raise
    except DBAPIError as error:  # the ledger's others are errors of ours
        raise RunsNotRecorded(home, said_by(error)) from error


def _where(error: dg.DagsterInvalidConfigError) -> str:
    """Return what is wrong and at which path; what Dagster says behind that repeats values, or a traceback."""
    return re.split(r"\. |:?\n", error.errors[0].message)[0]

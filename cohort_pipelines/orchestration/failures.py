"""How our errors become Dagster's: the sentence as it stands, the type, and no retry where none can help."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from cohort_pipelines.errors import CohortPipelinesError, Transient


@contextmanager
def as_dagster_failure() -> Iterator[None]:
    """Turn this project's errors into a Failure; permanent ones must not be retried (the op's policy looks here)."""
    try:
        yield
    except CohortPipelinesError as error:
        raise dg.Failure(
            description=str(error),
            metadata={"error": type(error).__name__},
            allow_retries=isinstance(error, Transient),
        ) from error

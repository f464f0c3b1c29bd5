"""A step of a sync, and how our errors become Dagster's: the sentence as it stands, and its type to search for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import dagster as dg

from cohort_pipelines.core.errors import CohortPipelinesError, DeliveryError, ReadingDeferred, Transient
from cohort_pipelines.core.windows import Window
from cohort_pipelines.history import History
from cohort_pipelines.ledger import Ledger, WindowState
from cohort_pipelines.orchestration.partitions import window_of
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.recovery import require_paired


@dataclass(frozen=True, slots=True)
class Step:
    """What a step works with: where things are kept, and the window that its partition stands for."""

    history: History
    ledger: Ledger
    window: Window


@contextmanager
def step(sync: ResolvedSync, context: dg.AssetExecutionContext) -> Iterator[Step]:
    """Open what a step of ``sync`` needs; an error of ours is noted with the window and fails the step.

    A failure that trying again cannot cure says so to a retry policy, if the run has one.
    """
    try:
        history, ledger = context.resources.records.history(), context.resources.records.ledger()
        require_paired(ledger, history)
        window = window_of(sync.cadence, context.partition_key)
        with _noted(ledger, sync, window):
            yield Step(history, ledger, window)
    except CohortPipelinesError as error:
        raise dg.Failure(
            description=str(error),
            metadata={"error": type(error).__name__},
            allow_retries=isinstance(error, Transient),
        ) from error


@contextmanager
def _noted(ledger: Ledger, sync: ResolvedSync, window: Window) -> Iterator[None]:
    """Note what failed; a delivery notes its own windows, and knows more."""
    try:
        yield
    except DeliveryError:
        raise
    except CohortPipelinesError as error:
        state: WindowState = "deferred" if isinstance(error, ReadingDeferred) else "failed"
        ledger.note_window(sync.name, window.key, state, str(error))
        raise

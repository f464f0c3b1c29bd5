"""The plain rule in place of belief: joiners and leavers against the last finished overwrite. It ends wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.delivery import overwrite
from cohort_pipelines.delivery.belief import Belief, fold
from cohort_pipelines.delivery.schema import ChunkState
from cohort_pipelines.history import History, StoredFile
from cohort_pipelines.identity import Equality


def only_when_finished(
    history: History,
    base: Belief,
    plan: StoredFile,
    chunks: pa.Table,
    *,
    equality: Equality = "exact",
    applies_within: timedelta = timedelta(0),
) -> Belief:
    """Work a plan into belief only where all of it was acknowledged."""
    finished = chunks.filter(pc.field("state") == ChunkState.ACKED)
    rows = sum(hi - lo for lo, hi in zip(finished["lo"].to_pylist(), finished["hi"].to_pylist(), strict=True))
    if rows != plan.rows:
        return base
    return fold(history, base, plan, chunks, equality=equality, applies_within=applies_within)


@contextmanager
def plain_difference() -> Iterator[None]:
    """Let deliveries know of nothing but the last finished overwrite."""
    with patch.object(overwrite, "fold", only_when_finished):
        yield

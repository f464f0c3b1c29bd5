"""The plain rule in place of membership: joiners and leavers against the last finished overwrite. It ends wrong."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.compute as pc

from cohort_pipelines.core.files import StoredFile
from cohort_pipelines.delivery import overwrite
from cohort_pipelines.history import History
from cohort_pipelines.ledger.schema import ChunkState
from cohort_pipelines.membership.state import Membership, fold


def only_when_finished(
    history: History,
    base: Membership,
    plan: StoredFile,
    chunks: pa.Table,
    **terms: Any,  # noqa: ANN401
) -> Membership:
    """Work a plan into membership only where all of it was acknowledged."""
    finished = chunks.filter(pc.field("state") == ChunkState.ACKED)
    rows = sum(hi - lo for lo, hi in zip(finished["lo"].to_pylist(), finished["hi"].to_pylist(), strict=True))
    if rows != plan.rows:
        return base
    return fold(history, base, plan, chunks, **terms)


@contextmanager
def plain_difference() -> Iterator[None]:
    """Let deliveries know of nothing but the last finished overwrite."""
    with patch.object(overwrite, "fold", only_when_finished):
        yield

from collections.abc import Iterator, Sequence
from datetime import timedelta

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings

from cohort_pipelines.delivery import overwrite
from cohort_pipelines.delivery.belief import Belief, fold
from cohort_pipelines.delivery.schema import ChunkState
from cohort_pipelines.history import History, StoredFile
from cohort_pipelines.identity import Equality
from cohort_pipelines_tests.soak.__main__ import run_batch
from cohort_pipelines_tests.soak.bench import Bench, bench
from cohort_pipelines_tests.soak.model import Step, Tally, play, sequences


@pytest.fixture(scope="module")
def place() -> Iterator[Bench]:
    with bench() as made:
        yield made


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=sequences)
def test_whatever_happens_green_and_settled_is_exact(place: Bench, history: Sequence[Step]) -> None:
    play(history, Tally(), place)


@pytest.mark.slow
def test_the_plain_difference_against_the_last_finished_overwrite_is_found_to_be_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def only_when_finished(
        history: History,
        base: Belief,
        plan: StoredFile,
        chunks: pa.Table,
        *,
        equality: Equality = "exact",
        applies_within: timedelta = timedelta(0),
    ) -> Belief:
        finished = chunks.filter(pc.field("state") == ChunkState.ACKED)
        rows = sum(hi - lo for lo, hi in zip(finished["lo"].to_pylist(), finished["hi"].to_pylist(), strict=True))
        if rows != plan.rows:
            return base
        return fold(history, base, plan, chunks, equality=equality, applies_within=applies_within)

    monkeypatch.setattr(overwrite, "fold", only_when_finished)
    tally = run_batch(first=1, count=60)
    assert tally.crashes > 0
    assert tally.violations

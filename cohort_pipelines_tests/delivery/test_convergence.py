"""Any sequence of audiences, crashes, lost answers and late requests, held against what the partner ends up with."""

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cohort_pipelines import clock
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.delivery.belief import SETTLES_AFTER
from cohort_pipelines.errors import DeliveryError
from cohort_pipelines_tests.delivery.world import (
    IN_MEMORY,
    Fate,
    Killed,
    MemoryPartner,
    World,
    dropped,
    late,
    lost,
    tried_twice,
    users,
)

ALMOST = SETTLES_AFTER - timedelta(seconds=5)
FAULTS = {"lost": lost, "dropped": dropped, "late": late, "tried twice": tried_twice}


@dataclass(frozen=True)
class Step:
    """One delivery and what befalls it, then a while."""

    audience: frozenset[int]
    dies_at: int | None
    faults: dict[int, str]
    late_lands: bool
    minutes: int


steps = st.builds(
    Step,
    audience=st.frozensets(st.integers(0, 9)),
    dies_at=st.none() | st.integers(1, 40),
    faults=st.dictionaries(st.integers(1, 6), st.sampled_from(sorted(FAULTS)), max_size=2),
    late_lands=st.booleans(),
    minutes=st.sampled_from([2, 6, 11, 17]),  # longer than a lease; shorter and longer than what settles
)


@pytest.fixture(scope="module")
def folders() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder:
        yield Path(folder)


def try_to_deliver(world: World, step: Step) -> Receipt | None:
    base = len(world.partner.requests)
    world.partner.faults = {base + number: FAULTS[name] for number, name in step.faults.items()}
    world.next_window()
    try:
        return world.overwrite(users(*step.audience), fate=Fate(dies_at=step.dies_at))
    except (DeliveryError, Killed):
        return None


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(history=st.lists(steps, min_size=1, max_size=4))
def test_green_and_settled_is_always_exact(folders: Path, history: list[Step]) -> None:
    world = World(Path(tempfile.mkdtemp(dir=folders)), MemoryPartner(chunk_rows=2))
    last = Step(history[-1].audience, dies_at=None, faults={}, late_lands=False, minutes=17)
    with ExitStack() as later:
        for step in [*history, last, last]:
            receipt = try_to_deliver(world, step)
            if step.late_lands:
                world.partner.land_late_requests()
            if receipt is not None and not receipt.unsettled:
                assert world.partner.late == []  # settled: nothing can land any more
                assert world.partner.members == users(*step.audience)
            later.enter_context(clock.shifted(timedelta(minutes=step.minutes)))
            world.partner.land_late_requests(sent_before=clock.now() - ALMOST)
    assert receipt is not None
    assert receipt.unsettled == 0

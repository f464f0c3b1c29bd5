"""F22: a restore and a scheduled window start together: the later generation wins, and the history shows both."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from cohort_pipelines.core.errors import DeliverySuperseded
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery import Receipt
from cohort_pipelines_tests.delivery.world import SYNC, World, users
from cohort_pipelines_tests.faults.wires import ALREADY_THERE, Wired

FIRST, SECOND, THIRD = users(1, 2, 3) | ALREADY_THERE, users(3, 4, 5), users(5, 6, 7)


@pytest.fixture
def world(wired: Wired) -> World:
    """Return a world in its third window; FIRST and SECOND were delivered, each in its own."""
    world = World(wired.folder)
    for audience in (FIRST, SECOND):
        world.overwrite(audience, partner=wired.partner(), terms=wired.terms)
        world.next_window()
    return world


def receipts(world: World) -> int:
    return len(world.history.versions(SYNC, Stage.RECEIPT, world.window.key))


@pytest.mark.parametrize("attempt", range(4))
def test_f22_whichever_claims_last_wins_and_both_are_in_the_history(world: World, wired: Wired, attempt: int) -> None:
    """They race; what the target holds is what the receipt of the highest generation is about."""
    first_window = next(row.key for row in reversed(world.ledger.windows(SYNC)))
    start = threading.Barrier(2)
    payload, seq = world.seal(THIRD)

    def restore() -> Receipt:
        start.wait(30)
        return world.restore(first_window, partner=wired.partner(), terms=wired.terms)

    def scheduled() -> Receipt | None:
        fresh = World(world.folder)
        fresh.window = world.window
        start.wait(30)
        try:
            if attempt % 2:
                return fresh.overwrite(
                    THIRD, partner=wired.partner(), terms=wired.terms
                )  # reads its snapshot meanwhile
            return fresh.deliver(payload, seq, partner=wired.partner(), terms=wired.terms)
        except DeliverySuperseded:
            return None

    with ThreadPoolExecutor(2) as threads:
        restored, delivered = threads.submit(restore), threads.submit(scheduled)
        put_back, overwritten = restored.result(60), delivered.result(60)

    won = overwritten is not None and overwritten.generation > put_back.generation
    wired.land()
    assert wired.members == wired.with_strangers(THIRD if won else FIRST)
    assert won <= bool(attempt % 2)  # a snapshot that was there before the restore asked never goes over it
    assert receipts(world) == 2
    assert put_back.restored_from == first_window


def test_f22_a_window_that_holds_the_target_goes_first_and_the_restore_goes_over_it(world: World, wired: Wired) -> None:
    wired.fault(kind="delay", seconds=0.3, times=None)
    first_window = next(row.key for row in reversed(world.ledger.windows(SYNC)))
    begun = threading.Event()
    payload, seq = world.seal(THIRD)
    other = World(world.folder)
    other.window = world.window
    with ThreadPoolExecutor(1) as threads:
        scheduled = threads.submit(
            other.deliver,
            payload,
            seq,
            partner=wired.partner(),
            terms=wired.terms,
            on_progress=lambda *_: begun.set(),
        )
        assert begun.wait(30)
        restored = world.restore(first_window, partner=wired.partner(), terms=wired.terms)
        delivered = scheduled.result(60)

    assert restored.generation == delivered.generation + 1
    wired.land()
    assert wired.members == wired.with_strangers(FIRST)
    assert receipts(world) == 2

import asyncio
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import LedgerUnusable, SyncPaused
from cohort_pipelines.delivery.chunks import Ended, Rows, intent
from cohort_pipelines.delivery.recording import Recorder
from cohort_pipelines.ledger import pauses
from cohort_pipelines_tests.delivery.world import SYNC, World, users

AT = datetime(2026, 11, 22, tzinfo=UTC)
CHUNKS: list[Rows] = [(lo, lo + 10, "add") for lo in range(0, 50, 10)]


class Slow:
    """Records what it is given; the first transaction lasts until the others wait."""

    def __init__(self, then: Exception | None = None) -> None:
        self.transactions: list[tuple[list[Ended], list[Rows]]] = []
        self.others_wait = threading.Event()
        self._then = then

    def __call__(self, ended: Sequence[Ended], begun: Sequence[Rows]) -> datetime:
        self.transactions.append((list(ended), list(begun)))
        if len(self.transactions) == 1:
            assert self.others_wait.wait(30)
        elif self._then:
            raise self._then
        return AT


async def recorded(slow: Slow, waiting: Sequence[tuple[Sequence[Ended], Rows | None]]) -> list[object]:
    """Record one chunk, and ``waiting`` while that is under way; return what came of each."""
    recorder = Recorder(slow)
    first = asyncio.create_task(recorder.record((), CHUNKS[0]))
    others = [asyncio.create_task(recorder.record(ended, begun)) for ended, begun in waiting]
    await asyncio.sleep(0)
    slow.others_wait.set()
    return list(await asyncio.gather(first, *others, return_exceptions=True))


def test_what_waits_goes_into_one_transaction() -> None:
    slow = Slow()
    ended = intent(CHUNKS[4], AT, AT)
    outcomes = asyncio.run(recorded(slow, [((), CHUNKS[1]), ((ended,), CHUNKS[2]), ((), CHUNKS[3])]))
    assert slow.transactions == [([], CHUNKS[:1]), ([ended], CHUNKS[1:4])]
    assert [getattr(outcome, "at", None) for outcome in outcomes] == [AT] * 4


def test_a_transaction_that_fails_fails_for_all_whom_it_took_along() -> None:
    gone = LedgerUnusable("ledger", "disk full")
    first, *others = asyncio.run(recorded(Slow(gone), [((), CHUNKS[1]), ((), CHUNKS[2])]))
    assert getattr(first, "at", None) == AT
    assert others == [gone, gone]


def test_a_pause_stops_those_who_would_begin_and_nobody_who_only_ended() -> None:
    paused = SyncPaused(SYNC, "somebody", "to look at it")
    ended = intent(CHUNKS[4], AT, AT)
    _, begins, ends = asyncio.run(recorded(Slow(paused), [((), CHUNKS[1]), ((ended,), None)]))
    assert begins is paused
    assert not isinstance(ends, BaseException)


def test_the_ledgers_time_goes_on_by_the_hosts_clock() -> None:
    async def scenario() -> datetime:
        slow = Slow()
        slow.others_wait.set()
        recorded = await Recorder(slow).record((), CHUNKS[0])
        with clock.shifted(timedelta(hours=1)):
            return recorded.now()

    assert timedelta(hours=1) <= asyncio.run(scenario()) - AT < timedelta(hours=1, minutes=1)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pause_ends_a_delivery_between_two_chunks(world: World, workers: int) -> None:
    def pause(number: int) -> None:
        if number == 5:
            pauses.pause(world.ledger, SYNC, who="somebody", why="to look at it")

    world.partner.workers = workers
    world.partner.on_request = pause
    with pytest.raises(SyncPaused, match="to look at it"):
        world.overwrite(users(*range(100)))
    sent = len(world.partner.requests)
    assert 5 <= sent < 5 + workers

    pauses.resume(world.ledger, SYNC)
    world.next_window()
    receipt = world.overwrite(users(*range(100)))
    assert receipt.unchanged == sent * world.partner.chunk_rows  # nothing was left unknown
    assert world.partner.repeated(sent) == 0

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from datetime import datetime, timedelta

import pytest
from sqlalchemy import func, select

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import LedgerUnusable, ReadingDeferred
from cohort_pipelines.ledger import permits, schema
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines_tests.event_loops import free_of_the_ledger

PROJECT = "project 1 at https://mixpanel.com"


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url)


@pytest.fixture(autouse=True)
def _quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permits, "_POLL_SECONDS", (0.01, 0.02))


def soon(seconds: float = 30) -> datetime:
    return clock.now() + timedelta(seconds=seconds)


@asynccontextmanager
async def permitted(ledger: Ledger, cohort: int, places: int = 1, **more: float) -> AsyncIterator[permits.Share]:
    async with permits.permit(ledger, PROJECT, cohort, deadline=soon(), places=places, **more) as share:
        yield share


def rows(ledger: Ledger) -> int:
    with ledger.read() as connection:
        return connection.execute(select(func.count()).select_from(schema.reading)).scalar_one()


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not await asyncio.to_thread(true):  # noqa: ASYNC110  the ledger has no event
            await asyncio.sleep(0.01)


async def order_of_turns(ledger: Ledger, cohorts: list[int], places: int = 1) -> list[str]:
    """Let cohorts ask one after another, each in the place of the one before, and return what came to pass."""
    log: list[str] = []
    go_on = [asyncio.Event() for _ in cohorts]

    async def read(number: int, cohort: int) -> None:
        async with permitted(ledger, cohort, places):
            log.append(f"+{cohort}")
            await go_on[number].wait()
            log.append(f"-{cohort}")

    tasks = []
    for number, cohort in enumerate(cohorts):
        tasks.append(asyncio.create_task(read(number, cohort)))
        await until(lambda: rows(ledger) == len(tasks))
    for number, each in enumerate(go_on):
        await until(lambda: len(log) >= min(number + places, len(cohorts)) + number)  # noqa: B023
        each.set()
    await asyncio.gather(*tasks)
    return log


def test_readings_of_a_project_take_turns_in_the_order_of_asking(ledger: Ledger) -> None:
    assert asyncio.run(order_of_turns(ledger, [3, 1, 2])) == ["+3", "-3", "+1", "-1", "+2", "-2"]
    assert rows(ledger) == 0


def test_as_many_readings_go_on_at_once_as_there_are_places(ledger: Ledger) -> None:
    assert asyncio.run(order_of_turns(ledger, [1, 2, 3], places=2)) == ["+1", "+2", "-1", "+3", "-2", "-3"]


def test_readings_of_one_cohort_follow_one_another_though_there_are_places(ledger: Ledger) -> None:
    async def scenario() -> list[str]:
        log: list[str] = []

        async def second() -> None:
            async with permitted(ledger, 1, places=4):
                log.append("second")

        async with permitted(ledger, 1, places=4):
            task = asyncio.create_task(second())
            await until(lambda: rows(ledger) == 2)
            async with permitted(ledger, 2, places=4):
                log.append("another cohort")
            log.append("first")
        await task
        return log

    assert asyncio.run(scenario()) == ["another cohort", "first", "second"]


def test_another_project_and_another_host_wait_for_nobody(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with permitted(ledger, 1), permits.permit(ledger, "project 1 at eu", 1, deadline=soon(), places=1):
            pass

    asyncio.run(scenario())


def test_the_place_of_a_dead_reader_is_free_half_a_minute_later(ledger: Ledger) -> None:
    dead = permits._Asked(ledger, PROJECT, 1, places=1, seconds=permits.EXPIRES_AFTER)
    dead.enter()

    async def scenario() -> None:
        with pytest.raises(ReadingDeferred):
            async with permits.permit(ledger, PROJECT, 2, deadline=soon(0.2), places=1):
                pass
        with clock.shifted(timedelta(seconds=permits.EXPIRES_AFTER + 1)):
            async with permitted(ledger, 2):
                assert await asyncio.to_thread(rows, ledger) == 1

    asyncio.run(scenario())


def test_a_row_of_a_clock_ahead_holds_nobody_up(ledger: Ledger) -> None:
    with clock.shifted(timedelta(days=1)):
        permits._Asked(ledger, PROJECT, 1, places=1, seconds=30).enter()

    async def scenario() -> None:
        async with permitted(ledger, 2):
            pass

    asyncio.run(scenario())


def test_a_reader_that_lives_keeps_its_place(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with permitted(ledger, 1, seconds=0.3):
            with pytest.raises(ReadingDeferred):
                async with permits.permit(ledger, PROJECT, 2, deadline=soon(1), places=1):
                    pass

    asyncio.run(scenario())


def test_one_that_waited_for_longer_than_its_row_lasts_has_kept_its_turn(ledger: Ledger) -> None:
    async def scenario() -> list[int]:
        log: list[int] = []

        async def read(cohort: int, seconds: float) -> None:
            async with permitted(ledger, cohort, seconds=seconds):
                log.append(cohort)

        async with permitted(ledger, 1):
            second = asyncio.create_task(read(2, seconds=0.2))
            await until(lambda: rows(ledger) == 2)
            await asyncio.sleep(0.5)  # what is waited for is time itself
            third = asyncio.create_task(read(3, seconds=30))
            await until(lambda: rows(ledger) == 3)
        await asyncio.gather(second, third)
        return log

    assert asyncio.run(scenario()) == [2, 3]


def test_a_cancel_ends_the_wait_and_leaves_no_row(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with permitted(ledger, 1):
            waiting = asyncio.create_task(permitted(ledger, 2).__aenter__())
            await until(lambda: rows(ledger) == 2)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await asyncio.to_thread(rows, ledger) == 1

    asyncio.run(scenario())
    assert rows(ledger) == 0


def test_at_the_deadline_it_is_deferred_and_says_that_nothing_was_sent(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with permitted(ledger, 1):
            with pytest.raises(ReadingDeferred, match=r"Mixpanel project 1 at .* Nothing was sent"):
                async with permits.permit(ledger, PROJECT, 2, deadline=soon(-1), places=1):
                    pass

    asyncio.run(scenario())
    assert rows(ledger) == 0


@contextmanager
def full(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def write(ledger: Ledger) -> Iterator[None]:
        raise LedgerUnusable(ledger.where, "database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", write)
        yield


def test_a_disk_that_fills_while_it_is_read_ends_no_reading_and_leaves_no_place_taken(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        with full(monkeypatch), pytest.raises(LedgerUnusable, match="full"):
            async with permitted(ledger, 1):
                pass
        async with permitted(ledger, 1, seconds=0.3):
            with full(monkeypatch):
                await asyncio.sleep(0.2)  # in which it would have been renewed
        async with permitted(ledger, 2):
            pass

    asyncio.run(scenario())
    assert rows(ledger) == 0


def test_a_ledger_that_is_locked_for_a_while_ends_no_wait(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = threading.Event()

    def locked(asked: permits._Asked) -> bool:
        refused.set()
        raise LedgerUnusable(asked.ledger.where, "database is locked")

    async def scenario() -> None:
        async with permitted(ledger, 1):
            waiting = asyncio.create_task(permitted(ledger, 2, seconds=0.1).__aenter__())
            await until(lambda: rows(ledger) == 2)
            for name in ("may_read", "renew"):
                with monkeypatch.context() as patch:
                    refused.clear()
                    patch.setattr(permits._Asked, name, locked)
                    await until(refused.is_set)
        async with asyncio.timeout(30):
            await waiting

    asyncio.run(scenario())


def test_a_permit_that_is_not_renewed_any_more_ends_no_reading_and_says_so(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: permits._Asked) -> bool:
        raise ZeroDivisionError

    monkeypatch.setattr(permits._Asked, "renew", broken)

    async def scenario() -> None:
        async with permitted(ledger, 1, seconds=0.1):
            await until(lambda: "ZeroDivisionError" in caplog.text)

    asyncio.run(scenario())
    assert "is not renewed any more" in caplog.text


def test_readers_share_what_a_project_may_be_asked_at_once(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as reading:
            shares = []
            for cohort, expected in enumerate([[5], [3, 2], [2, 2, 1], [2, 1, 1, 1]]):
                shares.append(await reading.enter_async_context(permitted(ledger, cohort, places=4)))
                await until(lambda: [share(5) for share in shares] == expected)  # noqa: B023
            async with asyncio.timeout(30):
                with suppress(ReadingDeferred):  # one that only waits has no share
                    async with permits.permit(ledger, PROJECT, 9, deadline=soon(0.2), places=4):
                        pytest.fail("it was to wait")
            assert [share(5) for share in shares] == [2, 1, 1, 1]
            assert shares[-1](2) == 1

    asyncio.run(scenario())


def test_who_is_left_alone_has_all_of_it_again(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with permitted(ledger, 1, places=2) as share:
            async with permitted(ledger, 2, places=2):
                await until(lambda: share(5) == 3)
            await until(lambda: share(5) == 5)

    asyncio.run(scenario())


def test_no_wait_for_a_permit_blocks_the_event_loop_or_the_ledger(ledger: Ledger) -> None:
    async def scenario() -> None:
        async with permitted(ledger, 1):
            waiting = asyncio.create_task(permitted(ledger, 2).__aenter__())
            await until(lambda: rows(ledger) == 2)
            assert await asyncio.to_thread(ledger.begin_snapshot)  # another can write
            waiting.cancel()
            await asyncio.wait([waiting])

    with free_of_the_ledger() as blocking:
        asyncio.run(scenario())
    assert blocking == []
    assert "permit to read" not in {thread.name for thread in threading.enumerate()}


def test_many_threads_read_one_after_another(ledger: Ledger) -> None:
    at_once: list[int] = []
    reading: set[int] = set()

    async def read(cohort: int) -> None:
        async with permits.permit(ledger, PROJECT, cohort, deadline=soon(), places=2):
            reading.add(cohort)
            at_once.append(len(reading))
            await asyncio.sleep(0.01)
            reading.remove(cohort)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda cohort: asyncio.run(read(cohort)), range(8)))
    assert len(at_once) == 8
    assert max(at_once) <= 2

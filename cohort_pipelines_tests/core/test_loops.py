import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

from cohort_pipelines.core import event_loop


class Cancelled(BaseException):
    """As Dagster's own interrupt: no Exception, raised by a signal's handler in the main thread."""


@pytest.fixture
def a_signal_cancels() -> Iterator[signal.Signals]:
    def cancel(_number: int, _frame: FrameType | None) -> None:
        raise Cancelled

    before = signal.signal(signal.SIGUSR1, cancel)
    yield signal.SIGUSR1
    signal.signal(signal.SIGUSR1, before)


def test_what_is_returned_comes_back() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert event_loop.run(work()) == "done"


def test_what_is_raised_comes_back() -> None:
    async def work() -> None:
        raise LookupError

    with pytest.raises(LookupError):
        event_loop.run(work())


@pytest.mark.slow
def test_a_signal_during_a_callback_of_the_loop_is_not_lost(a_signal_cancels: signal.Signals) -> None:
    unwound = threading.Event()

    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), a_signal_cancels)
        try:
            await asyncio.sleep(10)
        finally:
            unwound.set()

    with pytest.raises(Cancelled):
        event_loop.run(work())
    assert unwound.is_set()


def test_leaving_at_once_cancels_what_has_hardly_begun() -> None:
    async def work() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Cancelled), event_loop.running(work()) as outcome:
        raise Cancelled
    assert isinstance(outcome.exception(), asyncio.CancelledError)


def test_all_tasks_are_cancelled_and_have_ended() -> None:
    begun, ended = threading.Barrier(3), list[int]()

    async def part(number: int) -> None:
        try:
            await asyncio.to_thread(begun.wait)
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async def work() -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(2):
                tasks.create_task(part(number))

    def interrupted() -> None:
        with event_loop.running(work()):
            begun.wait()
            raise Cancelled

    with pytest.raises(Cancelled):
        interrupted()
    assert sorted(ended) == [0, 1]

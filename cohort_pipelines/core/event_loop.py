"""An event loop in a thread of its own, so that a cancel is never lost.

Dagster cancels by an exception that its signal handler raises in the main thread, wherever that is. In one of the event
loop's callbacks it would be logged and forgotten; here it only ever meets a wait.
"""

import asyncio
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")


@contextmanager
def running(work: Coroutine[Any, Any, T]) -> Iterator[Future[T]]:
    """Yield the outcome of ``work``, which runs meanwhile; leaving with an exception cancels it.

    It has ended before the ``with`` block is left, unless a second exception interrupts even the wait for that.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="event-loop") as thread:
        thread.submit(int).result()  # it has started before the work begins: the pool joins no thread that was starting
        loop = asyncio.new_event_loop()
        try:
            yield thread.submit(copy_context().run, _run_and_close, loop, work)
        except BaseException:
            with suppress(RuntimeError):  # the loop is closed: the work has ended
                loop.call_soon_threadsafe(_cancel_all, loop)
            raise


def run(work: Coroutine[Any, Any, T]) -> T:
    """Return what ``work`` returns, or raise what it raises; an exception that interrupts the wait cancels it."""
    with running(work) as outcome:
        return outcome.result()


def _run_and_close(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(work)


def _cancel_all(loop: asyncio.AbstractEventLoop) -> None:
    for task in asyncio.all_tasks(loop):
        task.cancel()

"""Recording for several workers at once: what they have waiting goes into one transaction.

A commit that is durable takes the disk some milliseconds, whatever it holds. While one is on its way the others wait
for their turn, and the next one writes for all that wait.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import SyncPaused
from cohort_pipelines.delivery.chunks import Ended, Rows

Record = Callable[[Sequence[Ended], Sequence[Rows]], datetime]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A transaction that is durable.

    Attributes:
        at: its moment by the ledger's time.
        asked: when it began, by :func:`cohort_pipelines.core.clock.monotonic`.
    """

    at: datetime
    asked: float

    def now(self) -> datetime:
        """Return the ledger's time, whatever was done to this host's clock since."""
        return self.at + timedelta(seconds=clock.monotonic() - self.asked)


@dataclass(slots=True, eq=False)
class _Waiting:
    """What a worker has to record: what became of its chunk, the rows that it is about to send, and the outcome."""

    ended: Sequence[Ended]
    begun: Rows | None
    recorded: Recorded | None = None
    error: BaseException | None = None


class Recorder:
    """Takes turns at ``record``, which is called in a thread and makes one durable transaction of what it is given."""

    def __init__(self, record: Record) -> None:
        self._record = record
        self._waiting: list[_Waiting] = []
        self._turn = asyncio.Lock()

    async def record(self, ended: Sequence[Ended], begun: Rows | None) -> Recorded:
        """Return once ``ended`` and the intent to send ``begun`` are durable.

        Raises:
            SyncPaused: ``ended`` is durable, and nothing may be begun.
            LeaseLost: another run has taken the target over.
            LedgerUnusable: nothing was recorded.
        """
        mine = _Waiting(ended, begun)
        self._waiting.append(mine)
        async with self._turn:
            if mine in self._waiting:  # else another's transaction took it along
                await self._commit()
        if mine.error:
            raise mine.error
        assert mine.recorded is not None  # noqa: S101  neither would mean that the turn never came
        return mine.recorded

    async def _commit(self) -> None:
        taken, self._waiting = self._waiting, []
        ended = [each for waiting in taken for each in waiting.ended]
        begun = [waiting.begun for waiting in taken if waiting.begun is not None]
        asked, now = clock.monotonic(), clock.now()
        try:
            at = await asyncio.to_thread(self._record, ended, begun)
        except SyncPaused as paused:
            for waiting in taken:
                waiting.recorded = Recorded(now, asked)
                waiting.error = None if waiting.begun is None else paused
        except BaseException as error:  # all of them fail by the same cause
            for waiting in taken:
                waiting.error = error
            raise
        else:
            for waiting in taken:
                waiting.recorded = Recorded(at, asked)

"""Sending a plan: a few workers, each chunk recorded before and after, and the reasons to stop.

A cancel arrives as an exception in the main thread. There it only ever meets a wait (:mod:`cohort_pipelines.loops`), so
that the workers end between two chunks and what they know is recorded.
"""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from datetime import datetime, timedelta

from cohort_pipelines import clock, loops
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.chunks import PATIENCE, Chunk, Ended, split_by_outcome
from cohort_pipelines.delivery.schema import ChunkState
from cohort_pipelines.errors import LeaseLost, PartnerError, PartnerKeyRefused, PartnerRequestRefused
from cohort_pipelines.partners.wire import Answer, ChangeWire, Operation, Session

GRACE = timedelta(seconds=30)
"""How long chunks under way may go on after the deadline or a cancel."""

_PROGRESS_SECONDS = 0.5

Progress = Callable[[int, int], None]
Phases = Sequence[Iterator[Chunk]]


class Sending:
    """One attempt's chunks on their way to the partner.

    Attributes:
        requests: requests made so far.
        done: rows of the plan that got a clear answer so far, ``acknowledged`` of them a good one.
        stopped: why it ended before its plan was done, in words; empty when it was done, or only short of time.
        yielded: whether it ended for want of time, or was cancelled.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.requests = 0
        self.done = 0
        self.acknowledged = 0
        self.stopped = ""
        self.yielded = False
        self._attempt = attempt
        self._deadline = attempt.asked.deadline
        self._refusals: dict[Operation, str] = {}  # the last of each operation while nothing was acknowledged
        self._recording = asyncio.Lock()

    def run(self, wire: ChangeWire, phases: Phases, planned: int, on_progress: Progress | None) -> None:
        """Send ``phases``; return when nothing is under way any more. ``on_progress`` is told rows done of ``planned``.

        Raises:
            LeaseLost: another run has taken the target over.
            LedgerUnusable: what happened could not be recorded.
        """
        with loops.running(self._send_all(wire, phases, planned)) as sending:
            try:
                while not sending.done():
                    wait([sending], _PROGRESS_SECONDS)
                    if on_progress is not None:
                        on_progress(self.done, planned)
            except BaseException:
                self.yielded = True
                wait([sending], GRACE.total_seconds())
                raise
            sending.result()

    async def _send_all(self, wire: ChangeWire, phases: Phases, planned: int) -> None:
        async with wire.open(self._attempt.asked.target.name) as session:
            if not self._attempt.established:
                await self._establish(session)
            await self._send_phases(session, phases, wire.workers)
            known_good = await self._is_known_good()
            if known_good:  # whatever refused chunks held up follows; else nothing is left
                await self._send_phases(session, phases, wire.workers)
            if self._refusals and not self.acknowledged and not (known_good and self.done == planned):
                self.stopped = self.stopped or next(iter(self._refusals.values()))

    async def _is_known_good(self) -> bool:
        """Say whether refusals concern their rows only, and neither the connection nor the target as a whole.

        They do if anything was acknowledged. Short of that the benefit of the doubt needs an acknowledgement in an
        earlier attempt, and ends where additions and removals are refused alike.
        """
        if self.acknowledged or not self._refusals:
            return True
        return len(self._refusals) == 1 and await asyncio.to_thread(self._attempt.ever_acknowledged)

    async def _establish(self, session: Session) -> None:
        try:
            self.requests += await session.establish(self._time_limit())
        except PartnerError as error:
            self.requests += 1
            self.stopped = str(error)
        else:
            await asyncio.to_thread(self._attempt.mark_established)

    async def _send_phases(self, session: Session, phases: Phases, workers: int) -> None:
        for phase in phases:  # additions end before removals begin
            await self._send_phase(session, phase, workers)

    async def _send_phase(self, session: Session, chunks: Iterator[Chunk], workers: int) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(workers):
                    tasks.create_task(self._work(session, chunks))
        except BaseExceptionGroup as group:  # the first failure is the cause of the others
            raise group.exceptions[0] from None

    async def _work(self, session: Session, chunks: Iterator[Chunk]) -> None:
        ended: Sequence[Ended] = ()
        while (chunk := self._next(chunks)) is not None:
            intent_at = await self._record(ended, chunk)
            ended = await self._send(session, chunk, intent_at)
            if ended[0].state is ChunkState.REFUSED_WHOLE and not self.acknowledged:
                break  # the others go on only if something of theirs is acknowledged
        if ended:
            await self._record(ended, None)

    def _next(self, chunks: Iterator[Chunk]) -> Chunk | None:
        """Take the next chunk, unless there is none or a reason to start no more."""
        if self.stopped or (chunk := next(chunks, None)) is None or self._must_end():
            return None
        return chunk

    def _must_end(self) -> bool:
        """Say whether no further chunk may be started, though there are some."""
        if not self.stopped and clock.now() >= self._deadline:
            self.yielded = True
        return self.yielded or bool(self.stopped)

    async def _record(self, ended: Sequence[Ended], begun: Chunk | None) -> datetime:
        rows = None if begun is None else (begun.lo, begun.hi, begun.operation)
        async with self._recording:  # SQLite's own way to wait for its lock is to sleep
            return await asyncio.to_thread(self._attempt.record, ended, rows)

    async def _send(self, session: Session, chunk: Chunk, intent_at: datetime) -> list[Ended]:
        if clock.now() >= intent_at + timedelta(seconds=self._attempt.lease_seconds):
            raise LeaseLost(self._attempt.asked.target.name)  # this process was stopped in between
        try:
            answer = await session.send(chunk.operation, chunk.ids, chunk.page, chunk.pages, self._time_limit())
        except PartnerRequestRefused as error:
            self.requests += 1
            self.done += chunk.hi - chunk.lo
            if not self.acknowledged:
                self._refusals[chunk.operation] = str(error)
            return [chunk.ended(ChunkState.REFUSED_WHOLE, f"refused ({error.status})", intent_at)]
        except PartnerError as error:
            self.requests += 1
            self._stop(str(error), for_good=isinstance(error, PartnerKeyRefused))
            return [chunk.ended(ChunkState.UNKNOWN, type(error).__name__, intent_at)]
        return self._answered(chunk, answer, intent_at)

    def _answered(self, chunk: Chunk, answer: Answer, intent_at: datetime) -> list[Ended]:
        rows = chunk.hi - chunk.lo
        self.requests += answer.requests
        self.done += rows - len(answer.unknown)
        self.acknowledged += rows - len(answer.unknown) - len(answer.refused)
        if answer.unknown:
            reason = next(iter(answer.unknown.values()))
            self._stop(f"{len(answer.unknown):,} changes got no clear answer ({reason})", for_good=False)
        return split_by_outcome(chunk, answer, intent_at)

    def _stop(self, cause: str, *, for_good: bool) -> None:
        """Start no more chunks; what the deadline or a cancel cut off is no failure of the partner's."""
        if for_good or not self._must_end():
            self.stopped = self.stopped or cause

    def _time_limit(self) -> datetime:
        now = clock.now()
        return max(now + GRACE, min(self._deadline, now + PATIENCE))

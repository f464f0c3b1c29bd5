"""Sending a plan: a few workers, each chunk recorded before and after, and the reasons to stop.

A cancel arrives as an exception in the main thread. There it only ever meets a wait
(:mod:`cohort_pipelines.core.event_loop`), so that the workers end between two chunks and what they know is recorded.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import wait
from datetime import datetime, timedelta
from http import HTTPStatus
from itertools import chain, islice

from cohort_pipelines.core import clock, event_loop
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import (
    PartnerError,
    PartnerKeyRefused,
    PartnerRateLimited,
    PartnerRequestRejected,
    PartnerTargetMissing,
    SyncPaused,
)
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.bisecting import Bisection
from cohort_pipelines.delivery.chunks import PATIENCE, Chunk, Ended, Phase, extra_requests, split_by_outcome
from cohort_pipelines.delivery.recording import Recorded, Recorder
from cohort_pipelines.destinations import Answer, BackingOff, ChangeWire, Session, again_after
from cohort_pipelines.ledger import ChunkState
from cohort_pipelines.membership import PlanCounts

GRACE = timedelta(seconds=30)
"""How long chunks under way may go on after the deadline or a cancel."""

_PROGRESS_SECONDS = 0.5
_NAP_SECONDS = 0.5
_HANDFUL = 4  # requests that may be refused while it is found out who is to blame
_UNHEARD = 8  # requests that may be refused, and nothing acknowledged, before rows can no longer be to blame
_NOT_THERE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, HTTPStatus.GONE, HTTPStatus.UNPROCESSABLE_ENTITY})
_TO_TAKE_BACK = frozenset({ChunkState.NOT_SENT, ChunkState.REJECTED_WHOLE})

Progress = Callable[[int, int], None]


class Sending:
    """One attempt's chunks on their way to the partner.

    Attributes:
        requests: requests made so far.
        done: rows of the plan that got a clear answer so far, ``acknowledged`` of them a good one.
        stopped: why it ended before its plan was done, in words; empty when it was done, or only short of time.
        deferred: whether it ended for want of time, or was cancelled or paused.
        paused: whether it ended since the sync was paused.
        established: whether it is recorded that the target is there.
        missing: whether the partner does not know the target any more, so that it holds no id.
    """

    def __init__(self, attempt: Attempt) -> None:
        self.requests = 0
        self.done = 0
        self.acknowledged = 0
        self.stopped = ""
        self.deferred = False
        self.paused = False
        self.established = attempt.established
        self.missing = False
        self._attempt = attempt
        self._excused_from = 0  # rows from here on only reconcile ids that are out, which a partner may well refuse
        self._deadline = attempt.asked.deadline
        self._recorder = Recorder(attempt.record)
        self._refusals: dict[Operation, str] = {}  # the last of each operation while nothing was acknowledged
        self._unheard = 0  # requests refused while nothing was acknowledged
        self._last_refusal: PartnerRequestRejected | None = None
        self._looked = False  # whether the partner was asked for the target
        self._again: deque[Chunk] = deque()  # what was not sent after all
        self._bisection = Bisection(0, judges_rows=True)
        self._not_before = clock.monotonic()  # the partner turned us away until then
        self._backing_off = BackingOff()

    def run(
        self,
        wire: ChangeWire,
        phases: Sequence[Phase],
        counts: PlanCounts,
        on_progress: Progress | None,
        *,
        look: bool = False,
    ) -> None:
        """Send ``phases``; return when nothing is under way any more. ``on_progress`` is told rows done, of how many.

        With ``look`` the partner is asked for the target first.

        Raises:
            LeaseLost: another run has taken the target over.
            LedgerUnusable: what happened could not be recorded.
        """
        planned = counts.operations
        self._excused_from = planned if wire.judges_rows else counts.excused_from
        self._bisect(wire, counts)
        with event_loop.running(self._send_all(wire, phases, counts, look=look)) as sending:
            try:
                while not sending.done():
                    wait([sending], _PROGRESS_SECONDS)
                    if on_progress is not None:
                        on_progress(self.done, planned)
            except BaseException:
                self.deferred = True
                wait([sending], GRACE.total_seconds())
                raise
            sending.result()

    async def _send_all(self, wire: ChangeWire, phases: Sequence[Phase], counts: PlanCounts, *, look: bool) -> None:
        *usual, again = phases
        async with wire.open(self._attempt.asked.target.name) as session:
            if not self.established:
                await self._establish(session)
            elif look:
                await self._ask(session.find)
            trusted = await self._open(session, usual)
            for phase in (*usual, *usual):  # additions end before removals begin; then what refused chunks held up
                if not self._in_doubt:
                    await self._send_chunks(session, phase.chunks, wire.workers)
                if not self._in_doubt:
                    await self._send_chunks(session, self._while_heard(phase.alone), wire.workers)
            if counts.again and not (self._in_doubt or self._bisection.suspects_the_connection):
                self._bisect(wire, counts)  # no part of a refused removal is tried from here on
                await self._send_chunks(session, again.chunks, wire.workers)
            await self._look_for_the_target(session)
        if self._in_doubt and not self.paused:
            only_rows = trusted and self.done == counts.operations < _UNHEARD
            self.stopped = self.stopped or ("" if only_rows else next(iter(self._refusals.values())))
        elif self._bisection.suspects_the_connection and not self.deferred:
            self.stopped = self.stopped or str(self._last_refusal)

    def _bisect(self, wire: ChangeWire, counts: PlanCounts) -> None:
        self._bisection = Bisection(extra_requests(counts.operations), judges_rows=wire.judges_rows)

    @property
    def _in_doubt(self) -> bool:
        """Whether the connection or the target may be to blame: something was refused, and nothing acknowledged."""
        return bool(self._refusals) and not self.acknowledged

    async def _open(self, session: Session, phases: Sequence[Phase]) -> bool:
        """Send one chunk by itself, and find out little by little who is to blame where it is refused.

        A removal tells whether additions are refused for their rows. Where a delivery to this target was ever
        acknowledged and one kind of change alone was refused, the halves of the chunk are tried; then whatever else the
        plan has. Returns whether that is so. A target that refuses everything is asked a handful of times.
        """
        adds, removals = (chain.from_iterable(phase.chunks for phase in phases[first::2]) for first in (0, 1))
        await self._send_chunks(session, islice(chain(adds, removals), 1), workers=1)
        if not self._in_doubt:
            return False
        await self._look_for_the_target(session)
        if Operation.ADD in self._refusals:
            await self._send_chunks(session, islice(removals, 1), workers=1)
        trusted = len(self._refusals) == 1 and await asyncio.to_thread(self._attempt.ever_acknowledged)
        if trusted and self._in_doubt:
            self._bisection.trust()
            await self._send_chunks(session, iter(()), workers=1)
        for more in (adds, removals, chain.from_iterable(phase.alone for phase in phases)):
            if self._in_doubt and self._unheard < _HANDFUL and len(self._refusals) == 1:
                await self._send_chunks(session, islice(more, 1), workers=1)
        return trusted

    def _while_heard(self, alone: Iterator[Chunk]) -> Iterator[Chunk]:
        """Yield chunks of rows that were refused before, until too many of them are again before anything else is."""
        while (self.acknowledged or self._unheard < _UNHEARD) and (chunk := next(alone, None)) is not None:
            yield chunk

    async def _establish(self, session: Session) -> None:
        if await self._ask(session.establish):
            await asyncio.to_thread(self._attempt.mark_established)
            self.established = True

    async def _ask(self, ask: Callable[[datetime], Awaitable[int]]) -> int:
        """Return how many requests ``ask`` made, once the partner has time for it; 0 where it came to nothing."""
        while not self._must_end():
            try:
                await asyncio.to_thread(self._attempt.require_lease)
                made = await ask(self._time_limit())
            except SyncPaused:
                self.paused = self.deferred = True
            except PartnerTargetMissing as missing:
                self._miss(missing)
            except PartnerRateLimited as busy:
                self.requests += busy.requests
                self._leave_alone(again_after(busy))
                await self._nap()
            except PartnerError as error:
                self.requests += error.requests
                self._stop(str(error), for_good=True)
            else:
                self.requests += made
                return made
        return 0

    async def _look_for_the_target(self, session: Session) -> None:
        """Where all that was heard is that something is not there, ask once whether the target is: a user may be it."""
        refusal = self._last_refusal
        if refusal is None or not refusal.may_miss_the_target or self.acknowledged or self._looked or self._must_end():
            return
        self._looked = True
        try:
            await asyncio.to_thread(self._attempt.require_lease)
            self.requests += await session.find(self._time_limit())
        except PartnerTargetMissing as missing:
            self._miss(missing)
        except PartnerError as unclear:
            self.requests += unclear.requests
        except SyncPaused:
            self.paused = self.deferred = True

    def _miss(self, missing: PartnerTargetMissing) -> None:
        self.requests += missing.requests
        self.missing = True
        self.stopped = str(missing)

    async def _send_chunks(self, session: Session, chunks: Iterator[Chunk], workers: int) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(workers):
                    tasks.create_task(self._work(session, chunks))
        except BaseExceptionGroup as group:  # the first failure is the cause of the others
            cause: BaseException = group
            while isinstance(cause, BaseExceptionGroup):  # an adapter may have had several tasks under way too
                cause = cause.exceptions[0]
            raise cause from None

    async def _work(self, session: Session, chunks: Iterator[Chunk]) -> None:
        ended: Sequence[Ended] = ()
        while (chunk := self._next(chunks)) is not None:
            if self._rate_limited_for > 0:
                await self._flush(ended)
                ended = ()
                await self._nap()
            if self._must_end():
                break
            try:
                recorded = await self._recorder.record(ended, chunk.rows)
            except SyncPaused:
                self.paused = self.deferred = True
                return
            ended = await self._send(session, chunk, recorded)
            if any(each.state in _TO_TAKE_BACK for each in ended):
                await self._flush(ended)  # before anybody begins them anew
                self._take_back(chunk, ended)
                in_doubt = self._in_doubt and not (chunk.alone or chunk.splits)
                if ended[0].state is ChunkState.REJECTED_WHOLE and in_doubt:
                    return  # the others go on only if something of theirs is acknowledged
                ended = ()
        await self._flush(ended)

    def _next(self, chunks: Iterator[Chunk]) -> Chunk | None:
        """Take what is to be sent next, unless there is nothing or a reason to start no more."""
        if self.stopped or self.deferred:
            return None
        if self._again:
            return self._again.popleft()
        if part := self._bisection.take():
            self.done -= part.hi - part.lo  # which it was when the whole was refused
            return part
        return next(chunks, None)

    @property
    def _rate_limited_for(self) -> float:
        """Seconds until the partner may be asked again."""
        return max(self._not_before - clock.monotonic(), 0.0)

    def _must_end(self) -> bool:
        """Say whether no further chunk may be started, though there are some."""
        if not self.stopped and clock.now() + timedelta(seconds=self._rate_limited_for) >= self._deadline:
            self.deferred = True
        return self.deferred or bool(self.stopped)

    async def _nap(self) -> None:
        """Wait until the partner may be asked again, or something ends the attempt."""
        while (seconds := self._rate_limited_for) and not self._must_end():  # noqa: ASYNC110  a cancel has no event
            await asyncio.sleep(min(_NAP_SECONDS, seconds))

    def _leave_alone(self, seconds: float) -> None:
        """Send nothing for a while, since the partner turned us away and named so many ``seconds``."""
        self._not_before = max(self._not_before, clock.monotonic() + self._backing_off.rate_limited(seconds))

    async def _flush(self, ended: Sequence[Ended]) -> None:
        """Record what became of a chunk, if anything, and begin nothing."""
        if ended:
            await self._recorder.record(ended, None)

    def _take_back(self, chunk: Chunk, ended: Sequence[Ended]) -> None:
        """Let what was not sent be sent again, and the parts of what was rejected as a whole."""
        if ended[0].state is ChunkState.REJECTED_WHOLE:
            self._bisection.put([chunk.part(each.lo, each.hi, splits=1) for each in ended])
        else:
            self._again += [chunk.part(each.lo, each.hi) for each in ended if each.state is ChunkState.NOT_SENT]

    async def _send(self, session: Session, chunk: Chunk, recorded: Recorded) -> list[Ended]:
        try:
            await self._attempt.lease.require_live_in_loop()
            answer = await session.send(chunk.operation, chunk.ids, chunk.page, chunk.pages, self._time_limit())
        except PartnerRequestRejected as error:
            return self._refused(chunk, error, recorded)
        except PartnerError as error:
            self.requests += error.requests
            self._stop(str(error), for_good=isinstance(error, PartnerKeyRefused))
            return [chunk.ended(ChunkState.UNKNOWN, type(error).__name__, recorded.at, recorded.now())]
        return self._answered(chunk, answer, recorded)

    def _refused(self, chunk: Chunk, error: PartnerRequestRejected, recorded: Recorded) -> list[Ended]:
        self.requests += error.requests
        self.done += chunk.hi - chunk.lo
        self._last_refusal = error
        if not self._is_excused(chunk, error):
            self._hold_against_the_target(chunk, error)
        state, reason = ChunkState.REJECTED_WHOLE, f"refused ({error.status})"
        return [part.ended(state, reason, recorded.at, recorded.now()) for part in self._bisection.divide(chunk)]

    def _is_excused(self, chunk: Chunk, error: PartnerRequestRejected) -> bool:
        """Say whether a rejection may be for an id that is not there, and not for the connection."""
        return chunk.lo >= self._excused_from and (self.acknowledged > 0 or error.status in _NOT_THERE)

    def _hold_against_the_target(self, chunk: Chunk, error: PartnerRequestRejected) -> None:
        if not self.acknowledged:
            self._unheard += error.requests
            if not chunk.alone:
                self._refusals[chunk.operation] = str(error)
        if self._bisection.rejected(chunk):
            self._stop(str(error), for_good=True)

    def _answered(self, chunk: Chunk, answer: Answer, recorded: Recorded) -> list[Ended]:
        clear = chunk.hi - chunk.lo - len(answer.unknown) - len(answer.not_sent)
        self.requests += answer.requests
        self.done += clear
        self.acknowledged += clear - len(answer.rejected)
        if clear > len(answer.rejected):
            self._bisection.acknowledged()
            self._backing_off.taken()
        if answer.unknown or (answer.not_sent and answer.again_after is None):
            reason = next(iter((answer.unknown or answer.not_sent).values()))
            unclear = len(answer.unknown) + len(answer.not_sent)
            self._stop(f"{unclear:,} changes got no clear answer ({reason})", for_good=False)
        elif answer.again_after is not None:
            self._leave_alone(answer.again_after)
        return split_by_outcome(chunk, answer, recorded.at, recorded.now())

    def _stop(self, cause: str, *, for_good: bool) -> None:
        """Start no more chunks; what the deadline or a cancel cut off is no failure of the partner's."""
        if for_good or not self._must_end():
            self.stopped = self.stopped or cause

    def _time_limit(self) -> datetime:
        now = clock.now()
        return max(now + GRACE, min(self._deadline, now + PATIENCE))

"""Permits to read a Mixpanel project: to a few readings at once, in the order in which they were asked for.

A permit is a row of the ledger that a thread of its holder renews, so that it ends with its holder, however that dies.
It is courtesy, not correctness: Mixpanel has limits of its own, and a reader whose permit has run out goes on. Nobody
waits inside of a transaction.
"""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, not_, select, update

from cohort_pipelines import clock
from cohort_pipelines.delivery import schema
from cohort_pipelines.delivery.database import Database
from cohort_pipelines.delivery.lease import live
from cohort_pipelines.errors import LedgerUnusable, ReadingDeferred

PLACES = 4
"""How many cohorts of a project are read at once: one less than the queries that Mixpanel runs at the same time.

Each has at least one query under way, and fewer pages at once where Mixpanel is busy.
"""

EXPIRES_AFTER = 20.0
"""Seconds for which a reader that died still keeps others waiting."""

_POLL_SECONDS = (0.2, 0.6)


@asynccontextmanager
async def permit(
    ledger: Database,
    project: str,
    cohort_id: int,
    *,
    deadline: datetime,
    places: int = PLACES,
    seconds: float = EXPIRES_AFTER,
) -> AsyncIterator[None]:
    """Wait for a permit to read a cohort of ``project``, and hold it until the block ends.

    Readings of one cohort follow one another, so that the second finds the snapshot of the first.

    Args:
        ledger: where permits are kept.
        project: what Mixpanel's limits are for: the project, at its host.
        cohort_id: what is read.
        deadline: until when it is worth waiting.
        places: how many readings of the project may go on at once.
        seconds: how long the permit holds without being renewed.

    Raises:
        ReadingDeferred: others were reading until the deadline.
        LedgerUnusable: the ledger does not take or show the row.
    """
    granted: Future[None] = Future()
    granted.set_running_or_notify_cancel()  # whoever waits for it may go; the thread must not fail at that
    over = threading.Event()
    asked = _Asked(ledger, project, cohort_id, places, seconds)
    holder = threading.Thread(target=_hold, args=(asked, granted, over), name="permit to read", daemon=True)
    holder.start()
    try:
        try:
            async with asyncio.timeout((deadline - clock.now()).total_seconds()):
                await asyncio.wrap_future(granted)
        except TimeoutError:
            raise ReadingDeferred(project) from None
        yield
    finally:
        over.set()
        await asyncio.to_thread(holder.join)


@dataclass(slots=True)
class _Asked:
    """A permit that was asked for; ``number`` is its place in the order of asking, 0 before there is a row."""

    ledger: Database
    project: str
    cohort_id: int
    places: int
    seconds: float
    number: int = 0

    def enter(self) -> None:
        """Take a place behind all others, and clear away what ran out."""
        table = schema.reading
        with self.ledger.write() as connection:
            now = self.ledger.now(connection)
            connection.execute(delete(table).where(not_(live(now, table.c.expires))))
            until = now + timedelta(seconds=self.seconds)
            row = insert(table).values(project=self.project, cohort_id=self.cohort_id, expires=until)
            self.number = connection.execute(row.returning(table.c.id)).scalar_one()

    def renew(self) -> bool:
        """Hold the place for longer; False: it ran out and was cleared away."""
        table = schema.reading
        with self.ledger.write() as connection:
            until = self.ledger.now(connection) + timedelta(seconds=self.seconds)
            return connection.execute(update(table).filter_by(id=self.number).values(expires=until)).rowcount == 1

    def may_read(self) -> bool:
        """Say whether few enough asked before and are still there, and none of them for the same cohort."""
        table = schema.reading
        with self.ledger.read() as connection:
            before = select(table.c.cohort_id).where(
                table.c.project == self.project,
                table.c.id < self.number,
                live(self.ledger.now(connection), table.c.expires),
            )
            cohorts = connection.execute(before).scalars().all()
        return len(cohorts) < self.places and self.cohort_id not in cohorts

    def leave(self) -> None:
        """Let the next one read at once; where the ledger takes nothing, the row runs out by itself."""
        with suppress(LedgerUnusable), self.ledger.write() as connection:
            connection.execute(delete(schema.reading).filter_by(id=self.number))


def _hold(asked: _Asked, granted: "Future[None]", over: threading.Event) -> None:
    """Take a place, say when its turn has come, and keep it until ``over``."""
    try:
        asked.enter()
        try:
            _keep(asked, granted, over)
        finally:
            asked.leave()
    except Exception as error:  # noqa: BLE001  handed to who waits
        granted.set_exception(error)


def _keep(asked: _Asked, granted: "Future[None]", over: threading.Event) -> None:
    renewed = clock.monotonic()
    while not granted.done():
        if asked.may_read():
            granted.set_result(None)
        elif over.wait(random.uniform(*_POLL_SECONDS)):  # noqa: S311  so that those who wait do not ask in step
            return
        elif clock.monotonic() >= renewed + asked.seconds / 3:
            renewed = clock.monotonic()
            if not asked.renew():
                asked.enter()
    while not over.wait(asked.seconds / 3):
        with suppress(LedgerUnusable):  # locked or full for now; the reading goes on whatever comes of it
            asked.renew()

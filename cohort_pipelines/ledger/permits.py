"""Permits to read a Mixpanel project: to a few readings at once, in the order in which they were asked for.

A permit is a row of the ledger that a thread of its holder renews, so that it ends with its holder, however that dies.
It is courtesy, not correctness: Mixpanel has limits of its own, and a reader whose permit has run out goes on. Nobody
waits inside of a transaction.
"""

import asyncio
import logging
import random
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, not_, select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import LedgerUnusable, ReadingDeferred
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.database import Database
from cohort_pipelines.ledger.lease import live

PLACES = 4
"""How many cohorts of a project are read at once: one less than the queries that Mixpanel runs at the same time.

Each has at least one query under way.
"""

Share = Callable[[int], int]
"""Returns how many of so many requests at once are a reader's, from one moment to the next."""

EXPIRES_AFTER = 20.0
"""Seconds for which a reader that died still keeps others waiting."""

_POLL_SECONDS = (0.2, 0.6)

logger = logging.getLogger(__name__)


@asynccontextmanager
async def permit(
    ledger: Database,
    project: str,
    cohort_id: int,
    *,
    deadline: datetime,
    places: int = PLACES,
    seconds: float = EXPIRES_AFTER,
) -> AsyncIterator[Share]:
    """Wait for a permit to read a cohort of ``project``, and hold it until the block ends.

    Readings of one cohort follow one another, so that the second finds the snapshot of the first. The value is what
    those who hold a permit share: it follows within a second when another comes or goes.

    Args:
        ledger: where permits are kept.
        project: what Mixpanel's limits are for: the project, at its host.
        cohort_id: what is read.
        deadline: until when it is worth waiting.
        places: how many readings of the project may go on at once.
        seconds: how long the permit holds without being renewed.

    Raises:
        ReadingDeferred: others were reading until the deadline.
        LedgerUnusable: the ledger does not take the row.
    """
    granted: Future[None] = Future()
    granted.set_running_or_notify_cancel()  # its waiter may go; the thread must not fail at that
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
        yield asked.share
    finally:
        over.set()
        await asyncio.to_thread(holder.join)


@dataclass(slots=True)
class _Asked:
    """A permit that was asked for.

    ``number`` is its place in the order of asking, 0 before there is a row; ``place`` is that among those who hold a
    permit, from 0, and how many these are.
    """

    ledger: Database
    project: str
    cohort_id: int
    places: int
    seconds: float
    number: int = 0
    place: tuple[int, int] = (0, 1)

    def share(self, total: int) -> int:
        """Return how many of ``total`` are this reader's; what cannot be divided goes to who asked first."""
        before, readers = self.place
        return max(1, (total + readers - 1 - before) // readers)

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
            first = select(table.c.cohort_id, table.c.id).where(
                table.c.project == self.project,
                live(self.ledger.now(connection), table.c.expires),
            )
            rows = connection.execute(first.order_by(table.c.id).limit(self.places)).all()
        of_cohorts: dict[int, int] = {}
        for row in rows:
            of_cohorts.setdefault(row.cohort_id, row.id)
        readers = list(of_cohorts.values())
        if self.number not in readers:
            return False
        self.place = readers.index(self.number), len(readers)
        return True

    def leave(self) -> None:
        """Let the next one read at once; where the ledger takes nothing, the row runs out by itself."""
        with suppress(LedgerUnusable), self.ledger.write() as connection:
            connection.execute(delete(schema.reading).filter_by(id=self.number))


def _hold(asked: _Asked, granted: "Future[None]", over: threading.Event) -> None:
    """Take a place, say when its turn has come, and keep it until ``over``; what fails then ends no reading."""
    try:
        asked.enter()
        try:
            _keep(asked, granted, over)
        finally:
            asked.leave()
    except Exception as error:  # noqa: BLE001  handed to who waits
        if granted.done():
            logger.warning("The permit to read %s is not renewed any more (%s).", asked.project, type(error).__name__)
        else:
            granted.set_exception(error)


def _keep(asked: _Asked, granted: "Future[None]", over: threading.Event) -> None:
    renewed = clock.monotonic()
    while True:
        with suppress(LedgerUnusable):  # locked or full for now; a wait has its deadline, and a reading goes on
            if clock.monotonic() >= renewed + asked.seconds / 3:
                if not (asked.renew() or granted.done()):
                    asked.enter()
                renewed = clock.monotonic()
            if asked.may_read() and not granted.done():
                granted.set_result(None)
        if over.wait(random.uniform(*_POLL_SECONDS)):  # noqa: S311  so that those who wait do not ask in step
            return

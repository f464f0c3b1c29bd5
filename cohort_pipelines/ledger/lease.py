"""The lease that makes a run a target's one writer: every transaction of the run checks its token, and renews it."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, bindparam, insert, select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryError, HistoryNotReadable, LeaseLost, LedgerUnpaired, LedgerUnusable
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.database import Database

LEASE_SECONDS = 30.0
GIVEN_BACK = datetime(1970, 1, 1, tzinfo=UTC)
"""When a lease expires that is not needed any more: long ago, even for a clock that was set back."""

_LONGEST = timedelta(seconds=LEASE_SECONDS) + clock.TOLERANCE
_RENEW = (  # built once, since every chunk pays for it
    update(schema.lease)
    .where(schema.lease.c.target == bindparam("of_target"), schema.lease.c.token == bindparam("held_token"))
    .values(expires=bindparam("until"))
)


def is_live(expires: datetime, now: datetime) -> bool:
    """Say whether a lease holds, by the ledger's time; one that seems to hold for long was taken by a clock ahead."""
    return now < expires <= now + _LONGEST


def live(now: datetime, expires: ColumnElement[datetime] = schema.lease.c.expires) -> ColumnElement[bool]:
    """Say the same of rows of :data:`schema.lease`, or of another table whose rows hold for no longer."""
    return and_(expires > now, expires <= now + _LONGEST)


def take(connection: Connection, target: int, holder: str, now: datetime, seconds: float) -> int | datetime:
    """Take the lease of a target by the ledger's time: the new token, or until when another run's lease holds."""
    taken = {"holder": holder, "expires": now + timedelta(seconds=seconds)}
    row = connection.execute(select(schema.lease).filter_by(target=target)).first()
    if row is None:
        connection.execute(insert(schema.lease).values(target=target, token=1, **taken))
        return 1
    expires: datetime = row.expires
    if is_live(expires, now):
        return expires
    token: int = row.token + 1
    connection.execute(update(schema.lease).filter_by(target=target).values(token=token, **taken))
    return token


@dataclass(slots=True)
class Lease:
    """A lease that was taken.

    Attributes:
        ledger: where it is recorded.
        target: the target's number in the ledger, ``name`` what it is called.
        token: grows with every taking; 0 for an attempt that was superseded and so has no lease.
        seconds: how long it holds without being renewed.
        renewed: when it was last known to be held, by :func:`cohort_pipelines.core.clock.monotonic`.
        lost: what has ended the turn since, if anything.
    """

    ledger: Database
    target: int
    name: str
    token: int
    seconds: float
    renewed: float
    lost: DeliveryError | None = None

    @contextmanager
    def heartbeat(self, require_own: Callable[[], None]) -> Iterator[None]:
        """Keep the lease alive from a thread of its own, since planning may take long, and give it back at the end.

        What ``require_own`` raises, as often as the lease is renewed, ends the turn: the ledger is another one by now.
        """
        over = threading.Event()

        def renew() -> None:
            while not over.wait(self.seconds / 3):
                try:
                    self._renew()
                except LedgerUnusable:  # locked or full for now; what is written next will say so if it stays
                    continue
                except LeaseLost as lost:
                    self.lost = lost
                    return

        def look() -> None:
            while not over.wait(self.seconds / 3):
                try:
                    with suppress(HistoryNotReadable):  # for now; who reads next will say so if it stays
                        require_own()
                except LedgerUnpaired as another:
                    self.lost = another
                    return

        threads = [  # two, since an object store may take long to answer, and the lease must not wait for it
            threading.Thread(target=each, name=name, daemon=True)
            for each, name in ((renew, "lease"), (look, "pairing"))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            over.set()
            for thread in threads:
                thread.join()
            with suppress(DeliveryError), self.fenced() as connection:
                self.give_back(connection)

    @contextmanager
    def fenced(self) -> Iterator[Connection]:
        """Open a transaction that only the lease's holder can make; it renews the lease.

        The token decides, not the time: a lease that ran out but was not taken is still ours.

        Raises:
            LeaseLost: another run has taken the target over.
        """
        held, asked = {"of_target": self.target, "held_token": self.token}, clock.monotonic()
        with self.ledger.write() as connection:
            expires = self.ledger.now(connection) + timedelta(seconds=self.seconds)
            if connection.execute(_RENEW, held | {"until": expires}).rowcount != 1:
                raise LeaseLost(self.name)
            yield connection
        self.renewed = asked

    def require_live(self) -> None:
        """Refuse to start a request where this process was stopped for so long that another may have taken over.

        It costs nothing as long as the lease is being renewed.

        Raises:
            LeaseLost: another run has taken the target over.
            LedgerUnpaired: the history is another ledger's by now.
        """
        if self.lost is not None:
            raise self.lost
        if self._may_be_over:
            self._renew()

    async def require_live_in_loop(self) -> None:
        """Do the same in an event loop, without blocking it while the ledger is asked.

        Raises:
            LeaseLost, LedgerUnpaired: as :meth:`require_live`.
        """
        if self.lost is not None or self._may_be_over:
            await asyncio.to_thread(self.require_live)

    def give_back(self, connection: Connection) -> None:
        """Let the next writer take it at once; to be called in a transaction of :meth:`fenced`."""
        connection.execute(update(schema.lease).filter_by(target=self.target).values(expires=GIVEN_BACK))

    @property
    def _may_be_over(self) -> bool:
        return clock.monotonic() >= self.renewed + self.seconds

    def _renew(self) -> None:
        with self.fenced():
            pass

"""The windows of each sync and what became of them, so that none is missed in silence."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import cast

from sqlalchemy import Connection, insert, select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence, Window
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.database import Database
from cohort_pipelines.ledger.schema import OPEN_STATES, WindowState

NEVER_BEGUN = "no run was started in it"
NEVER_ENDED = "its run never began, or ended before it delivered"


@dataclass(frozen=True, slots=True)
class WindowRecord:
    """What became of one window, in words: ``reason`` is empty where the state says it all."""

    key: str
    state: WindowState
    reason: str
    at: datetime


class Windows(Database):
    """The part of the ledger that keeps the windows."""

    def note_window(self, sync: str, key: str, state: WindowState, reason: str = "") -> None:
        """Note what became of a window.

        One that was delivered stays so, whatever a later run of it meets; and only a new one can be ``open``, however
        often its tick is evaluated.
        """
        with self.write() as connection:
            note_window(connection, sync, key, state, reason)

    def record_missed(self, sync: str, window: Window) -> list[str]:
        """Note as missed what ``window``, a scheduled one, finds behind it, and return the keys, oldest first.

        That is every window between the newest noted one and ``window``, and every earlier one that is still open,
        unless its delivery is under way or died and is yet to be taken over. A sync that has no window yet has missed
        none. Doing it twice changes nothing.
        """
        table = schema.window
        earlier = (table.c.sync == sync, table.c.key < window.key)
        under_way = select(schema.attempt.c.window).where(
            schema.attempt.c.sync == sync, schema.attempt.c.state.in_(OPEN_STATES)
        )
        never_ended = (
            update(table)
            .where(*earlier, table.c.state == "open", table.c.key.not_in(under_way))
            .values(state="missed", reason=NEVER_ENDED, at=clock.now())
            .returning(table.c.key)
        )
        with self.write() as connection:
            begun = sorted(connection.execute(never_ended).scalars())
            skipped = _skipped(connection, sync, window)
            rows = [
                {"sync": sync, "key": key, "state": "missed", "reason": NEVER_BEGUN, "at": clock.now()}
                for key in skipped
            ]
            if rows:
                connection.execute(insert(table), rows)
        return begun + skipped

    def skipped(self, sync: str, window: Window) -> list[str]:
        """Return the keys of the windows that :meth:`record_missed` would find unnoted before ``window``."""
        with self.read() as connection:
            return _skipped(connection, sync, window)

    def windows(self, sync: str, limit: int = 100) -> list[WindowRecord]:
        """Return the newest ``limit`` windows of a sync, newest first; windows are named by time, so by name."""
        query = select(schema.window).filter_by(sync=sync).order_by(schema.window.c.key.desc()).limit(limit)
        with self.read() as connection:
            return [
                WindowRecord(row.key, cast("WindowState", row.state), row.reason, row.at)
                for row in connection.execute(query)
            ]


def note_window(connection: Connection, sync: str, key: str, state: WindowState, reason: str) -> None:
    """Note what became of a window as part of a transaction; see :meth:`Windows.note_window`."""
    table, noted = schema.window, {"state": state, "reason": reason, "at": clock.now()}
    known = connection.execute(select(table.c.state).filter_by(sync=sync, key=key)).scalar()
    if known is None:
        connection.execute(insert(table).values(sync=sync, key=key, **noted))
    elif state == "delivered" or (state != "open" and known != "delivered"):
        connection.execute(update(table).filter_by(sync=sync, key=key).values(**noted))


def opening_of(key: str) -> datetime | None:
    """Return when the window called ``key`` opens, or None where that is the name of a one-time export."""
    with suppress(ValueError):
        return Cadence.QUARTER_HOUR.window_named(key).opens  # where windows of two hours begin, one of these does too
    return None


def _skipped(connection: Connection, sync: str, window: Window) -> list[str]:
    table = schema.window
    earlier = select(table.c.key).where(table.c.sync == sync, table.c.key < window.key)
    noted = connection.execute(earlier.order_by(table.c.key.desc())).scalars()
    return _between(next(filter(None, map(opening_of, noted)), None), window)


def _between(newest: datetime | None, window: Window) -> list[str]:
    """Return the keys of the windows after the one that is open at ``newest`` and before ``window``, in its cadence."""
    if newest is None or window.opens is None or window.closes is None:
        return []
    cadence, keys = Cadence(window.closes - window.opens), []
    between = cadence.window_at(newest)
    while between.closes is not None and between.closes < window.opens:
        between = cadence.window_at(between.closes)
        keys.append(between.key)
    return keys

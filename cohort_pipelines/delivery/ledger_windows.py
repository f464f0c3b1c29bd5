"""The windows of each sync and what became of them, so that none is missed in silence."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import cast

from sqlalchemy import Connection, insert, select, update

from cohort_pipelines import clock
from cohort_pipelines.delivery import schema
from cohort_pipelines.delivery.database import Database
from cohort_pipelines.delivery.schema import WindowState
from cohort_pipelines.windows import KEY_FORMAT, Cadence, Window


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
        """Note what became of a window; one that was delivered stays so, whatever a later run of it meets."""
        with self.write() as connection:
            note_window(connection, sync, key, state, reason)

    def record_missed(self, sync: str, window: Window, reason: str = "no run was started in it") -> list[str]:
        """Note every window between the newest noted one and ``window``, a scheduled one, as missed; return their keys.

        A sync that has no window yet has missed none. Doing it twice changes nothing.
        """
        table = schema.window
        newest = (
            select(table.c.key)
            .where(table.c.sync == sync, table.c.key < window.key)
            .order_by(table.c.key.desc())
            .limit(1)
        )
        with self.write() as connection:
            key = connection.execute(newest).scalar()
            missed = [] if key is None else _between(key, window)
            for each in missed:
                note_window(connection, sync, each, "missed", reason)
        return missed

    def windows(self, sync: str, limit: int = 100) -> list[WindowRecord]:
        """Return the newest ``limit`` windows of a sync, newest first; windows are named by time, so by name."""
        query = select(schema.window).filter_by(sync=sync).order_by(schema.window.c.key.desc()).limit(limit)
        with self.read() as connection:
            return [
                WindowRecord(row.key, cast("WindowState", row.state), row.reason, row.at)
                for row in connection.execute(query)
            ]


def note_window(connection: Connection, sync: str, key: str, state: WindowState, reason: str) -> None:
    """Note what became of a window as part of a transaction; a delivered one stays delivered."""
    table, noted = schema.window, {"state": state, "reason": reason, "at": clock.now()}
    known = connection.execute(select(table.c.state).filter_by(sync=sync, key=key)).scalar()
    if known is None:
        connection.execute(insert(table).values(sync=sync, key=key, **noted))
    elif known != "delivered" or state == "delivered":
        connection.execute(update(table).filter_by(sync=sync, key=key).values(**noted))


def _between(key: str, window: Window) -> list[str]:
    """Return the keys of the windows after the one called ``key`` and before ``window``, in its cadence."""
    if window.opens is None or window.closes is None:
        return []
    cadence, keys = Cadence(window.closes - window.opens), []
    between = cadence.window_at(datetime.strptime(key, KEY_FORMAT).replace(tzinfo=UTC))
    while between.closes is not None and between.closes < window.opens:
        between = cadence.window_at(between.closes)
        keys.append(between.key)
    return keys

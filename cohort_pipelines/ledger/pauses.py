"""Pauses: a sync that nothing is sent for, by whose word and why."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, bindparam, delete, insert, select, update

from cohort_pipelines.core.errors import SyncPaused
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.database import Database

_PAUSE = select(schema.pause).where(  # built once: every chunk asks
    schema.pause.c.sync == bindparam("of_sync"), schema.pause.c.resumed.is_(None)
)


@dataclass(frozen=True, slots=True)
class Pause:
    """Who paused a sync, why, and since when (None: from now on)."""

    who: str
    why: str
    at: datetime | None = None


def pause(ledger: Database, sync: str, *, who: str, why: str) -> None:
    """Send nothing for ``sync`` from now on; a delivery under way ends between two chunks."""
    with ledger.write() as connection:
        pause_within(connection, sync, Pause(who, why, ledger.now(connection)))


def resume(ledger: Database, sync: str) -> bool:
    """Let ``sync`` deliver again; return whether it was paused."""
    with ledger.write() as connection:
        ended = update(schema.pause).filter_by(sync=sync, resumed=None).values(resumed=ledger.now(connection))
        return connection.execute(ended).rowcount == 1


def paused(ledger: Database, sync: str) -> Pause | None:
    """Return the pause of ``sync``, or None when it may deliver."""
    with ledger.read() as connection:
        return paused_within(connection, sync)


def pause_within(connection: Connection, sync: str, made: Pause) -> None:
    """Pause ``sync`` as part of a transaction; a later pause takes the place of an earlier one."""
    connection.execute(delete(schema.pause).filter_by(sync=sync))
    connection.execute(insert(schema.pause).values(sync=sync, who=made.who, why=made.why, at=made.at))


def paused_within(connection: Connection, sync: str) -> Pause | None:
    """Return the pause of ``sync`` as a transaction sees it."""
    row = connection.execute(_PAUSE, {"of_sync": sync}).first()
    return None if row is None else Pause(row.who, row.why, row.at)


def resumed_within(connection: Connection, sync: str) -> datetime | None:
    """Return when the newest pause of ``sync`` ended; None where there was none, or it lasts."""
    return connection.execute(select(schema.pause.c.resumed).filter_by(sync=sync)).scalar()


def require_not_paused(connection: Connection, sync: str, since: datetime | None = None) -> None:
    """Refuse to start anything for a sync that is paused; with ``since``, that was paused later than that.

    Raises:
        SyncPaused: it is paused.
    """
    found = paused_within(connection, sync)
    if found and (since is None or found.at is None or found.at > since):
        raise SyncPaused(sync, found.who, found.why)

"""What was told to whom, and what is still to be told: each change once, in its order, and none lost.

A channel has a memory of its own, so that one which fails is tried again without telling the others twice.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Connection, Row, func, insert, select, update

from cohort_pipelines.ledger import Ledger, schema
from cohort_pipelines.reporting.alerting import Health, Judgement

RECOVERED = "recovered"
CLAIM = timedelta(minutes=5)
"""How long a message belongs to who is sending it: should that process die, it is sent again afterwards."""

_CALM = frozenset({Health.OK, Health.PAUSED})


@dataclass(frozen=True, slots=True)
class Alert:
    """A change of a sync's state that a channel is to be told of; ``number`` is the ledger's own for it."""

    number: int
    sync: str
    state: str
    previous: str
    detail: str
    since: datetime


def note_changes(ledger: Ledger, channel: str, judged: Mapping[str, Judgement]) -> None:
    """Note what ``channel`` is to be told, now that its syncs fare as ``judged``.

    A channel starts with every sync taken to be well. Between ``ok`` and ``paused`` nothing is told: that was
    what a person did. However many processes judge at once, a change is noted once.
    """
    with ledger.read() as connection:
        known = _known(connection, channel)
    if all(sync in known and not _is_news(known[sync], judgement) for sync, judgement in judged.items()):
        return
    with ledger.write() as connection:
        known, now = _known(connection, channel), ledger.now(connection)
        for sync, judgement in judged.items():
            if sync not in known:
                _insert(connection, channel, sync, Judgement(Health.OK, "", now), previous=Health.OK, sent_at=now)
            previous = known.get(sync, Health.OK)
            if _is_news(previous, judgement):
                _insert(connection, channel, sync, judgement, previous=previous)


def note_told(ledger: Ledger, channel: str, judged: Mapping[str, Judgement]) -> None:
    """Note that ``channel`` was told elsewhere how syncs fare: what it hears next is a change from that."""
    with ledger.write() as connection:
        known, now = _known(connection, channel), ledger.now(connection)
        for sync, judgement in judged.items():
            previous = known.get(sync, Health.OK)
            if previous != judgement.health:
                _insert(connection, channel, sync, judgement, previous=previous, sent_at=now)


@contextmanager
def next_untold(ledger: Ledger, channel: str) -> Iterator[Alert | None]:
    """Yield the oldest change that ``channel`` has not been told of, to be told inside the block.

    It counts as told when the block ends, and stays to be told when it raises. None: there is none, or another process
    is telling it.
    """
    claimed = _claim(ledger, channel)
    if claimed is None:
        yield None
        return
    alert, until = claimed
    table = schema.alert
    try:
        yield alert
    except BaseException:
        with ledger.write() as connection:
            connection.execute(update(table).filter_by(id=alert.number, claimed_until=until).values(claimed_until=None))
        raise
    with ledger.write() as connection:
        connection.execute(update(table).filter_by(id=alert.number).values(sent_at=ledger.now(connection)))


def _is_news(previous: str, judgement: Judgement) -> bool:
    return judgement.health != previous and not (judgement.health in _CALM and previous in _CALM)


def _known(connection: Connection, channel: str) -> dict[str, str]:
    """Return what ``channel`` knows, or is about to be told, of each sync."""
    table = schema.alert
    newest = select(func.max(table.c.id)).filter_by(channel=channel).group_by(table.c.sync)
    rows = connection.execute(select(table.c.sync, table.c.state).where(table.c.id.in_(newest)))
    return {row.sync: row.state for row in rows}


def _insert(connection: Connection, channel: str, sync: str, judgement: Judgement, **more: object) -> None:
    judged = {"state": judgement.health, "detail": judgement.detail, "since": judgement.since}
    connection.execute(insert(schema.alert).values(channel=channel, sync=sync, **judged, **more))


def _claim(ledger: Ledger, channel: str) -> tuple[Alert, datetime] | None:
    with ledger.read() as connection:
        if _oldest_untold(connection, channel) is None:
            return None
    with ledger.write() as connection:
        row, now = _oldest_untold(connection, channel), ledger.now(connection)
        if row is None or (row.claimed_until is not None and row.claimed_until > now):
            return None
        connection.execute(update(schema.alert).filter_by(id=row.id).values(claimed_until=now + CLAIM))
    state = RECOVERED if row.state == Health.OK else row.state
    return Alert(row.id, row.sync, state, row.previous, row.detail, row.since), now + CLAIM


def _oldest_untold(connection: Connection, channel: str) -> "Row[tuple[object, ...]] | None":
    query = select(schema.alert).filter_by(channel=channel, sent_at=None).order_by(schema.alert.c.id)
    return connection.execute(query.limit(1)).first()

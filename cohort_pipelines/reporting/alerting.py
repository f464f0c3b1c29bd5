"""How a sync fares, by the ledger alone: what people are told of. Dagster's opinion of runs is not asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, Row, func, or_, select

from cohort_pipelines.core.errors import DeliveryDeferred
from cohort_pipelines.ledger import NEVER_ENDED, DeliveredSnapshot, Ledger, paused_within, resumed_within, schema

_LOOK_BACK = 20  # windows that were cut short, one after another; lateness says the rest
_HOUR = timedelta(hours=1)
_EVER = datetime.min.replace(tzinfo=UTC)
_WHEN = "%Y-%m-%d %H:%M UTC"
_NO_TROUBLE = (
    "The target keeps the audience that it has. No window has ended in trouble since, so look whether the schedule is "
    "on and runs are started."
)


class Health(StrEnum):
    """How a sync fares; see :func:`judge`."""

    PAUSED = "paused"
    HELD = "held"
    FAILING = "failing"
    LATE = "late"
    DEFERRED = "deferred"
    OK = "ok"


@dataclass(frozen=True, slots=True)
class Watched:
    """A sync and what it promises.

    Attributes:
        sync: its name.
        promise: the age that its newest delivered snapshot may have; None for a one-time export, which is never late.
        begins: when its first window opens; before that it cannot be late.
        unloadable: why its declaration cannot be loaded, so that nothing of it is run; empty where it can.
    """

    sync: str
    promise: timedelta | None = None
    begins: datetime | None = None
    unloadable: str = ""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How a sync fares, why in a sentence or two, and since when."""

    health: Health
    detail: str
    since: datetime


def judge(ledger: Ledger, watched: Watched) -> Judgement:
    """Say how a sync fares. It changes nothing, and opens no window.

    A declaration that cannot be loaded is ``failing``, whatever became of its windows. Else the first of these that is
    true counts:

    1. ``paused``: a person paused it. Nothing is promised meanwhile.
    2. ``held`` or ``failing``, by the newest window that came to an end: a gate holds its payload; or it failed, was
       stopped, was partly refused, or its run ended without having delivered. Such a sync is late sooner or later, and
       that would be no news.
    3. ``late``: the newest delivered snapshot is older than promised. Where nothing was ever delivered, the time counts
       from when an alert's sensor first saw the sync or from its first noted window, whichever was earlier. A pause
       does not count against it: after one, the time counts from its end.
    4. ``deferred``: the newest window that came to an end gave way at its deadline, and the next goes on.
    5. ``ok``.

    A window that is open, was skipped, was missed because no run was started in it, or was cut short by a cancel or a
    pause says nothing: the one before it counts, and lateness says the rest. Windows of a schedule are ordered by their
    names, so that a backfill of old ones does not count; one-time exports by when they ended.
    """
    newest = ledger.newest_delivered(watched.sync)
    with ledger.read() as connection:
        now = ledger.now(connection)
        if watched.unloadable:
            return Judgement(Health.FAILING, watched.unloadable, now)
        if pause := paused_within(connection, watched.sync):
            return Judgement(Health.PAUSED, "Nothing is sent until it is resumed.", pause.at or now)
        outcome = _newest_outcome(connection, watched)
        known = newest.taken_at if newest else _first_seen(connection, watched, now)
        counted = max(known, resumed_within(connection, watched.sync) or known)
    if outcome is not None and outcome.health in {Health.HELD, Health.FAILING}:
        return outcome
    amber = outcome if outcome is not None and outcome.health is Health.DEFERRED else None
    if watched.promise is not None and now > counted + watched.promise:
        why = amber.detail if amber else _NO_TROUBLE
        found = _age(newest, known, counted, watched.promise)
        return Judgement(Health.LATE, f"{found} {why}", counted + watched.promise)
    return amber or Judgement(Health.OK, _delivered(newest), newest.delivered_at if newest else known)


def _delivered(newest: DeliveredSnapshot | None) -> str:
    if newest is None:
        return "Nothing was delivered yet."
    return f"The window {newest.window} is delivered: {newest.users:,} users, as of {newest.taken_at:{_WHEN}}."


def _age(newest: DeliveredSnapshot | None, known: datetime, counted: datetime, promise: timedelta) -> str:
    found = (
        f"The newest delivered snapshot was taken at {known:{_WHEN}}"
        if newest
        else f"Nothing was delivered since {known:{_WHEN}}, when it began to be watched"
    )
    resumed = f", and its pause ended at {counted:{_WHEN}}" if counted > known else ""
    return f"{found}{resumed}; it is promised to be at most {promise / _HOUR:g} h old."


def _first_seen(connection: Connection, watched: Watched, now: datetime) -> datetime:
    seen = connection.execute(select(func.min(schema.alert.c.since)).filter_by(sync=watched.sync)).scalar()
    noted = connection.execute(select(func.min(schema.window.c.at)).filter_by(sync=watched.sync)).scalar()
    return max(min(each for each in (seen, noted, now) if each is not None), watched.begins or _EVER)


def _newest_outcome(connection: Connection, watched: Watched) -> Judgement | None:
    table = schema.window
    newest_first = table.c.at if watched.promise is None else table.c.key
    ended = or_(table.c.state.not_in(("open", "skipped", "missed")), table.c.reason == NEVER_ENDED)
    query = select(table).where(table.c.sync == watched.sync, ended).order_by(newest_first.desc()).limit(_LOOK_BACK)
    rows: Sequence[Row[tuple[object, ...]]] = connection.execute(query).all()
    for row in rows:
        if health := _meaning(row):
            return Judgement(health, _reason(row), row.at)
    return None


def _meaning(window: "Row[tuple[object, ...]]") -> Health | None:
    match window.state:
        case "delivered":
            return Health.OK
        case "held":
            return Health.HELD
        case "deferred":
            return Health.DEFERRED if window.reason.startswith(DeliveryDeferred.BEGINS) else None
        case _:  # failed, or missed by a run that never ended
            return Health.FAILING


def _reason(window: "Row[tuple[object, ...]]") -> str:
    if window.state != "missed":
        return f"Window {window.key}: {window.reason}"
    return f"Window {window.key}: {window.reason}. What it may have sent is known; the next window goes on from there."

"""The ledger's tables. User ids are never in them: they are rows `[lo, hi)` of a sealed plan file.

Nothing here is one database's own, so that SQLite can give way to PostgreSQL by another URL.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    UniqueConstraint,
)

SCHEMA_VERSION = 1

WindowState = Literal["open", "delivered", "failed", "missed", "skipped", "held", "deferred"]


class AttemptState(StrEnum):
    """How far an overwrite came; every change of it is one transaction that checks the lease's token."""

    PLANNED = "planned"
    HELD = "held"
    SUPERSEDED = "superseded"
    SENDING = "sending"
    SENT = "sent"
    DEFERRED = "deferred"
    STOPPED = "stopped"
    CRASHED = "crashed"
    ACCEPTED = "accepted"
    DELIVERED = "delivered"
    REJECTED = "rejected"


GREEN_STATES = (AttemptState.ACCEPTED, AttemptState.DELIVERED)
OPEN_STATES = (AttemptState.PLANNED, AttemptState.SENDING, AttemptState.SENT)


WINDOW_STATES: Mapping[AttemptState, WindowState] = {
    AttemptState.ACCEPTED: "delivered",
    AttemptState.DELIVERED: "delivered",
    AttemptState.HELD: "held",
    AttemptState.SUPERSEDED: "skipped",
    AttemptState.DEFERRED: "deferred",
    AttemptState.STOPPED: "failed",
    AttemptState.REJECTED: "failed",
}


class AttemptKind(StrEnum):
    """What an attempt is for: a window's own payload, an earlier one again, or an empty one."""

    OVERWRITE = "overwrite"
    RESTORE = "restore"
    RETIRE = "retire"


class ChunkState(StrEnum):
    """What is known of a range of a plan; a range without a row was never begun.

    IN_DOUBT: acknowledged, after an earlier try that got no clear answer and may still land.
    REJECTED: the partner would not take these rows. REJECTED_WHOLE: it refused the request as such. None of them took
    effect. NOT_SENT: not sent after all, or only rate limited, so that the rows are as they were.
    """

    INTENT = "intent"
    ACKED = "acked"
    IN_DOUBT = "in_doubt"
    REJECTED = "rejected"
    REJECTED_WHOLE = "rejected_whole"
    UNKNOWN = "unknown"
    NOT_SENT = "not_sent"


REJECTED_STATES = (ChunkState.REJECTED, ChunkState.REJECTED_WHOLE)


class Moment(TypeDecorator[datetime]):
    """A moment in UTC, also where the database keeps no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Store UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Return UTC, aware of it."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("ledger_id", String, primary_key=True),
    Column("schema_version", Integer, nullable=False),
    Column("last_seq", Integer, nullable=False),  # the newest number in the order of snapshots that was given out
    Column("generation", Integer, nullable=False, server_default="0"),  # of the newest change that the history mirrors
)

target = Table(
    "target",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("wire", String, nullable=False),
    Column("host", String, nullable=False),
    Column("account", String, nullable=False),
    Column("name", String, nullable=False),
    Column("project", Integer),  # of the cohort in whose name it was last written to; null: not known
    Column("cohort_id", Integer),
    Column("owner", String, nullable=False),
    Column("generation", Integer, nullable=False),  # of the newest attempt
    Column("head_seq", Integer, nullable=False),  # the newest snapshot that was claimed for it
    Column("established", Boolean, nullable=False),  # something was sent to it
    Column("membership_sync", String),
    Column("membership_window", String),
    Column("membership_checksum", String),  # null: nothing is known to be there
    Column("in_doubt", Integer, nullable=False),
    Column("held", Integer, nullable=False),  # ids that membership has IN or UNKNOWN
    Column("initial_members", String),  # what it held before the first delivery; null: not delivered to yet
    Column("last_sent", Moment),  # when a request to it may last have been sent
    Column("reconciled_until", Moment),  # up to when the slices of membership were sent again
    Column("retired", Moment),  # its sync was ended, or moved to another target
    UniqueConstraint("wire", "host", "account", "name"),
)

lease = Table(
    "lease",
    metadata,
    Column("target", ForeignKey(target.c.id), primary_key=True),
    Column("token", Integer, nullable=False),
    Column("holder", String, nullable=False),
    Column("expires", Moment, nullable=False),
)

reading = Table(  # who reads a Mixpanel project, and behind them who waits for that, in the order of asking
    "reading",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project", String, nullable=False, index=True),
    Column("cohort_id", Integer, nullable=False),
    Column("expires", Moment, nullable=False),
    sqlite_autoincrement=True,  # a number of its own for each, also once the last row is gone
)

window = Table(
    "window",
    metadata,
    Column("sync", String, primary_key=True),
    Column("key", String, primary_key=True),
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("at", Moment, nullable=False),
    Index("window_of_sync", "sync", "at"),
)

snapshot = Table(
    "snapshot",
    metadata,
    Column("seq", Integer, primary_key=True, autoincrement=False),
    Column("sync", String, nullable=False),
    Column("window", String, nullable=False),
    Column("checksum", String, nullable=False),
    Column("size", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("taken_at", Moment, nullable=False),
    Column("total", Integer, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("seconds", Float),  # null: it was not taken, but referred to
    Column("project", Integer, nullable=False),
    Column("cohort_id", Integer, nullable=False),
    Column("options", JSON, nullable=False),
    Index("snapshot_of_window", "sync", "window"),
)

derived = Table(  # what was worked out from a snapshot; the newest row of a stage counts
    "derived",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("snapshot", ForeignKey(snapshot.c.seq), nullable=False),
    Column("stage", String, nullable=False),
    Column("checksum", String, nullable=False),
    Column("rows", Integer, nullable=False),
    Column("size", BigInteger().with_variant(Integer, "sqlite"), nullable=False),
    Column("counts", JSON, nullable=False),  # of excluded: reason -> members
    Column("at", Moment, nullable=False),
    Index("derived_of_snapshot", "snapshot", "stage"),
)

attempt = Table(
    "attempt",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("target", ForeignKey(target.c.id), nullable=False),
    Column("generation", Integer, nullable=False),
    Column("token", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("sync", String, nullable=False),
    Column("kind", String, nullable=False, server_default=AttemptKind.OVERWRITE),
    Column("window", String, nullable=False),
    Column("snapshot", ForeignKey(snapshot.c.seq), nullable=False),
    Column("seq", Integer),  # its place in the order of snapshots; null: that of its snapshot
    Column("restored_from", String),  # the window whose payload it puts back
    Column("payload_checksum", String, nullable=False),
    Column("users", Integer, nullable=False),
    Column("base_membership", String),  # the membership's checksum that the plan was made from
    Column("plan_checksum", String),
    Column("run_id", String, nullable=False),
    Column("started", Moment, nullable=False),
    Column("deadline", Moment, nullable=False),
    Column("ended", Moment),
    Column("error", String),
    Column("approved", ForeignKey("approval.id")),  # what let it pass the gates
    UniqueConstraint("target", "generation"),
    Index("attempt_of_sync", "sync", "state", "id"),
)

chunk = Table(
    "chunk",
    metadata,
    Column("attempt", ForeignKey(attempt.c.id), primary_key=True),
    Column("lo", Integer, primary_key=True),  # rows [lo, hi) of the attempt's plan
    Column("hi", Integer, nullable=False),
    Column("operation", String, nullable=False),
    Column("state", String, nullable=False),
    Column("intent_at", Moment, nullable=False),
    Column("ended_at", Moment, nullable=False),  # of an intent: when its last try will have been sent at the latest
    Column("reason", String, nullable=False),
)

gate = Table(
    "gate",
    metadata,
    Column("attempt", ForeignKey(attempt.c.id), primary_key=True),
    Column("name", String, primary_key=True),
    Column("value", Float, nullable=False),
    Column("limit", Float, nullable=False),
    Column("held", Boolean, nullable=False),
    Column("finding", String, nullable=False, server_default=""),
)

approval = Table(  # lets payloads of a sync pass its gates: the one of that checksum, or those of a size for a while
    "approval",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("sync", String, nullable=False, index=True),
    Column("payload_checksum", String),
    Column("min_users", Integer),
    Column("max_users", Integer),
    Column("until", Moment),
    Column("who", String, nullable=False),
    Column("why", String, nullable=False),
    Column("at", Moment, nullable=False),
)

pause = Table(  # the newest of a sync; until it is resumed, nothing is sent for it
    "pause",
    metadata,
    Column("sync", String, primary_key=True),
    Column("who", String, nullable=False),
    Column("why", String, nullable=False),
    Column("at", Moment, nullable=False),
    Column("resumed", Moment),
)

alert = Table(  # what was to be told to a channel; the newest row says what it knows of the sync
    "alert",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("channel", String, nullable=False),
    Column("sync", String, nullable=False),
    Column("state", String, nullable=False),
    Column("previous", String, nullable=False),
    Column("detail", String, nullable=False),
    Column("since", Moment, nullable=False),
    Column("claimed_until", Moment),  # until then a process is sending it
    Column("sent_at", Moment),  # null: not told yet
    Index("alert_of_channel", "channel", "sync"),
    Index("alert_of_sync", "sync", "since"),
)

receipt = Table(
    "receipt",
    metadata,
    Column("attempt", ForeignKey(attempt.c.id), primary_key=True),
    Column("state", String, nullable=False),
    Column("counts", JSON, nullable=False),
    Column("membership_after", String),
    Column("checksum", String, nullable=False),  # of the receipt's file in the history
    Column("at", Moment, nullable=False),
)

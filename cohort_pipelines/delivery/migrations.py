"""Steps that bring the tables of an older ledger up to date, all in the one transaction that finds them old.

A ledger says in `meta.schema_version` which steps it has behind it. Both databases take changes of tables back with
their transaction, so a migration that dies leaves the old ledger whole. A step describes tables as they were then: it
never looks at :mod:`schema`, which goes on changing.
"""

from collections.abc import Mapping
from typing import Protocol

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from cohort_pipelines.delivery.schema import Moment


class _Step(Protocol):
    def __call__(self, op: Operations, /) -> None: ...


def migrate(connection: sa.Connection, version: int) -> None:
    """Bring tables of ``version`` up to date, as part of the caller's transaction."""
    op = Operations(MigrationContext.configure(connection))
    for number in sorted(each for each in _STEPS if each > version):
        _STEPS[number](op)
        op.execute(sa.text("UPDATE meta SET schema_version = :number").bindparams(number=number))


def _to_2(op: Operations) -> None:
    """Add what restores, releases, pauses, healing and alerts need, and the generation that the history mirrors."""
    op.create_table(
        "release",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("sync", sa.String, nullable=False, index=True),
        sa.Column("payload_checksum", sa.String),
        sa.Column("min_users", sa.Integer),
        sa.Column("max_users", sa.Integer),
        sa.Column("until", Moment),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("at", Moment, nullable=False),
    )
    op.create_table(
        "pause",
        sa.Column("sync", sa.String, primary_key=True),
        sa.Column("who", sa.String, nullable=False),
        sa.Column("why", sa.String, nullable=False),
        sa.Column("at", Moment, nullable=False),
        sa.Column("resumed", Moment),
    )
    op.create_table(
        "alert",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("channel", sa.String, nullable=False),
        sa.Column("sync", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("previous", sa.String, nullable=False),
        sa.Column("detail", sa.String, nullable=False),
        sa.Column("since", Moment, nullable=False),
        sa.Column("claimed_until", Moment),
        sa.Column("sent_at", Moment),
        sa.Index("alert_of_channel", "channel", "sync"),
        sa.Index("alert_of_sync", "sync", "since"),
    )
    op.add_column("meta", sa.Column("generation", sa.Integer, nullable=False, server_default="0"))
    for column in (
        sa.Column("baseline", sa.String),
        sa.Column("last_sent", Moment),
        sa.Column("healed_until", Moment),
        sa.Column("retired", Moment),
    ):
        op.add_column("target", column)
    op.add_column("attempt", sa.Column("kind", sa.String, nullable=False, server_default="overwrite"))
    op.add_column("attempt", sa.Column("seq", sa.Integer))
    op.add_column("attempt", sa.Column("restored_from", sa.String))
    released: sa.Column[int] = sa.Column("released", sa.ForeignKey("release.id"), type_=sa.Integer)
    op.add_column("attempt", released, inline_references=True)  # SQLite takes no constraint later on
    op.add_column("gate", sa.Column("finding", sa.String, nullable=False, server_default=""))
    op.drop_index("attempt_of_sync", "attempt")
    op.create_index("attempt_of_sync", "attempt", ["sync", "state", "id"])
    op.create_index("window_of_sync", "window", ["sync", "at"])
    if op.get_bind().dialect.name != "sqlite":  # whose integers are large anyway
        for table in ("snapshot", "derived"):
            op.alter_column(table, "size", type_=sa.BigInteger)
    # a target that may have been sent something held whatever it held before
    sent_to = "established OR id IN (SELECT target FROM attempt WHERE plan_checksum IS NOT NULL)"
    op.execute(f"UPDATE target SET baseline = 'unknown' WHERE {sent_to}")  # noqa: S608  a constant


def _to_3(op: Operations) -> None:
    """Add the cohort in whose name each target was last written to: a receiver may know its groups by that."""
    for name in ("project", "cohort_id"):
        op.add_column("target", sa.Column(name, sa.Integer))
        newest = (
            f"SELECT snapshot.{name} FROM attempt JOIN snapshot ON snapshot.seq = attempt.snapshot "  # noqa: S608
            "WHERE attempt.target = target.id AND attempt.plan_checksum IS NOT NULL AND attempt.kind <> 'retire' "
            "AND snapshot.project <> 0 ORDER BY attempt.id DESC LIMIT 1"
        )
        op.execute(f"UPDATE target SET {name} = ({newest})")  # noqa: S608  constants


def _to_4(op: Operations) -> None:
    """Add the permits to read a Mixpanel project."""
    op.create_table(
        "reading",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("project", sa.String, nullable=False, index=True),
        sa.Column("cohort_id", sa.Integer, nullable=False),
        sa.Column("expires", Moment, nullable=False),
        sqlite_autoincrement=True,
    )


_STEPS: Mapping[int, _Step] = {2: _to_2, 3: _to_3, 4: _to_4}

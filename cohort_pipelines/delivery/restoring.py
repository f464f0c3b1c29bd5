"""What a person asks for: an earlier audience again, or an empty one. Both are overwrites like any other."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

import pyarrow as pa
from sqlalchemy import ColumnElement, func, or_, select

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import NothingToRestore, TargetInDoubt, TargetNotKnown
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import Window
from cohort_pipelines.delivery.chunks import PATIENCE
from cohort_pipelines.delivery.gates import Gates
from cohort_pipelines.delivery.receipt import Receipt
from cohort_pipelines.delivery.sending import Progress
from cohort_pipelines.delivery.service import deliver
from cohort_pipelines.destinations import ChangeWire, FileWire
from cohort_pipelines.history import History
from cohort_pipelines.identity import PAYLOAD_SCHEMA
from cohort_pipelines.ledger import GREEN_STATES, LEASE_SECONDS, AttemptKind, Ledger, Pause, Target, schema
from cohort_pipelines.membership import SETTLES_AFTER, Terms

_LISTED = 5


@dataclass(frozen=True, slots=True)
class Restorable:
    """A payload that was delivered: its file, the snapshot it comes from, and that snapshot's window."""

    payload: StoredFile
    snapshot_seq: int
    window: str


def restorable(
    ledger: Ledger, history: History, target: Target, sync: str, window: str, *, payload_checksum: str = ""
) -> Restorable:
    """Return what was last delivered to ``target`` in ``window``, by ``sync`` or by who owned the target before.

    That is the window's own audience, also where a restore fell into it afterwards.

    With ``payload_checksum`` it is that payload of the window, whatever was delivered in it afterwards.

    Raises:
        NothingToRestore: nothing was delivered there.
        HistoryError: the payload's file is gone, damaged or cannot be read.
    """
    table = schema.attempt
    green = (*_on(target), table.c.state.in_(GREEN_STATES), table.c.kind != AttemptKind.RETIRE)
    wanted = table.c.window == window
    if payload_checksum:
        wanted = (table.c.payload_checksum == payload_checksum) & or_(wanted, table.c.restored_from == window)
    sealed = schema.snapshot.c  # under the name that the sync had then
    asked_for = (
        select(table, sealed.sync.label("sealed_by"))
        .join(schema.target)
        .join(schema.snapshot)
        .where(*green, wanted)
        .order_by((table.c.kind == AttemptKind.OVERWRITE).desc(), table.c.id.desc())
    )
    known = select(table.c.window).join(schema.target).where(*green).group_by(table.c.window)
    with ledger.read() as connection:
        row = connection.execute(asked_for.limit(1)).first()
        newest = connection.execute(known.order_by(func.max(table.c.id).desc()).limit(_LISTED)).scalars().all()
    if row is None:
        raise NothingToRestore(sync, window, newest)
    source = row.restored_from or row.window
    file = history.stored(row.sealed_by, Stage.PARTNER_PAYLOAD, source, row.payload_checksum)
    return Restorable(file, row.snapshot, source)


def restore(
    *,
    ledger: Ledger,
    history: History,
    partner: ChangeWire | FileWire,
    target: Target,
    sync: str,
    window: Window,
    from_window: str,
    payload_checksum: str = "",
    gates: Gates,
    run_id: str,
    deadline: datetime,
    terms: Terms | None = None,
    pause: Pause | None = None,
    on_progress: Progress | None = None,
) -> Receipt:
    """Put back what ``sync`` delivered in ``from_window``, as a new overwrite in ``window``, the one that is open now.

    It passes the same gates. It takes its place in the order when it claims the target: runs that were asked for before
    are superseded, later windows win. With ``pause`` the sync is paused in that same transaction. ``payload_checksum``:
    see :func:`restorable`.

    Raises:
        NothingToRestore: nothing was delivered in ``from_window``.
        DeliveryError, HistoryError: as :func:`deliver`.
    """
    found = restorable(ledger, history, target, sync, from_window, payload_checksum=payload_checksum)
    return deliver(
        ledger=ledger,
        history=history,
        partner=partner,
        target=target,
        sync=sync,
        window=window,
        payload=found.payload,
        snapshot_seq=found.snapshot_seq,
        gates=gates,
        run_id=run_id,
        deadline=deadline,
        terms=terms,
        kind=AttemptKind.RESTORE,
        restored_from=found.window,
        pause=pause,
        on_progress=on_progress,
    )


def retire(
    *,
    ledger: Ledger,
    history: History,
    partner: ChangeWire | FileWire,
    target: Target,
    sync: str,
    window: Window,
    run_id: str,
    deadline: datetime,
    terms: Terms | None = None,
    on_progress: Progress | None = None,
) -> Receipt:
    """Empty a target of everybody that was ever sent to it, and give it up: no sync owns it afterwards.

    No gate holds it, since an empty audience is what was asked for.

    Raises:
        TargetNotKnown: nothing was ever sent to it.
        TargetInDoubt: it was emptied; a request in doubt may still put ids back, so that it is not retired yet.
        DeliveryError, HistoryError: as :func:`deliver`; the target then still belongs to ``sync``.
    """
    newest = select(func.max(schema.attempt.c.snapshot)).join(schema.target).where(*_on(target))
    with ledger.read() as connection:
        snapshot_seq = connection.execute(newest).scalar()
    if snapshot_seq is None:
        raise TargetNotKnown(sync, f"nothing was ever delivered to {target.name!r}")
    nobody = history.write(sync, Stage.PARTNER_PAYLOAD, window.key, pa.Table.from_pylist([], schema=PAYLOAD_SCHEMA))
    receipt = deliver(
        ledger=ledger,
        history=history,
        partner=partner,
        target=target,
        sync=sync,
        window=window,
        payload=nobody,
        snapshot_seq=snapshot_seq,
        gates=None,
        run_id=run_id,
        deadline=deadline,
        terms=terms,
        kind=AttemptKind.RETIRE,
        on_progress=on_progress,
    )
    if receipt.in_doubt:
        last_try = clock.now() + timedelta(seconds=LEASE_SECONDS) + PATIENCE
        until = last_try + SETTLES_AFTER + (terms or Terms()).apply_delay
        raise TargetInDoubt(target.name, receipt.in_doubt, until)
    return receipt


def _on(target: Target) -> Iterator[ColumnElement[bool]]:
    for name, value in asdict(target).items():
        yield schema.target.c[name] == value

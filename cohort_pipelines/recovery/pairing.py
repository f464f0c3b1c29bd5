"""Ledger and history need each other: each says of the other that it is the right one, and no older copy.

The history bears small marks of the ledger that writes it: who it is, and for each target how far the ledger had come
when something was last sent there. A mark is written after the ledger's own commit, so that it may lag behind and never
runs ahead. A ledger that is behind any mark has forgotten something, and membership made from it would be wrong in
silence.

Copies that are used in the same moment are level with each other. So a mark names the run that it speaks of, too: the
ledger that never had this run is the other one.
"""

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import msgspec
from sqlalchemy import Connection, bindparam, select

from cohort_pipelines.core.errors import HistoryError, HistoryUnpaired, LedgerUnpaired
from cohort_pipelines.core.files import Stage
from cohort_pipelines.history import History
from cohort_pipelines.ledger import Ledger, Target, next_generation, schema

IDENTITY = "id.json"
_DOUBLED = "doubled-"


@dataclass(frozen=True, slots=True)
class Identity:
    """Which ledger writes a history, and how far it had come at the last command of a person."""

    ledger_id: str
    generation: int = 0


@dataclass(frozen=True, slots=True)
class Mirror:
    """What the history says of a target: which ledger last sent it something, how far that had come, and for whom.

    ``generation`` counts the ledger's changes, ``target_generation`` the attempts on the target. ``writers`` are all
    syncs that ever wrote it, the owner among them; ``initial_members`` is what it held before the first delivery, None
    before that; ``run`` made the attempt, empty after a rebuild.
    """

    ledger_id: str
    generation: int
    wire: str
    host: str
    account: str
    name: str
    owner: str
    target_generation: int = 0
    writers: tuple[str, ...] = ()
    initial_members: str | None = "unknown"
    run: str = ""

    @property
    def target(self) -> Target:
        """The target that it is about."""
        return Target(self.wire, self.host, self.account, self.name)


_Mark = TypeVar("_Mark", Identity, Mirror)


def require_paired(ledger: Ledger, history: History) -> None:
    """Refuse a ledger that does not fit ``history``; at the first use of both, pair them by a mark.

    Raises:
        LedgerUnpaired: the ledger was lost, put back from a copy, or there are two.
        HistoryUnpaired: the history was lost, or is another one.
        HistoryNotReadable, HistoryNotWritable: the marks cannot be read, or the first one cannot be written.
    """
    if not require_fitting(ledger, history):
        mark(history, ledger.ledger_id, generation=0)


def require_fitting(ledger: Ledger, history: History) -> bool:
    """Refuse a ledger that does not fit ``history``, writing nothing; return whether the two are paired yet.

    The marks of all targets count: an older copy that went on with one target would catch up with that one's mark. A
    history without marks or deliveries is new to a new ledger alone: beside any other, the ids of the past are missing.

    Raises:
        LedgerUnpaired: the ledger was lost, put back from a copy, or there are two.
        HistoryUnpaired: the history was lost, or is another one.
        HistoryNotReadable: the marks cannot be read.
    """
    marks = history.read_marks()  # before the ledger, which another process may carry on meanwhile
    with ledger.read() as connection:
        mine = connection.execute(select(schema.meta.c.ledger_id, schema.meta.c.generation)).one()
        has_a_past = connection.execute(select(schema.attempt.c.id).limit(1)).first() is not None
    if IDENTITY not in marks:
        _require_new(ledger, history, has_a_past=has_a_past)
        return False
    identity = _require(Identity, IDENTITY, marks, ledger, history)
    if identity.ledger_id != mine.ledger_id:
        raise LedgerUnpaired(ledger.where, history.shown, "the history is another ledger's")
    if identity.generation > mine.generation:
        raise LedgerUnpaired(ledger.where, history.shown, "it is older than what a person last asked of it")
    mirrors = [_require(Mirror, name, marks, ledger, history) for name in marks.keys() - {IDENTITY}]
    for mirror in mirrors:
        if mirror.ledger_id != mine.ledger_id or mirror.generation > mine.generation:
            finding = f"it is older than what was last sent to {mirror.name!r}"
            raise LedgerUnpaired(ledger.where, history.shown, finding)
    with ledger.read() as connection:
        if doubled := next((each for each in mirrors if _is_of_a_copy(each, connection)), None):
            raise LedgerUnpaired(ledger.where, history.shown, _doubled(doubled))
    return True


def require_own(ledger: Ledger, history: History) -> None:
    """Refuse to go on where ``history`` became another ledger's in the middle of it, as by a rebuilding.

    Raises:
        LedgerUnpaired: it did.
        HistoryNotReadable: its mark cannot be read.
    """
    identity = read_mark(Identity, history.read_mark(IDENTITY) or b"")
    if identity is not None and identity.ledger_id != ledger.ledger_id:
        raise LedgerUnpaired(ledger.where, history.shown, "the history became another ledger's meanwhile")


def require_unused(history: History, where: str) -> None:
    """Refuse a ``history`` that tells of deliveries where no ledger is found at ``where``: it was lost.

    Raises:
        LedgerUnpaired: the history was written by a ledger, or something was sent from it.
        HistoryNotReadable: it cannot be looked at.
    """
    if history.read_mark(IDENTITY) is not None or _was_sent_from(history):
        raise LedgerUnpaired(where, history.shown, "it is gone, and the history tells of deliveries")


def mark(history: History, ledger_id: str, generation: int) -> None:
    """Say in ``history`` which ledger writes it, and how far that has come.

    Raises:
        HistoryNotWritable: the disk or the object store refused.
    """
    history.write_mark(IDENTITY, msgspec.json.encode(Identity(ledger_id, generation)))


def refuse_older_copies(ledger: Ledger, history: History) -> None:
    """Let ``history`` refuse copies of the ledger that were made before now; to be called after a person's command.

    What was asked for is recorded already, so that a history that cannot be used or is another ledger's keeps nobody
    from it.
    """
    with suppress(HistoryError):
        identity = read_mark(Identity, history.read_mark(IDENTITY) or b"")
        if identity is not None and identity.ledger_id == ledger.ledger_id:
            with ledger.write() as connection:
                generation = next_generation(connection, ledger)
            mark(history, ledger.ledger_id, generation)


def mirror(
    ledger: Ledger,
    history: History,
    generation: int,
    target: Target,
    owner: str,
    *,
    target_generation: int,
    initial_members: str | None,
    writers: Iterable[str] = (),
    run: str = "",
    sent: bool = False,
) -> None:
    """Say in ``history`` how far ``ledger`` has come with ``target``; to be called after its commit.

    The owner and ``writers`` join those that the mark names already; a baseline that it names stays. Nothing is said
    where a later ``run`` of the same ledger has done so: this one was taken over, and meets that at its next step.

    Where ``sent`` says that requests were made beside those of a copy, a mark of its own, which the other cannot write
    over in that very moment, fits neither of the two until one is rebuilt: none knows what the other has sent.

    Raises:
        LedgerUnpaired: a copy of the ledger has written the target meanwhile.
        HistoryNotReadable, HistoryNotWritable: the disk or the object store refused.
    """
    name = mark_of(target)
    before = read_mark(Mirror, history.read_mark(name) or b"")
    wrote = {owner, *writers, *((before.owner, *before.writers) if before else ())}
    mirrored = Mirror(
        ledger.ledger_id,
        generation,
        **asdict(target),
        owner=owner,
        target_generation=target_generation,
        writers=tuple(sorted(wrote)),
        initial_members=initial_members or (before.initial_members if before else None),
        run=run,
    )
    if before is not None and before.ledger_id == ledger.ledger_id:
        if _is_doubled(ledger, before, mirrored):
            if sent:
                of_both = replace(before, run=f"{before.run}, {run}")
                history.write_mark(f"{_DOUBLED}{name}", msgspec.json.encode(of_both))
            raise LedgerUnpaired(ledger.where, history.shown, _doubled(before))
        if before.generation >= generation:
            return
    history.write_mark(name, msgspec.json.encode(mirrored))


def mark_of(target: Target) -> str:
    """Return the name of the mark of ``target``."""
    return f"{hashlib.sha256(msgspec.json.encode(target)).hexdigest()}.json"


def read_mark(kind: type[_Mark], content: bytes) -> _Mark | None:
    """Return what a mark says, or None where it is damaged."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None


def _require_new(ledger: Ledger, history: History, *, has_a_past: bool) -> None:
    """Refuse to pair two of which one alone tells of deliveries: the other was lost, or is another one."""
    sent = _was_sent_from(history)
    if sent and not has_a_past:
        raise LedgerUnpaired(ledger.where, history.shown, "it is new, and the history tells of deliveries")
    if has_a_past and not sent and history.read_mark(IDENTITY) is None:  # unless they were paired just now
        raise HistoryUnpaired(ledger.where, history.shown)


def _require(kind: type[_Mark], name: str, marks: Mapping[str, bytes], ledger: Ledger, history: History) -> _Mark:
    read = read_mark(kind, marks[name])
    if read is None:
        raise LedgerUnpaired(ledger.where, history.shown, f"the history's mark .ledger/{name} is damaged")
    return read


_RUN = (  # built once, since each mark is looked up
    select(schema.attempt.c.run_id)
    .join(schema.target)
    .where(*(schema.target.c[name] == bindparam(name) for name in ("wire", "host", "account", "name")))
    .where(schema.attempt.c.generation == bindparam("generation"))
)


def _is_of_a_copy(mirror: Mirror, connection: Connection) -> bool:
    """Say whether a mark of this ledger's speaks of an attempt that it never made, or that was another run's."""
    attempt = asdict(mirror.target) | {"generation": mirror.target_generation}
    return bool(mirror.run) and connection.execute(_RUN, attempt).scalar() != mirror.run


def _is_doubled(ledger: Ledger, before: Mirror, mine: Mirror) -> bool:
    """Say whether a copy made the mark ``before``: nobody but a later run of the ledger itself may be ahead of it."""
    with ledger.read() as connection:
        if _is_of_a_copy(before, connection):
            return True
    later = bool(before.run) and before.target_generation > mine.target_generation
    return before.generation >= mine.generation and not later


def _doubled(mirror: Mirror) -> str:
    return f"a copy of it has written {mirror.name!r} meanwhile"


def _was_sent_from(history: History) -> bool:
    return any(history.windows(sync, stage) for sync in history.syncs() for stage in (Stage.RECEIPT, Stage.PLAN))

"""A partner that keeps state, a ledger and a history that can die: what the tests of delivery share."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import ceil
from pathlib import Path
from unittest.mock import patch

import duckdb
import pyarrow as pa
from sqlalchemy import Connection

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import NamedCohort, Operation
from cohort_pipelines.core.errors import LeaseLost, PartnerRequestRejected, PartnerTargetMissing
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import Cadence, Window
from cohort_pipelines.delivery import Gates, Receipt, deliver, restore, retire
from cohort_pipelines.delivery.chunks import PATIENCE
from cohort_pipelines.destinations.wire import Answer, ChangeWire, FileWire, Session
from cohort_pipelines.history import History
from cohort_pipelines.history.writer import StageWriter
from cohort_pipelines.ledger.ledger import Ledger, Target
from cohort_pipelines.ledger.pauses import Pause
from cohort_pipelines.membership import spelling
from cohort_pipelines.membership.terms import Terms

ANY_SIZE = Gates(min_users=0, max_shrink=1.0)
IN_MEMORY = Path("/dev/shm")  # noqa: S108  thousands of small files, and no need to outlive the test
SYNC = "beta_users"
LEASE_SECONDS = 60.0
LAST_TRY = timedelta(seconds=LEASE_SECONDS - 1) + PATIENCE
"""How long after its intent a chunk may be sent for the last time: it is begun under the lease, then tried again."""


class Killed(BaseException):
    """Stands for SIGKILL: after it nothing of the process is written or sent any more."""


class Fate:
    """Counts the points at which a process can die, and lets it die at one of them."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.points = 0
        self._dies_at = dies_at
        self.dead = False

    def point(self) -> None:
        self.points += 1
        self.dead = self.dead or self.points == self._dies_at
        if self.dead:
            raise Killed

    def answered(self) -> None:
        """Count the point between an answer and its record."""
        self.point()


class MortalLedger(Ledger):
    """A ledger whose process can die before and after every commit; it shares the connections of ``ledger``."""

    def __init__(self, ledger: Ledger, fate: Fate) -> None:
        vars(self).update(vars(ledger))  # connections of its own would compile all SQL anew
        self._fate = fate

    @contextmanager
    def write(self) -> Iterator[Connection]:
        renewing = threading.current_thread().name == "lease"
        if self._fate.dead and renewing:
            raise LeaseLost(SYNC)  # a dead process has no thread that could renew its lease
        with super().write() as connection:
            yield connection
            self._pass_point(renewing=renewing)
        self._pass_point(renewing=renewing)

    def _pass_point(self, *, renewing: bool) -> None:
        if not renewing:  # whether it came to a renewal depends on how fast the machine is
            self._fate.point()


class MortalHistory(History):
    """A history whose process can die before and after every file."""

    def __init__(self, root: Path, fate: Fate) -> None:
        self._fate = fate
        super().__init__(root)

    @contextmanager
    def writer(self, sync: str, stage: Stage, window: str, schema: pa.Schema) -> Iterator[StageWriter]:
        with super().writer(sync, stage, window, schema) as writer:
            yield writer
            self._fate.point()
        self._fate.point()


@dataclass(frozen=True, slots=True)
class Sent:
    """A request that reached the partner."""

    operation: Operation
    ids: tuple[str, ...]


Fault = Callable[["MemoryPartner", Operation, Sequence[str]], Answer]


@dataclass
class MemoryPartner:
    """A partner that takes additions and removals, and holds what they come to."""

    chunk_rows: int = 3
    workers: int = 2
    judges_rows: bool = False
    assumed_per_second: float = 1_000.0
    findable: bool = True
    wire: str = "memory"
    host: str = "localhost"
    account: str = ""
    cohort: NamedCohort | None = None
    members: set[str] = field(default_factory=set)
    requests: list[Sent] = field(default_factory=list)
    established: int = 0
    missing: bool = False  # somebody deleted the target; to establish it makes it anew
    faults: dict[int, Fault] = field(default_factory=dict)  # by the number of the request, from 1
    always: Fault | None = None
    late: list[tuple[datetime, Sent]] = field(default_factory=list)  # with the moment of the last try
    fate: Fate = field(default_factory=Fate)
    on_request: Callable[[int], None] | None = None
    on_establish: Callable[[], None] | None = None
    on_find: Callable[[], None] = lambda: None

    def count_requests(self, adds: int, removals: int, *, first: bool) -> int:
        return first + ceil(adds / self.chunk_rows) + ceil(removals / self.chunk_rows)

    @asynccontextmanager
    async def open(self, target: str) -> AsyncIterator[Session]:
        assert target
        yield _MemorySession(self)

    def delete(self) -> None:
        """Let somebody delete the target, and all who are in it."""
        self.missing = True
        self.members.clear()

    def apply(self, sent: Sent) -> None:
        if self.missing:
            return
        if sent.operation is Operation.ADD:
            self.members.update(sent.ids)
        else:
            self.members.difference_update(sent.ids)

    def land_late_requests(self, sent_before: datetime | None = None) -> None:
        """Let requests that got no answer take effect: all, or those that are older."""
        due = [sent for at, sent in self.late if sent_before is None or at < sent_before]
        self.late = [(at, sent) for at, sent in self.late if sent_before is not None and at >= sent_before]
        for sent in due:
            self.apply(sent)

    def repeated(self, since: int) -> int:
        """Return how many requests from number ``since`` on hold a row that was sent before, with no other between."""
        newest: dict[str, Operation] = {}
        repeats = 0
        for number, sent in enumerate(self.requests):
            repeats += number >= since and any(newest.get(each) is sent.operation for each in sent.ids)
            newest |= dict.fromkeys(sent.ids, sent.operation)
        return repeats

    def sent_ids(self, operation: Operation) -> Counter[str]:
        return Counter(each for sent in self.requests if sent.operation is operation for each in sent.ids)


class _MemorySession:
    def __init__(self, partner: MemoryPartner) -> None:
        self._partner = partner

    async def establish(self, deadline: datetime) -> int:
        assert deadline > clock.now()
        self._partner.fate.point()
        self._partner.established += 1
        self._partner.missing = False
        if self._partner.on_establish is not None:
            self._partner.on_establish()
        self._partner.fate.point()
        return 1

    async def find(self, deadline: datetime) -> int:
        assert deadline > clock.now()
        self._partner.fate.point()
        self._partner.on_find()
        if self._partner.missing:
            raise PartnerTargetMissing(self._partner.wire, 404)
        return 1

    async def send(self, operation: Operation, ids: Sequence[str], page: int, pages: int, deadline: datetime) -> Answer:
        assert deadline > clock.now()
        assert 1 <= page <= pages
        assert 0 < len(ids) <= self._partner.chunk_rows
        try:
            return await self._send(operation, ids)
        except Killed:  # as good as dead: cut off from its ledger, a writer goes on trying until its time is over
            self._partner.late.append((clock.now() + LAST_TRY, Sent(operation, tuple(ids))))
            raise

    async def _send(self, operation: Operation, ids: Sequence[str]) -> Answer:
        partner, sent = self._partner, Sent(operation, tuple(ids))
        partner.fate.point()
        partner.requests.append(sent)
        number = len(partner.requests)
        if partner.on_request is not None:
            partner.on_request(number)
        await asyncio.sleep(0)
        if partner.missing:
            raise PartnerRequestRejected(partner.wire, 404)
        fault = partner.faults.get(number) or partner.always
        if fault is None:
            partner.apply(sent)
            answer = Answer(requests=1)
        else:
            answer = fault(partner, operation, ids)
        partner.fate.point()
        return answer


class World:
    """One sync with its partner, history and ledger, and a clock that can be moved."""

    def __init__(
        self, folder: Path, partner: MemoryPartner | None = None, url: str = "", ledger: Ledger | None = None
    ) -> None:
        self.folder = folder
        self.url = url or f"sqlite:///{folder}/ledger.sqlite"
        self.partner = partner or MemoryPartner()
        self.history = History(folder / "history")
        self.ledger = ledger or Ledger(self.url)
        self.window = Cadence.QUARTER_HOUR.window_at(clock.now())

    def next_window(self) -> Window:
        assert self.window.closes is not None
        self.window = Cadence.QUARTER_HOUR.window_at(self.window.closes)
        return self.window

    def seal(self, ids: Iterable[str]) -> tuple[StoredFile, int]:
        """Seal a payload of ``ids`` and record the snapshot that it stands for."""
        table = pa.table({"partner_user_id": pa.array(sorted(ids), pa.string())})
        payload = self.history.write(SYNC, Stage.PARTNER_PAYLOAD, self.window.key, table)
        seq = self.ledger.record_snapshot(
            SYNC, self.window.key, payload, clock.now(), payload.rows, payload.rows, project=1, cohort_id=2
        )
        return payload, seq

    def overwrite(self, ids: Iterable[str], **options: object) -> Receipt:
        """Deliver a fresh snapshot of ``ids``."""
        payload, seq = self.seal(ids)
        return self.deliver(payload, seq, **options)  # type: ignore[arg-type]

    def restore(
        self,
        window: str,
        *,
        fate: Fate | None = None,
        gates: Gates = ANY_SIZE,
        terms: Terms | None = None,
        pause: bool = False,
        partner: ChangeWire | FileWire | None = None,
        patience: timedelta = timedelta(hours=1),
    ) -> Receipt:
        """Put back what was delivered in ``window``."""
        partner = partner or self.partner
        if isinstance(partner, MemoryPartner):
            partner.fate = fate or Fate()
        return restore(
            ledger=MortalLedger(self.ledger, fate) if fate else self.ledger,
            history=MortalHistory(self.folder / "history", fate) if fate else self.history,
            partner=partner,
            target=Target(partner.wire, partner.host, partner.account, "Beta"),
            sync=SYNC,
            window=self.window,
            from_window=window,
            gates=gates,
            terms=terms,
            run_id="restore",
            deadline=clock.now() + patience,
            pause=Pause("somebody", "to look at it") if pause else None,
        )

    def retire(self, partner: MemoryPartner | None = None, sync: str = SYNC) -> Receipt:
        """Empty the target, and give it up."""
        partner = partner or self.partner
        partner.fate = Fate() if partner.fate.dead else partner.fate
        return retire(
            ledger=self.ledger,
            history=self.history,
            partner=partner,
            target=Target(partner.wire, partner.host, partner.account, "Beta"),
            sync=sync,
            window=self.window,
            run_id="retire",
            deadline=clock.now() + timedelta(hours=1),
        )

    def deliver(
        self,
        payload: StoredFile,
        seq: int,
        *,
        fate: Fate | None = None,
        gates: Gates = ANY_SIZE,
        terms: Terms | None = None,
        sync: str = SYNC,
        partner: ChangeWire | FileWire | None = None,
        deadline: datetime | None = None,
        lease_seconds: float = LEASE_SECONDS,
        run_id: str = "run",
        requested: datetime | None = None,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Receipt:
        partner = partner or self.partner
        if isinstance(partner, MemoryPartner):
            partner.fate = fate or Fate()
        return deliver(
            ledger=MortalLedger(self.ledger, fate) if fate else self.ledger,
            history=MortalHistory(self.folder / "history", fate) if fate else self.history,
            partner=partner,
            target=Target(partner.wire, partner.host, partner.account, "Beta"),
            sync=sync,
            window=self.window,
            payload=payload,
            snapshot_seq=seq,
            gates=gates,
            terms=terms,
            run_id=run_id,
            deadline=deadline or clock.now() + timedelta(hours=1),
            requested=requested,
            on_progress=on_progress,
            lease_seconds=lease_seconds,
        )


@contextmanager
def one_duckdb() -> Iterator[None]:
    """Let one DuckDB do the set work of all deliveries meanwhile: to start one for each takes as long as all its work.

    It lacks the limits of :mod:`cohort_pipelines.core.engine`, which a handful of users never meet.
    """

    @contextmanager
    def cursor(_spill: Path) -> Iterator[duckdb.DuckDBPyConnection]:
        with kept.cursor() as used:
            yield used
            with suppress(duckdb.InvalidInputException):  # it has none, where every spelling is an id
                used.remove_function("equality_key")

    with (
        duckdb.connect(config={"preserve_insertion_order": False}) as kept,
        patch.object(spelling, "engine", cursor),
    ):
        yield


def users(*numbers: int) -> set[str]:
    return {f"user-{number:04}" for number in numbers}


def lost(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
    """Take effect, and lose the answer."""
    partner.apply(Sent(operation, tuple(ids)))
    return Answer(unknown=dict.fromkeys(range(len(ids)), "connection reset"), requests=1)


def dropped(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001  a Fault
    """Never take effect, and say nothing."""
    return Answer(unknown=dict.fromkeys(range(len(ids)), "time-out"), requests=1)


def late(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
    """Say nothing now, and take effect later."""
    partner.late.append((clock.now(), Sent(operation, tuple(ids))))
    return Answer(unknown=dict.fromkeys(range(len(ids)), "time-out"), requests=1)


def tried_twice(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
    """Take effect and say so at the second try; the first takes effect once more, later."""
    late(partner, operation, ids)
    partner.apply(Sent(operation, tuple(ids)))
    return Answer(doubtful=frozenset(range(len(ids))), requests=2)

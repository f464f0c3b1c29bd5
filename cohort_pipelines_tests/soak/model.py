"""Random sequences of windows and mishaps, played against a partner that keeps state, and what must hold of them."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal

from hypothesis import strategies as st

from cohort_pipelines import clock
from cohort_pipelines.delivery import Gates, Receipt, pausing, schema
from cohort_pipelines.delivery.belief import SETTLES_AFTER
from cohort_pipelines.errors import (
    DeliveryError,
    DeliveryHeld,
    DeliverySuperseded,
    NothingToRestore,
    PartnerRequestRefused,
    SyncPaused,
)
from cohort_pipelines.history import StoredFile
from cohort_pipelines.partners.wire import Answer, Operation
from cohort_pipelines_tests.delivery.world import (
    ANY_SIZE,
    SYNC,
    Fate,
    Fault,
    Killed,
    MemoryPartner,
    Sent,
    World,
    dropped,
    late,
    lost,
    tried_twice,
    users,
)
from cohort_pipelines_tests.soak.bench import Bench

ALMOST = SETTLES_AFTER - timedelta(seconds=5)
FAULTS: dict[str, Fault] = {"lost": lost, "dropped": dropped, "late": late, "tried twice": tried_twice}
IDS = 10
QUIET_WINDOW_FAILED = "a quiet window failed:"
RESTORE_PAUSED = "a pause refused this:"
What = Literal["window", "again", "backfill", "restore", "restore and pause", "pause", "resume"]


@dataclass(frozen=True)
class Step:
    """Something is asked for, and something befalls it; then a while goes by.

    Attributes:
        what: a new window, the last one again, an older one, a restore, or a word to the sync.
        audience: numbers of the users in a new window.
        back: how many windows ago, for what is older.
        gated: behind the default gates, which hold a halved audience.
        dies_at: the commit, file or request at which the process is killed.
        faults: what happens to requests, by their number in this step.
        refused: users whose row the partner refuses; ``poison``: users for whose sake it refuses a whole request.
        late_lands: late requests take effect at the end of the step, else when they must have.
        minutes: how long until the next step.
    """

    what: What
    audience: frozenset[int]
    back: int
    gated: bool
    dies_at: int | None
    faults: dict[int, str]
    refused: frozenset[int]
    poison: frozenset[int]
    late_lands: bool
    minutes: int


_numbers = st.integers(0, IDS - 1)
_seldom = st.just(frozenset[int]()) | st.just(frozenset[int]()) | st.frozensets(_numbers, max_size=2)
steps = st.builds(
    Step,
    what=st.sampled_from(["window"] * 8 + ["again", "backfill", "restore", "restore and pause", "pause", "resume"]),
    audience=st.frozensets(_numbers),
    back=st.integers(1, 4),
    gated=st.booleans(),
    dies_at=st.none() | st.none() | st.integers(1, 40),
    faults=st.dictionaries(st.integers(1, 6), st.sampled_from(sorted(FAULTS)), max_size=2),
    refused=_seldom,
    poison=_seldom,
    late_lands=st.booleans(),
    minutes=st.sampled_from([2, 6, 11, 17]),  # longer than a lease; shorter and longer than what settles
)
sequences = st.lists(steps, min_size=3, max_size=8)


@dataclass
class Tally:
    """What a run of many sequences came to; ``violations`` says what did not hold, and in which sequence."""

    sequences: int = 0
    deliveries: int = 0
    green: int = 0
    crashes: int = 0
    held: int = 0
    restores: int = 0
    violations: list[str] = field(default_factory=list)


class Violation(AssertionError):
    """Something that is promised did not hold."""

    def __init__(self, promise: str, found: object = "") -> None:
        super().__init__(f"{promise} {found}".strip())


@dataclass
class Sealed:
    """A window's payload."""

    payload: StoredFile
    seq: int
    window: str
    ids: set[str]


@dataclass
class Play:
    """One sequence on its way."""

    world: World
    tally: Tally
    sealed: list[Sealed] = field(default_factory=list)
    newest_green: int = 0

    def step(self, step: Step) -> None:
        """Do what ``step`` asks for, and hold what came of it against what is promised."""
        partner, before = self.world.partner, len(self.world.partner.requests)
        partner.faults = {before + number: FAULTS[name] for number, name in step.faults.items()}
        partner.always = _refusing(users(*step.refused), users(*step.poison))
        try:
            self._do(step)
        except (DeliveryHeld, DeliverySuperseded, NothingToRestore) as error:
            self.tally.held += isinstance(error, DeliveryHeld)
            _require(len(partner.requests) == before, f"{type(error).__name__}, and yet something was sent")
        except (DeliveryError, Killed) as error:
            self.tally.crashes += isinstance(error, Killed)
        if step.late_lands:
            partner.land_late_requests()

    def _do(self, step: Step) -> None:
        world = self.world
        if step.what == "pause":
            pausing.pause(world.ledger, SYNC, who="somebody", why="to see")
        elif step.what == "resume":
            pausing.resume(world.ledger, SYNC)
        elif step.what in {"restore", "restore and pause"}:
            self._restore(step)
        elif step.what == "window" or not self.sealed:
            world.next_window()
            payload, seq = world.seal(users(*step.audience))
            self.sealed.append(Sealed(payload, seq, world.window.key, users(*step.audience)))
            self._deliver(self.sealed[-1], step)
        else:
            self._deliver(self.sealed[-1] if step.what == "again" else self._older(step), step)

    def _deliver(self, sealed: Sealed, step: Step) -> None:
        paused = pausing.paused(self.world.ledger, SYNC) is not None
        before = len(self.world.partner.requests)
        self.tally.deliveries += 1
        try:
            receipt = self.world.deliver(
                sealed.payload, sealed.seq, fate=Fate(dies_at=step.dies_at), gates=_gates(step)
            )
        except BaseException:
            _require(not paused or len(self.world.partner.requests) == before, "sent while it was paused")
            raise
        _require(not paused, "delivered while it was paused")
        _require(sealed.seq >= self.newest_green, "went back to an older snapshot")
        self.newest_green = sealed.seq
        self._judge(receipt, sealed.ids)

    def _restore(self, step: Step) -> None:
        if not self.sealed:
            return
        wanted = self._older(step)
        self.tally.deliveries += 1
        with suppress_pause_by(step):
            receipt = self.world.restore(
                wanted.window, fate=Fate(dies_at=step.dies_at), gates=_gates(step), pause=step.what != "restore"
            )
        self.tally.restores += 1
        self._judge(receipt, self._ids_of(receipt.payload_checksum))

    def _ids_of(self, checksum: str) -> set[str]:
        return next(each.ids for each in self.sealed if each.payload.checksum == checksum)

    def _judge(self, receipt: Receipt, ids: set[str]) -> None:
        """Green and settled is exact; and what is settled cannot change any more."""
        self.tally.green += 1
        _require(receipt.state in schema.GREEN_STATES, f"a receipt that is {receipt.state}")
        if not receipt.unsettled:
            _require(not self.world.partner.late, "settled, and yet a request may still land")
            _require(self.world.partner.members == ids, "green and settled, and not the payload")

    def _older(self, step: Step) -> Sealed:
        return self.sealed[-min(step.back, len(self.sealed))]


def play(history: Sequence[Step], tally: Tally, bench: Bench) -> None:
    """Play a sequence, then two quiet windows, after which everything must be exact.

    Raises:
        Violation: something that is promised did not hold.
    """
    tally.sequences += 1
    world = bench.world(MemoryPartner(chunk_rows=2))
    playing = Play(world, tally)
    with ExitStack() as later:
        for step in history:
            playing.step(step)
            later.enter_context(clock.shifted(timedelta(minutes=step.minutes)))
            world.partner.land_late_requests(sent_before=clock.now() - ALMOST)
        wanted = users(*history[-1].audience)
        for _ in range(3):
            later.enter_context(clock.shifted(timedelta(minutes=17)))
            world.partner.land_late_requests(sent_before=clock.now() - ALMOST)
            receipt = _quiet_window(world, wanted)
        _require(receipt.unsettled == 0, "three quiet windows, and still unsettled")
        _require(world.partner.members == wanted, "three quiet windows, and not the payload")


def _quiet_window(world: World, wanted: set[str]) -> Receipt:
    pausing.resume(world.ledger, SYNC)
    world.partner.faults, world.partner.always = {}, None
    world.next_window()
    try:
        return world.overwrite(wanted)
    except DeliveryError as error:
        raise Violation(QUIET_WINDOW_FAILED, type(error).__name__) from error


@contextmanager
def suppress_pause_by(step: Step) -> Iterator[None]:
    """A restore goes through where a window would meet the pause."""
    try:
        yield
    except SyncPaused as error:
        raise Violation(RESTORE_PAUSED, step.what) from error


def _refusing(refused: set[str], poison: set[str]) -> Fault | None:
    if not refused and not poison:
        return None

    def answer(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        if poison & set(ids):
            raise PartnerRequestRefused(partner.wire, 400)
        partner.apply(Sent(operation, tuple(each for each in ids if each not in refused)))
        return Answer(refused={row: "HTTP 400" for row, each in enumerate(ids) if each in refused}, requests=1)

    return answer


def _gates(step: Step) -> Gates:
    return Gates() if step.gated else ANY_SIZE


def _require(held: bool, promise: str) -> None:
    if not held:
        raise Violation(promise)

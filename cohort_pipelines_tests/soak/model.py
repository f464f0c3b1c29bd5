"""What must hold of any story, played against a partner that keeps state: the model that a delivery is held against."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    DeliveryError,
    DeliveryHeld,
    DeliveryStopped,
    DeliverySuperseded,
    NothingToRestore,
    SyncPaused,
)
from cohort_pipelines.core.files import StoredFile
from cohort_pipelines.delivery import Gates, Receipt
from cohort_pipelines.ledger import approvals, pauses
from cohort_pipelines.membership.state import SETTLES_AFTER
from cohort_pipelines_tests.delivery.world import ANY_SIZE, SYNC, Fate, Killed, World, users
from cohort_pipelines_tests.soak.bench import Bench
from cohort_pipelines_tests.soak.promises import BEGINS, Promises, Violation, require
from cohort_pipelines_tests.soak.receiver import FAULTS, Receiver, refusing
from cohort_pipelines_tests.soak.story import EVERYBODY, Amid, Step, Story

ALMOST = SETTLES_AFTER - timedelta(seconds=5)
_UNTIL_FOUND = 4  # windows: two in which all that there is comes round, one that finds it out, one that makes it anew
NOTHING_BEGUN = (DeliveryHeld, DeliverySuperseded, NothingToRestore)
HURRY, SLEEP = timedelta(seconds=30), timedelta(minutes=2)


@dataclass
class Tally:
    """What a run of many stories came to.

    ``strangers`` are those that were in the target at the end; ``violations`` says in the story of which seed, and
    what.
    """

    sequences: int = 0
    deliveries: int = 0
    green: int = 0
    crashes: int = 0
    held: int = 0
    approved: int = 0
    restores: int = 0
    overtaken: int = 0
    deleted: int = 0
    strangers: int = 0
    violations: list[tuple[int, str]] = field(default_factory=list)


@dataclass
class Sealed:
    """A window's payload; ``delivered``: it was, as the window's own."""

    payload: StoredFile
    seq: int
    window: str
    ids: set[str]
    delivered: bool = False


@dataclass
class Play:
    """One story on its way.

    Attributes:
        sealed: all payloads so far.
        amid: the number of the request amid which something happened to the delivery under way; 0: nothing did.
        found: what did not hold meanwhile.
    """

    world: World
    partner: Receiver
    promises: Promises
    tally: Tally
    later: ExitStack
    sealed: list[Sealed] = field(default_factory=list)
    amid: int = 0
    found: Violation | None = None

    def step(self, step: Step) -> None:
        """Do what ``step`` asks for, and hold what came of it against what is promised."""
        partner, before = self.partner, len(self.partner.requests)
        partner.faults = {before + number: FAULTS[name] for number, name in step.faults.items()}
        partner.always = refusing(users(*step.rejected), users(*step.poison))
        partner.on_request = self._befalling(step, before)
        partner.workers = 1 if step.amid == "overtaken" else 2  # the other could renew the lease once more
        self.amid = 0
        try:
            self._do(step)
        except NOTHING_BEGUN as error:
            self.tally.held += isinstance(error, DeliveryHeld)
            require(len(partner.requests) == before, f"{type(error).__name__}, and yet something was sent")
        except (DeliveryError, Killed) as error:
            self.tally.crashes += isinstance(error, Killed)
        if self.found is not None:
            raise self.found
        if self.amid:
            require(len(partner.requests) - self.amid < partner.workers, f"{step.amid}, and yet it went on")
        if step.late_lands:
            partner.land_late_requests()
        partner.edit(users(*step.edited))
        if step.deleted:
            partner.delete()
            self.tally.deleted += 1

    def settle(self, wanted: set[str]) -> None:
        """Play two quiet windows: the first makes all exact and certain, the second has nothing to do but to reconcile.

        Before them a target that somebody deleted is found out, by what is to be sent or by reconciliation.
        """
        for _ in range(_UNTIL_FOUND if self.partner.missing else 0):
            self.pass_by(17)
            with suppress(DeliveryStopped):
                self._calm_window(wanted)
        require(
            not (self.partner.missing and self.promises.story.reconciles), "reconciled, and still there is no target"
        )
        for quiet in range(2):
            self.pass_by(17)
            receipt = self._quiet_window(wanted)
            require(receipt.in_doubt == 0, "a quiet window, and still in doubt")
            require(not quiet or receipt.planned == receipt.reconciled, "two quiet windows, and still something to do")

    def pass_by(self, minutes: int) -> None:
        """Let a while go by; requests that may land until then do."""
        self.later.enter_context(clock.shifted(timedelta(minutes=minutes)))
        self.partner.land_late_requests(sent_before=clock.now() - ALMOST)

    def _do(self, step: Step) -> None:
        world = self.world
        if step.what == "pause":
            pauses.pause(world.ledger, SYNC, who="somebody", why="to see")
        elif step.what == "resume":
            pauses.resume(world.ledger, SYNC)
        elif step.what == "approve":
            self._release(step)
        elif step.what == "window" or not self.sealed:
            self._deliver(self._seal(users(*step.audience)), step)
        elif step.what in {"restore", "restore and pause"}:
            self._restore(self._older(step).window, step)
        else:
            self._deliver(self.sealed[-1] if step.what == "again" else self._older(step), step)

    def _seal(self, ids: set[str]) -> Sealed:
        self.world.next_window()
        payload, seq = self.world.seal(ids)
        self.sealed.append(Sealed(payload, seq, self.world.window.key, ids))
        return self.sealed[-1]

    def _deliver(self, sealed: Sealed, step: Step) -> Receipt:
        paused = pauses.paused(self.world.ledger, SYNC) is not None
        before = len(self.partner.requests)
        with self._delivering(sealed.payload.checksum, sealed.ids):
            try:
                receipt = self.world.deliver(
                    sealed.payload,
                    sealed.seq,
                    fate=Fate(dies_at=step.dies_at),
                    gates=_gates(step),
                    terms=self.promises.terms,
                    deadline=clock.now() + (HURRY if step.amid == "out of time" else timedelta(hours=1)),
                )
            except BaseException:
                require(not paused or len(self.partner.requests) == before, "sent while it was paused")
                raise
        require(not paused, "delivered while it was paused")
        sealed.delivered = True
        self.tally.green += 1
        self.promises.overwritten(receipt, sealed.ids, sealed.seq, gated=step.gated)
        return receipt

    def _restore(self, window: str, step: Step) -> None:
        wanted = next(each for each in self.sealed if each.window == window)
        with self._delivering(wanted.payload.checksum if wanted.delivered else "", wanted.ids):
            try:
                receipt = self.world.restore(
                    window,
                    fate=Fate(dies_at=step.dies_at),
                    gates=_gates(step),
                    terms=self.promises.terms,
                    pause=step.what == "restore and pause",
                    patience=HURRY if step.amid == "out of time" else timedelta(hours=1),
                )
            except SyncPaused:
                require(bool(self.amid), "a pause refused a restore")
                raise
        self.tally.green += 1
        self.tally.restores += 1
        put_back = next(each.ids for each in self.sealed if each.payload.checksum == receipt.payload_checksum)
        require(not wanted.delivered or put_back == wanted.ids, "put back another window's audience")
        self.promises.restored(receipt, put_back, self.sealed[-1].seq, gated=step.gated)

    def _release(self, step: Step) -> None:
        """Let pass what is held, else a new window if the gates hold it, and deliver it."""
        gated = replace(step, gated=True)
        if approvals.held(self.world.ledger, SYNC) is None:
            try:
                self._deliver(self._seal(users(*step.audience)), gated)
            except DeliveryHeld:
                self.tally.held += 1
            else:
                return
        held = approvals.held(self.world.ledger, SYNC)
        assert held is not None
        approvals.approve(self.world.ledger, SYNC, who="somebody", why="it is meant")
        self.tally.approved += 1
        self.promises.approved.add(held.payload_checksum)
        if held.restored_from:
            self._restore(held.restored_from, gated)
        else:
            self._deliver(next(each for each in self.sealed if each.window == held.window), gated)

    @contextmanager
    def _delivering(self, checksum: str, ids: set[str]) -> Iterator[None]:
        self.tally.deliveries += 1
        self.partner.turned_down.clear()
        promises, before = self.promises, self.promises.ours
        promises.ours = before | ids
        try:
            yield
        except NOTHING_BEGUN as error:
            promises.ours = before
            held = isinstance(error, DeliveryHeld)
            require(not held or checksum not in promises.approved, "held, although it was approved")
            raise

    def _befalling(self, step: Step, before: int) -> Callable[[int], None] | None:
        def tell(number: int) -> None:
            if number == before + step.amid_request:
                self.partner.on_request = None
                self.amid = len(self.partner.requests) if self._happens(step.amid) else 0

        return tell if step.amid else None

    def _happens(self, amid: Amid | None) -> bool:
        """Let it happen, and say whether the delivery under way has to end of it."""
        if amid == "overtaken":
            self.later.enter_context(clock.shifted(SLEEP))
            return self._overtakes()
        if amid == "paused":
            pauses.pause(self.world.ledger, SYNC, who="somebody", why="at once")
        else:
            self.later.enter_context(clock.shifted(HURRY))
        return True

    def _overtakes(self) -> bool:
        """Let another process deliver the opposite audience while a request of this one is to land; say if it could."""
        partner, opposite = self.partner, users(*EVERYBODY) - self.sealed[-1].ids
        under_way = (clock.now(), partner.requests[-1])
        mine, turned_down = (partner.fate, partner.faults, partner.always), dict(partner.turned_down)
        partner.faults, partner.always = {}, None
        partner.late.append(under_way)
        try:
            self._deliver(self._seal(opposite), Step())
            self.tally.overtaken += 1
        except SyncPaused:  # nobody has taken over
            partner.late.remove(under_way)
            partner.turned_down = turned_down
            return False
        except Violation as violation:  # here it would be taken for the partner's
            self.found = violation
        finally:
            partner.fate, partner.faults, partner.always = mine
        return True

    def _calm_window(self, wanted: set[str]) -> Receipt:
        pauses.resume(self.world.ledger, SYNC)
        self.partner.faults, self.partner.always, self.partner.on_request = {}, None, None
        return self._deliver(self._seal(wanted), Step())

    def _quiet_window(self, wanted: set[str]) -> Receipt:
        try:
            return self._calm_window(wanted)
        except DeliveryError as error:
            failed = f"a quiet window failed: {type(error).__name__}"
            raise Violation(failed) from error

    def _older(self, step: Step) -> Sealed:
        return self.sealed[-min(step.back, len(self.sealed))]


def play(story: Story, tally: Tally, bench: Bench) -> None:
    """Play a story, then two quiet windows.

    Raises:
        Violation: something that is promised did not hold.
    """
    tally.sequences += 1
    with ExitStack() as later:
        later.enter_context(clock.shifted(BEGINS - clock.now()))
        partner = Receiver(judges_rows=story.judges_rows)
        partner.edit(users(*story.there))
        world = bench.world(partner)
        playing = Play(world, partner, Promises(world.history, partner, story), tally, later)
        for step in story.steps:
            playing.step(step)
            playing.pass_by(step.minutes)
        playing.settle(users(*story.steps[-1].audience))
        tally.strangers += len(partner.strangers)


def _gates(step: Step) -> Gates:
    return Gates() if step.gated else ANY_SIZE

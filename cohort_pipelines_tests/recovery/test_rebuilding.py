import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from sqlalchemy import select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    DeliveryHeld,
    DeliveryStopped,
    DeliverySuperseded,
    HistoryFileMissing,
    HistoryUnpaired,
    IdsForgotten,
    InitialMembersUnusable,
    LedgerUnpaired,
    TargetBusy,
)
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery import Gates, overwrite, receipt, retire
from cohort_pipelines.destinations.csv_file import CsvFile
from cohort_pipelines.destinations.wire import Audience, Permit, Publication
from cohort_pipelines.history import History
from cohort_pipelines.ledger import pauses, schema, targets
from cohort_pipelines.ledger.approvals import approve
from cohort_pipelines.ledger.lease import GIVEN_BACK
from cohort_pipelines.ledger.ledger import Ledger, Target
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines.recovery import pairing
from cohort_pipelines.recovery.rebuilding import Rebuilt, rebuild
from cohort_pipelines.reporting import listing
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, MemoryPartner, World, late, users

pytestmark = pytest.mark.slow

LEASE_IS_OVER, DAY = timedelta(minutes=2), timedelta(days=1)


def lose(world: World) -> None:
    """Delete the ledger, as if it had never been."""
    with world.ledger.write() as connection:
        schema.metadata.drop_all(connection)
    world.ledger = Ledger(world.url)


def copy_of(world: World) -> Callable[[], None]:
    """Take a copy of a SQLite ledger; return what puts it back."""
    source, copy = Path(world.ledger.where), world.folder / "copy.sqlite"
    with world.ledger.write() as connection:
        connection.exec_driver_sql("SELECT 1")
        shutil.copy(source, copy)
        shutil.copy(f"{source}-wal", f"{copy}-wal")

    def put_back() -> None:
        for path in source.parent.glob(f"{source.name}*"):
            path.unlink()
        shutil.copy(copy, source)
        shutil.copy(f"{copy}-wal", f"{source}-wal")
        world.ledger = Ledger(world.url)

    return put_back


class DiesAfterPublishing:
    """Files whose writer dies as soon as one is there."""

    atomic = True
    assumed_per_second = 1_000.0
    findable = False

    def __init__(self, files: CsvFile) -> None:
        self.wire, self.host, self.account, self.cohort = files.wire, files.host, files.account, files.cohort
        self.fate = Fate()
        self._files = files

    def count_requests(self, rows: int) -> int:
        return self._files.count_requests(rows)

    def publish(self, target: str, audience: Audience, permit: Permit) -> Publication:
        self._files.publish(target, audience, permit)
        self.fate.dead = True
        raise Killed

    def find(self, target: str, permit: Permit) -> int:
        return self._files.find(target, permit)

    def holds(self, target: str, checksum: str) -> bool:
        return self._files.holds(target, checksum)


def lifetime(world: World) -> None:
    """Several windows, with members that come, go and are lost on the way."""
    for ids in (users(*range(10)), users(*range(5, 15)), users(*range(3, 12))):
        world.overwrite(ids)
        world.next_window()


def owners(world: World) -> dict[Target, str]:
    return {each.target: each.owner for each in targets.all_targets(world.ledger)}


def rejected_then_rebuilt(world: World) -> Rebuilt:
    sent = len(world.partner.requests)
    with pytest.raises(LedgerUnpaired, match="ledger rebuild"):
        world.overwrite(users(1))
    assert len(world.partner.requests) == sent
    return rebuild(world.ledger, world.history)


def assert_exact(world: World) -> None:
    """Two more windows end exact, the second without anything that is uncertain."""
    for ids in (users(4, 5, 6, 99), users(5, 6, 100)):
        world.next_window()
        with clock.shifted(timedelta(minutes=20)):
            assert world.overwrite(ids).in_doubt == 0
        assert world.partner.members == ids


def test_a_lost_ledger_is_refused_and_rebuilt_to_an_exact_delivery(world: World) -> None:
    lifetime(world)
    lose(world)
    rebuilt = rejected_then_rebuilt(world)
    assert (rebuilt.targets, rebuilt.receipts, rebuilt.left_out, rebuilt.ids) == (1, 3, 0, 15)
    assert_exact(world)


def test_what_the_ledger_knew_of_its_past_is_there_again(world: World) -> None:
    lifetime(world)
    before, owned = world.ledger.newest_delivered(SYNC), owners(world)
    noted = [(each.key, each.state) for each in world.ledger.windows(SYNC)]
    table = schema.attempt
    past = select(*(table.c[name] for name in ("generation", "seq", "state", "kind", "window", "users", "run_id")))
    with world.ledger.read() as connection:
        attempts = connection.execute(past).all()
    lose(world)
    rebuild(world.ledger, world.history)

    newest = world.ledger.newest_delivered(SYNC)
    assert newest is not None
    assert before is not None
    assert (newest.seq, newest.window, newest.taken_at, newest.users) == (
        before.seq, before.window, before.taken_at, before.users,
    )  # fmt: skip
    assert owners(world) == owned
    assert [(each.key, each.state) for each in world.ledger.windows(SYNC)] == noted
    with world.ledger.read() as connection:
        assert connection.execute(past).all() == attempts
    assert world.ledger.payload(newest.seq).rows == newest.users


def test_an_older_copy_is_refused_and_rebuilt_to_an_exact_delivery(tmp_path: Path) -> None:
    world = World(tmp_path)
    lifetime(world)
    put_back = copy_of(world)
    world.overwrite(users(*range(20, 30)))
    world.next_window()
    world.overwrite(users(*range(25, 35)))
    world.next_window()
    put_back()
    rebuilt = rejected_then_rebuilt(world)
    assert rebuilt.receipts == 2
    assert_exact(world)


def test_an_older_copy_cannot_catch_up_by_going_on_with_another_target(tmp_path: Path) -> None:
    world = World(tmp_path)
    other = MemoryPartner(account="other")
    payload, seq = world.seal(users(1))
    world.deliver(payload, seq, sync="other", partner=other)
    put_back = copy_of(world)
    world.overwrite(users(1, 2))
    put_back()
    for _ in range(3):
        with pytest.raises(LedgerUnpaired, match="older than what was last sent to 'Beta'"):
            world.deliver(payload, seq, sync="other", partner=other)


def test_of_two_ledgers_only_the_one_that_was_rebuilt_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    lifetime(world)
    first = world.ledger
    world.ledger = Ledger(f"sqlite:///{tmp_path}/second.sqlite")
    rejected_then_rebuilt(world)
    assert_exact(world)
    world.ledger = first
    with pytest.raises(LedgerUnpaired, match="another ledger's"):
        world.overwrite(users(1))


@pytest.mark.parametrize("requests", [1, 2, 3])
def test_a_ledger_lost_in_a_crash_is_rebuilt_to_an_exact_delivery(world: World, requests: int) -> None:
    world.overwrite(users(*range(6)))
    world.next_window()
    fate = Fate()
    before = len(world.partner.requests)
    world.partner.on_request = lambda number: setattr(fate, "dead", True) if number == before + requests else None
    with pytest.raises(Killed):
        world.overwrite(users(*range(4, 20)), fate=fate)
    world.partner.on_request = None
    lose(world)
    rebuilt = rebuild(world.ledger, world.history)
    assert rebuilt.ids == 20  # those of the plan that died, too
    world.partner.land_late_requests()
    assert_exact(world)


def test_a_target_whose_first_attempt_died_is_known_by_its_mark(world: World) -> None:
    fate = Fate()
    world.partner.on_request = lambda number: setattr(fate, "dead", True) if number == 2 else None
    with pytest.raises(Killed):
        world.overwrite(users(*range(9)), fate=fate)
    world.partner.on_request = None
    assert world.history.windows(SYNC, Stage.RECEIPT) == []
    lose(world)
    rebuilt = rejected_then_rebuilt(world)
    assert (rebuilt.targets, rebuilt.receipts, rebuilt.ids, rebuilt.unmeasured) == (1, 0, 9, 1)
    world.partner.land_late_requests()
    assert_exact(world)


def test_a_request_that_lands_late_is_made_up_for_after_a_rebuild(world: World) -> None:
    world.partner.faults[2] = late
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(*range(6)))
    lose(world)
    rebuild(world.ledger, world.history)
    world.next_window()
    assert world.overwrite(users(1)).in_doubt > 0  # it may still land
    world.partner.land_late_requests()
    assert_exact(world)


def test_a_membership_that_is_gone_is_made_again_of_the_rest(world: World) -> None:
    lifetime(world)
    for path in (world.folder / "history").glob("sync=*/stage=membership/*/*.parquet"):
        path.unlink()
    with pytest.raises(HistoryFileMissing):
        world.overwrite(users(1))
    assert rebuild(world.ledger, world.history).ids == 15
    assert_exact(world)


def test_without_a_history_a_ledger_is_not_rebuilt_unless_what_it_named_is_to_be_forgotten(world: World) -> None:
    lifetime(world)
    assert (world.folder / "history").rename(world.folder / "lost").exists()
    with pytest.raises(HistoryUnpaired, match="ledger rebuild --forget"):
        pairing.require_paired(world.ledger, world.history)
    with pytest.raises(
        IdsForgotten, match=r"'Beta' may hold 9 ids, .* names 0; who is not among these would stay"
    ) as refused:
        rebuild(world.ledger, world.history)
    assert str(world.folder / "history") in str(refused.value)
    assert world.history.syncs() == []
    with pytest.raises(HistoryUnpaired):  # as before
        pairing.require_paired(world.ledger, world.history)

    rebuilt = rebuild(world.ledger, world.history, forget=True)
    assert (rebuilt.targets, rebuilt.ids, rebuilt.forgotten) == (1, 0, 9)
    world.next_window()
    world.overwrite(users(1, 2, 3))
    assert world.partner.members == users(1, 2, *range(3, 12))  # which is why it is not done unasked


def test_a_membership_without_which_ids_are_missing_is_needed_to_rebuild(world: World) -> None:
    lifetime(world)
    root = world.folder / "history"
    newest = max(root.glob("sync=*/stage=membership/*/*.parquet"), key=lambda path: path.stat().st_mtime_ns)
    kept = newest.read_bytes()
    for pattern in ("plan", "partner_payload", "membership"):
        for path in root.glob(f"sync=*/stage={pattern}/*/*.parquet"):
            path.unlink()
    for forget_ledger in (False, True):  # of a lost one the receipts tell as much
        if forget_ledger:
            lose(world)
        for content in (None, b"?"):
            newest.unlink(missing_ok=True)
            if content:
                newest.write_bytes(content)
            with pytest.raises(IdsForgotten, match=r"'Beta' may hold 9 ids, .* names 0; "):
                rebuild(world.ledger, world.history)
    newest.write_bytes(kept)
    rebuilt = rebuild(world.ledger, world.history)
    assert (rebuilt.ids, rebuilt.forgotten, rebuilt.left_out) == (15, 0, 0)
    assert_exact(world)


def test_an_older_history_is_not_taken_for_one_that_names_whom_the_target_holds(world: World) -> None:
    world.overwrite(users(*range(50)))
    world.next_window()
    shutil.copytree(world.history.root, world.folder / "backup")
    world.overwrite(users(*range(50, 60)))  # fewer than the backup names, and other ones
    shutil.rmtree(world.history.root)
    (world.folder / "backup").rename(world.history.root)
    world.next_window()
    with pytest.raises(HistoryFileMissing):
        world.overwrite(users(1))
    with pytest.raises(IdsForgotten, match=r"'Beta' may hold 10 ids, .* names 50; "):
        rebuild(world.ledger, world.history)
    assert rebuild(world.ledger, world.history, forget=True).forgotten == 10


def test_a_receipt_whose_writer_died_before_the_ledger_had_it_is_no_news(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lifetime(world)

    def write_and_die(*arguments: object, **named: object) -> None:
        receipt.write_receipt(*arguments, **named)  # type: ignore[arg-type]
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(overwrite, "write_receipt", write_and_die)
        with pytest.raises(Killed):
            world.overwrite(users(1), run_id="dies")
    world.next_window()
    with clock.shifted(LEASE_IS_OVER):
        world.overwrite(users(1, 2))
    targets.hand_over(world.ledger, Target("memory", "localhost", "", "Beta"), "heir", declared=[])
    with world.ledger.read() as connection:
        attempts = connection.execute(select(schema.attempt)).all()

    rebuilt = rebuild(world.ledger, world.history)

    assert rebuilt.receipts == 0
    assert set(owners(world).values()) == {"heir"}  # as the ledger knows, which is older than nothing
    with world.ledger.read() as connection:
        assert connection.execute(select(schema.attempt)).all() == attempts


def test_damaged_files_are_left_out_and_counted(world: World) -> None:
    lifetime(world)
    root = world.folder / "history"
    for stage, content in (("membership", b"?"), ("partner_payload", b""), ("receipt", b"PAR1")):
        next(iter(sorted(root.glob(f"sync=*/stage={stage}/*/*.parquet")))).write_bytes(content)
    next(path for path in (root / ".ledger").iterdir() if path.name != "id.json").write_bytes(b"{")
    with pytest.raises(LedgerUnpaired, match="damaged"):
        world.overwrite(users(1))
    lose(world)
    rebuilt = rebuild(world.ledger, world.history)
    assert (rebuilt.left_out, rebuilt.receipts, rebuilt.ids) == (4, 2, 15)
    assert_exact(world)


def test_a_snapshot_that_was_sealed_without_a_memory_is_newer_than_all_before(world: World) -> None:
    lifetime(world)
    lose(world)
    window = world.next_window()
    payload, seq = world.seal(users(7, 8))
    assert seq == 1
    rebuild(world.ledger, world.history)
    sealed = world.ledger.snapshot(SYNC, window.key)
    assert sealed.seq > 3
    world.deliver(payload, sealed.seq)
    assert world.partner.members == users(7, 8)
    assert_exact(world)


def test_rebuilding_twice_or_a_ledger_that_is_right_harms_nothing(world: World) -> None:
    lifetime(world)
    for _ in range(2):
        assert rebuild(world.ledger, world.history).receipts == 0
    assert_exact(world)
    assert [each.state for each in world.ledger.windows(SYNC)].count("delivered") == 5


def test_while_a_delivery_is_under_way_nothing_is_rebuilt(world: World) -> None:
    lifetime(world)
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=Fate(dies_at=12))
    with pytest.raises(TargetBusy):
        rebuild(world.ledger, world.history)
    with clock.shifted(LEASE_IS_OVER):
        rebuild(world.ledger, world.history)
        assert_exact(world)


@pytest.mark.parametrize("written", [0, 1])
def test_a_rebuild_that_dies_can_be_run_again(world: World, monkeypatch: pytest.MonkeyPatch, written: int) -> None:
    lifetime(world)
    lose(world)
    write_mark, left = History.write_mark, iter(range(written))

    def dies(self: History, name: str, content: bytes) -> None:
        if next(left, None) is None:
            raise Killed
        write_mark(self, name, content)

    with monkeypatch.context() as patched:
        patched.setattr(History, "write_mark", dies)
        with pytest.raises(Killed):
            rebuild(world.ledger, world.history)
    rejected_then_rebuilt(world)
    assert_exact(world)


def test_tokens_and_generations_go_on_above_what_was(world: World) -> None:
    lifetime(world)
    lose(world)
    rebuild(world.ledger, world.history)
    with world.ledger.read() as connection:
        target = connection.execute(select(schema.target)).one()
        token = connection.execute(select(schema.lease.c.token)).scalar_one()
    assert owners(world) == {Target("memory", "localhost", "", "Beta"): SYNC}
    assert target.generation > 3
    assert token > 3
    assert target.initial_members == "unknown"  # and so is never adopted again


def test_a_target_known_by_its_mark_alone_can_be_retired(world: World) -> None:
    fate = Fate()
    world.partner.on_request = lambda number: setattr(fate, "dead", True) if number == 2 else None
    with pytest.raises(Killed):
        world.overwrite(users(*range(9)), fate=fate)
    world.partner.on_request = None
    world.partner.fate = Fate()
    lose(world)
    _, newest = world.seal(users(1))  # sealed without a memory
    rebuild(world.ledger, world.history)
    rebuild(world.ledger, world.history)  # what stands for the unknown attempt is not made twice, nor moved
    assert world.ledger.snapshot(SYNC, world.window.key).seq == newest
    [orphan] = targets.all_targets(world.ledger)
    assert orphan.written
    with clock.shifted(timedelta(minutes=20)):  # whoever was sent last cannot be put back any more
        retired = retire(
            ledger=world.ledger, history=world.history, partner=world.partner, target=orphan.target, sync=SYNC,
            window=world.next_window(), run_id="retire", deadline=clock.now() + timedelta(hours=1),
        )  # fmt: skip
    assert retired.state == "delivered"
    assert world.partner.members == set()


def test_after_a_rebuild_gates_compare_with_the_newest_delivery(world: World) -> None:
    strict = Gates(max_shrink=0.2, max_growth=0.2, max_churn=0.4)
    for first in range(0, 24, 3):  # the audience moves on; the history names far more ids than it ever had
        world.overwrite(users(*range(first, first + 10)))
        world.next_window()
    lose(world)
    assert rebuild(world.ledger, world.history).unmeasured == 0
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.overwrite(users(21, 22), gates=strict)
    world.next_window()
    delivered = world.overwrite(users(*range(22, 32)), gates=strict)
    assert (delivered.joiners, delivered.leavers, delivered.planned) == (1, 1, 32)
    assert world.partner.members == users(*range(22, 32))
    assert_exact(world)


def test_after_a_rebuild_an_approval_is_known_and_spent(world: World) -> None:
    strict, few = Gates(max_shrink=0.2), users(0, 1)
    world.overwrite(users(*range(10)))
    world.next_window()
    approve(world.ledger, SYNC, who="kim at home", why="all left\nat 9:00", min_users=2, until=clock.now() + DAY)
    world.overwrite(few, gates=strict)
    before = listing.entries(world.ledger, SYNC)
    lose(world)
    rebuild(world.ledger, world.history)

    after = listing.entries(world.ledger, SYNC)
    assert after[0].approved is not None
    assert before[0].approved is not None
    assert (after[0].approved["who"], after[0].approved["why"]) == ("kim at home", "all left\nat 9:00")
    assert after[0].approved["at"][:16] == before[0].approved["at"][:16]
    assert [each.approved for each in after[1:]] == [None]
    world.next_window()
    assert world.overwrite(few | users(2), gates=strict).approved is None  # measured since it was approved
    world.next_window()
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.overwrite(users(0, 1), gates=strict)


@pytest.mark.parametrize("by_name", ["restore", "retirement"])
def test_after_a_rebuild_what_was_asked_for_by_name_stands_above_what_it_superseded(world: World, by_name: str) -> None:
    world.overwrite(users(1, 2, 3))
    first = world.window.key
    world.next_window()
    older, seq = world.seal(users(7, 8, 9))
    if by_name == "restore":
        world.restore(first)
    else:
        world.retire()
    with pytest.raises(DeliverySuperseded):
        world.deliver(older, seq)
    left = set(world.partner.members)
    lose(world)
    rebuild(world.ledger, world.history)

    assert (targets.all_targets(world.ledger)[0].retired is not None) == (by_name == "retirement")
    with pytest.raises(DeliverySuperseded):
        world.deliver(older, world.ledger.snapshot(SYNC, world.window.key).seq)
    assert world.partner.members == left


def test_what_was_tried_after_the_newest_delivery_counts_as_held(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    world.partner.faults[len(world.partner.requests) + 2] = late
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(*range(5, 20)))
    lose(world)
    assert rebuild(world.ledger, world.history).ids == 20
    assert targets.all_targets(world.ledger)[0].held == 20
    world.partner.land_late_requests()
    assert_exact(world)


def test_a_file_of_initial_members_that_was_never_adopted_still_is_after_a_rebuild(world: World) -> None:
    world.partner.members = users(1, 777)
    with pytest.raises(InitialMembersUnusable):
        world.overwrite(users(1, 2), terms=Terms(initial_members=str(world.folder / "typo.csv")))
    for forget in (False, True):  # the stopped attempt has a receipt
        if forget:
            lose(world)
        rebuild(world.ledger, world.history)
        [target] = targets.all_targets(world.ledger)
        assert (target.initial_members, target.written, target.held) == (None, False, 0)
    world.next_window()
    initial_members = world.folder / "initial_members.csv"
    initial_members.write_text("id\nuser-0001\nuser-0777\n")
    assert world.overwrite(users(1, 2), terms=Terms(initial_members=str(initial_members))).initial_members == "adopted"
    assert world.partner.members == users(1, 2)


def test_the_files_of_every_sync_that_ever_wrote_a_target_are_read(world: World) -> None:
    for sync in (SYNC, "second", "third"):
        fate = Fate()
        before = len(world.partner.requests)
        world.partner.on_request = lambda number, last=before + 2, fate=fate: setattr(fate, "dead", number >= last)
        table = pa.table({"partner_user_id": pa.array([f"{sync}-{number}" for number in range(9)])})
        payload = world.history.write(sync, Stage.PARTNER_PAYLOAD, world.window.key, table)
        seq = world.ledger.record_snapshot(sync, world.window.key, payload, clock.now(), 9, 9, project=1, cohort_id=2)
        with pytest.raises(Killed):
            world.deliver(payload, seq, sync=sync, fate=fate)
        with world.ledger.write() as connection:
            connection.execute(update(schema.lease).values(expires=GIVEN_BACK))
        targets.hand_over(world.ledger, targets.all_targets(world.ledger)[0].target, "heir", declared=[])
        with world.ledger.write() as connection:
            connection.execute(update(schema.target).values(owner={SYNC: "second"}.get(sync, "third")))
    world.partner.on_request = None
    for _ in range(2):
        lose(world)
        assert rebuild(world.ledger, world.history).ids == 27
    world.partner.land_late_requests()
    payload, seq = world.seal(users(1))
    world.deliver(payload, seq, sync="third")
    assert world.partner.members == users(1)


def test_generations_go_on_above_attempts_that_left_no_receipt(world: World) -> None:
    for _ in range(3):
        fate, before = Fate(), len(world.partner.requests)
        world.partner.on_request = lambda number, last=before + 1, fate=fate: setattr(fate, "dead", number >= last)
        with pytest.raises(Killed):
            world.overwrite(users(1, 2), fate=fate)
        with world.ledger.write() as connection:
            connection.execute(update(schema.lease).values(expires=GIVEN_BACK))
        world.next_window()
    world.partner.on_request = None
    assert world.history.windows(SYNC, Stage.RECEIPT) == []
    for least in (3, 4):  # one of which nobody sent anything since, too
        lose(world)
        rebuild(world.ledger, world.history)
        with world.ledger.read() as connection:
            assert connection.execute(select(schema.target.c.generation)).scalar_one() > least
    assert world.overwrite(users(3)).generation > 5


def test_a_file_that_was_published_by_who_died_is_older_than_the_next(world: World) -> None:
    files = CsvFile(partner="Apptimize", folder=world.folder / "files")
    for number in range(3):
        dying = DiesAfterPublishing(files)
        payload, seq = world.seal(users(number))
        with clock.shifted(number * LEASE_IS_OVER), pytest.raises(Killed):
            world.deliver(payload, seq, partner=dying, fate=dying.fate)
        world.next_window()
    lose(world)
    rebuild(world.ledger, world.history)
    payload, seq = world.seal(users(50, 51))
    assert world.deliver(payload, seq, partner=files).state == "delivered"


def test_the_cohort_behind_a_payload_is_known_again(world: World) -> None:
    lifetime(world)
    lose(world)
    rebuild(world.ledger, world.history)
    with world.ledger.read() as connection:
        known = connection.execute(select(schema.snapshot.c.project, schema.snapshot.c.cohort_id).distinct()).all()
    assert known == [(1, 2)]


def test_a_copy_from_before_a_pause_is_refused(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.overwrite(users(1))
    put_back = copy_of(world)
    pauses.pause(world.ledger, SYNC, who="mia", why="an experiment is being read")
    pairing.refuse_older_copies(world.ledger, world.history)
    pairing.require_paired(world.ledger, world.history)
    put_back()
    world.next_window()
    rejected_then_rebuilt(world)
    assert_exact(world)

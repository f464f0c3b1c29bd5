import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from cohort_pipelines import clock
from cohort_pipelines.delivery import Ledger, Target, schema
from cohort_pipelines.delivery.rebuilding import Rebuilt, rebuild
from cohort_pipelines.errors import DeliveryStopped, HistoryFileMissing, LedgerUnpaired, TargetBusy
from cohort_pipelines.history import History, Stage
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, MemoryPartner, World, late, users

LEASE_IS_OVER = timedelta(minutes=2)


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


def lifetime(world: World) -> None:
    """Several windows, with members that come, go and are lost on the way."""
    for ids in (users(*range(10)), users(*range(5, 15)), users(*range(3, 12))):
        world.overwrite(ids)
        world.next_window()


def refused_then_rebuilt(world: World) -> Rebuilt:
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
            assert world.overwrite(ids).unsettled == 0
        assert world.partner.members == ids


def test_a_lost_ledger_is_refused_and_rebuilt_to_an_exact_delivery(world: World) -> None:
    lifetime(world)
    lose(world)
    rebuilt = refused_then_rebuilt(world)
    assert (rebuilt.targets, rebuilt.receipts, rebuilt.left_out, rebuilt.ids) == (1, 3, 0, 15)
    assert_exact(world)


def test_what_the_ledger_knew_of_its_past_is_there_again(world: World) -> None:
    lifetime(world)
    before = (world.ledger.newest_delivered(SYNC), world.ledger.target_of(SYNC))
    noted = [(each.key, each.state) for each in world.ledger.windows(SYNC)]
    table = schema.attempt
    past = select(*(table.c[name] for name in ("generation", "seq", "state", "kind", "window", "users", "run_id")))
    with world.ledger.read() as connection:
        attempts = connection.execute(past).all()
    lose(world)
    rebuild(world.ledger, world.history)

    newest = world.ledger.newest_delivered(SYNC)
    assert newest is not None
    assert before[0] is not None
    assert (newest.seq, newest.window, newest.taken_at, newest.users) == (
        before[0].seq, before[0].window, before[0].taken_at, before[0].users,
    )  # fmt: skip
    assert world.ledger.target_of(SYNC) == before[1]
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
    rebuilt = refused_then_rebuilt(world)
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
    refused_then_rebuilt(world)
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
    rebuilt = refused_then_rebuilt(world)
    assert (rebuilt.targets, rebuilt.receipts, rebuilt.ids) == (1, 0, 9)
    world.partner.land_late_requests()
    assert_exact(world)


def test_a_request_that_lands_late_is_made_up_for_after_a_rebuild(world: World) -> None:
    world.partner.faults[2] = late
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(*range(6)))
    lose(world)
    rebuild(world.ledger, world.history)
    world.next_window()
    assert world.overwrite(users(1)).unsettled > 0  # it may still land
    world.partner.land_late_requests()
    assert_exact(world)


def test_a_belief_that_is_gone_is_made_again_of_the_rest(world: World) -> None:
    lifetime(world)
    for path in (world.folder / "history").glob("sync=*/stage=belief/*/*.parquet"):
        path.unlink()
    with pytest.raises(HistoryFileMissing):
        world.overwrite(users(1))
    assert rebuild(world.ledger, world.history).ids == 15
    assert_exact(world)


def test_damaged_files_are_left_out_and_counted(world: World) -> None:
    lifetime(world)
    root = world.folder / "history"
    for stage, content in (("belief", b"?"), ("partner_payload", b""), ("receipt", b"PAR1")):
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
    refused_then_rebuilt(world)
    assert_exact(world)


def test_tokens_and_generations_go_on_above_what_was(world: World) -> None:
    lifetime(world)
    lose(world)
    rebuild(world.ledger, world.history)
    with world.ledger.read() as connection:
        target = connection.execute(select(schema.target)).one()
        token = connection.execute(select(schema.lease.c.token)).scalar_one()
    assert Target(target.wire, target.host, target.account, target.name) == world.ledger.target_of(SYNC)
    assert target.generation > 3
    assert token > 3
    assert target.baseline == "unknown"  # and so is never adopted again

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import event, func, select, update

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryHeld, DeliveryStopped, NotSealedYet
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.delivery import Gates
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.ledger import Ledger, SealedSnapshot
from cohort_pipelines.ledger.schema import WindowState
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, World, lost, users

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def stored(stage: Stage, checksum: str = "c" * 64, window: str = "2026-11-22T1200Z") -> StoredFile:
    return StoredFile(SYNC, stage, window, checksum, rows=3, size=99)


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url)


def record(ledger: Ledger, checksum: str = "c" * 64, seq: int | None = None) -> int:
    file = stored(Stage.COHORT_SNAPSHOT, checksum)
    return ledger.record_snapshot(SYNC, file.window, file, NOON, 3, 3, project=1, cohort_id=2, seq=seq)


def test_the_newest_snapshot_of_a_window_is_found(ledger: Ledger) -> None:
    assert ledger.find_snapshot(SYNC, "2026-11-22T1200Z") is None
    with pytest.raises(NotSealedYet, match="cohort_snapshot"):
        ledger.snapshot(SYNC, "2026-11-22T1200Z")
    first, second = record(ledger, "a" * 64), record(ledger, "b" * 64)

    assert second > first
    assert ledger.snapshot(SYNC, "2026-11-22T1200Z") == SealedSnapshot(
        second, stored(Stage.COHORT_SNAPSHOT, "b" * 64), NOON, 3, 3, project=1, cohort_id=2, options={}
    )


def test_a_number_taken_early_keeps_its_place(ledger: Ledger) -> None:
    early = ledger.begin_snapshot()
    later = record(ledger, "a" * 64)
    assert record(ledger, "b" * 64, seq=early) == early
    assert early < later
    assert ledger.snapshot(SYNC, "2026-11-22T1200Z").seq == later


def test_the_newest_derived_file_counts(ledger: Ledger) -> None:
    seq = record(ledger)
    with pytest.raises(NotSealedYet, match="partner_payload"):
        ledger.payload(seq)
    ledger.record_identified(seq, stored(Stage.IDENTIFIED_USERS))
    for checksum in ("a" * 64, "b" * 64, "a" * 64):
        payload = stored(Stage.PARTNER_PAYLOAD, checksum)
        ledger.record_payload(seq, payload, stored(Stage.EXCLUDED), {"anonymous": 2})

    assert ledger.identified(seq) == stored(Stage.IDENTIFIED_USERS)
    assert ledger.payload(seq) == stored(Stage.PARTNER_PAYLOAD, "a" * 64)


def test_a_window_that_was_delivered_stays_so(ledger: Ledger) -> None:
    for state, reason in (("open", ""), ("failed", "no answer"), ("delivered", ""), ("skipped", "superseded")):
        ledger.note_window(SYNC, "2026-11-22T1200Z", state, reason)  # type: ignore[arg-type]
    assert [(each.key, each.state, each.reason) for each in ledger.windows(SYNC)] == [
        ("2026-11-22T1200Z", "delivered", "")
    ]


@pytest.mark.parametrize("state", ["failed", "held", "skipped", "missed"])
def test_a_second_look_at_a_tick_opens_no_window_again(ledger: Ledger, state: WindowState) -> None:
    ledger.note_window(SYNC, "2026-11-22T1200Z", "open")
    ledger.note_window(SYNC, "2026-11-22T1200Z", state, "why")
    ledger.note_window(SYNC, "2026-11-22T1200Z", "open")
    assert [(each.state, each.reason) for each in ledger.windows(SYNC)] == [(state, "why")]


def test_a_window_whose_run_never_ended_is_missed(ledger: Ledger) -> None:
    for key in ("2026-11-22T1130Z", "2026-11-22T1145Z", "2026-11-22T1200Z"):
        ledger.note_window(SYNC, key, "open")
    ledger.note_window("another", "2026-11-22T1130Z", "open")
    now = Cadence.QUARTER_HOUR.window_at(NOON)
    assert ledger.record_missed(SYNC, now) == ["2026-11-22T1130Z", "2026-11-22T1145Z"]
    assert ledger.record_missed(SYNC, now) == []
    assert [each.state for each in ledger.windows(SYNC)] == ["open", "missed", "missed"]
    assert "never began" in ledger.windows(SYNC)[-1].reason
    assert ledger.windows("another")[0].state == "open"


def test_a_window_that_is_still_delivered_is_not_missed(world: World) -> None:
    window = world.window
    world.ledger.note_window(SYNC, window.key, "open")
    missed: list[list[str]] = []
    world.partner.on_request = lambda _: missed.append(world.ledger.record_missed(SYNC, world.next_window()))
    world.overwrite(users(1))
    assert missed == [[]]


def test_names_of_one_time_exports_are_no_windows(ledger: Ledger) -> None:
    now = Cadence.QUARTER_HOUR.window_at(NOON)
    for key in ("2026-11-20T101500Z", "2026-11-22T1159Z", "2026 launch"):
        ledger.note_window(SYNC, key, "delivered")
    assert ledger.record_missed(SYNC, now) == []
    ledger.note_window(SYNC, "2026-11-22T1130Z", "delivered")
    assert ledger.record_missed(SYNC, now) == ["2026-11-22T1145Z"]


def test_a_year_of_missed_windows_is_one_write(ledger: Ledger) -> None:
    ledger.note_window(SYNC, "2025-11-22T1200Z", "delivered")
    statements: list[str] = []
    with ledger.write() as connection:
        event.listen(connection.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    missed = ledger.record_missed(SYNC, Cadence.QUARTER_HOUR.window_at(NOON))
    assert len(missed) == 365 * 96 - 1
    assert sum(each.startswith("INSERT") for each in statements) == 1


def test_missed_windows_are_written_down_once(ledger: Ledger) -> None:
    now = Cadence.QUARTER_HOUR.window_at(NOON)
    assert ledger.record_missed(SYNC, now) == []
    ledger.note_window(SYNC, "2026-11-22T1115Z", "delivered")
    missed = ["2026-11-22T1130Z", "2026-11-22T1145Z"]
    assert ledger.record_missed(SYNC, now) == missed
    assert ledger.record_missed(SYNC, now) == []
    assert [(each.key, each.state) for each in ledger.windows(SYNC, limit=2)] == [
        (key, "missed") for key in reversed(missed)
    ]


def test_a_change_of_cadence_misses_whole_windows_only(ledger: Ledger) -> None:
    ledger.note_window(SYNC, "2026-11-22T0715Z", "delivered")
    assert ledger.record_missed(SYNC, Cadence.TWO_HOURS.window_at(NOON)) == ["2026-11-22T0800Z", "2026-11-22T1000Z"]


def test_what_was_delivered_is_remembered(world: World) -> None:
    assert world.ledger.newest_delivered(SYNC) is None
    assert world.ledger.expected_seconds(SYNC) is None
    assert world.ledger.last_attempt(SYNC) == 0
    world.overwrite(users(1, 2))
    taken = clock.now()
    with clock.shifted(timedelta(minutes=15)):
        window = world.next_window()
        receipt = world.overwrite(users(1, 2, 3))
    newest = world.ledger.newest_delivered(SYNC)

    assert newest is not None
    assert (newest.window, newest.users, newest.seq) == (window.key, 3, receipt.snapshot_seq)
    assert newest.taken_at > taken
    assert [each.state for each in world.ledger.windows(SYNC)] == ["delivered", "delivered"]
    assert not world.ledger.is_delivering(SYNC)


def test_a_window_is_expected_to_take_its_snapshot_and_its_delivery(world: World) -> None:
    for seconds in (5.0, 600.0, None, 40.0):
        file = stored(Stage.COHORT_SNAPSHOT)
        world.ledger.record_snapshot(SYNC, file.window, file, NOON, 3, 3, project=1, cohort_id=2, seconds=seconds)
    assert world.ledger.expected_seconds(SYNC) is None  # who was never delivered may take any time
    receipt = world.overwrite(users(1, 2))
    assert world.ledger.expected_seconds(SYNC) == pytest.approx(40 + receipt.seconds, abs=5)


def yields(world: World) -> None:
    with pytest.raises(DeliveryDeferred):
        world.overwrite(users(3, 4), deadline=clock.now())


def stops(world: World) -> None:
    world.partner.always = lost
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(3, 4))
    world.partner.always = None


def dies(world: World) -> None:
    with pytest.raises(Killed):
        world.overwrite(users(3, 4), fate=Fate(dies_at=14))


@pytest.mark.parametrize("is_cut_short", [yields, stops, dies])
def test_nobody_knows_how_long_a_window_takes_after_one_that_was_cut_short(
    world: World, is_cut_short: Callable[[World], None]
) -> None:
    world.overwrite(users(1, 2))
    assert world.ledger.expected_seconds(SYNC) == pytest.approx(0, abs=5)
    world.next_window()

    is_cut_short(world)
    assert world.ledger.expected_seconds(SYNC) is None
    with clock.shifted(timedelta(minutes=2)):  # past the lease of who died
        with pytest.raises(DeliveryHeld):
            world.overwrite(set(), gates=Gates(min_users=1))
        assert world.ledger.expected_seconds(SYNC) is None  # what a gate held says nothing
        world.overwrite(users(3, 4))
        assert world.ledger.expected_seconds(SYNC) == pytest.approx(0, abs=5)


def test_a_sync_that_became_slow_is_expected_to_be_so_in_the_next_window(world: World) -> None:
    for number in range(5):
        world.overwrite(users(number))
        world.next_window()
    newest = select(func.max(schema.attempt.c.id)).scalar_subquery()
    with world.ledger.write() as connection:
        slow = {"started": NOON, "ended": NOON + timedelta(minutes=10)}
        connection.execute(update(schema.attempt).where(schema.attempt.c.id == newest).values(**slow))

    assert world.ledger.expected_seconds(SYNC) == 600
    world.overwrite(users(9))
    assert world.ledger.expected_seconds(SYNC) == pytest.approx(0, abs=5)


def test_no_user_id_is_in_the_ledger(world: World) -> None:
    world.overwrite({"needle-1", "needle-2"})
    world.next_window()
    world.overwrite({"needle-2"})
    with world.ledger.read() as connection:
        rows = [str(row) for table in schema.metadata.sorted_tables for row in connection.execute(select(table))]
    assert rows
    assert all("needle" not in row for row in rows)

from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
import pytest
from sqlalchemy import event

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryError, DeliveryHeld, DeliveryStopped, HistoryNotWritable
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery import Gates
from cohort_pipelines.history.writer import StageWriter
from cohort_pipelines.reporting.listing import LEFT_OPEN, UNDER_WAY, Entry, entries
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, World, users


def told(listed: list[Entry]) -> list[tuple[str, str]]:
    return [(each.window, each.state) for each in listed]


def derive(world: World, seq: int, payload: set[str], excluded: dict[str, int]) -> None:
    """Record what is worked out from a snapshot: the identified users, the payload and the excluded members."""
    files = {
        stage: world.history.write(SYNC, stage, world.window.key, pa.table({"id": pa.array(sorted(ids), pa.string())}))
        for stage, ids in {
            Stage.IDENTIFIED_USERS: payload | users(900),
            Stage.EXCLUDED: {f"exclude-{number}" for number in range(sum(excluded.values()))},
        }.items()
    }
    world.ledger.record_identified(seq, files[Stage.IDENTIFIED_USERS])
    table = pa.table({"partner_user_id": pa.array(sorted(payload), pa.string())})
    stored = world.history.write(SYNC, Stage.PARTNER_PAYLOAD, world.window.key, table)
    world.ledger.record_payload(seq, stored, files[Stage.EXCLUDED], excluded)


def test_an_overwrite_is_listed_with_all_its_numbers(world: World) -> None:
    payload, seq = world.seal(users(1, 2, 3, 4))
    derive(world, seq, users(1, 2, 3, 4), {"anonymous": 2, "no id": 1})

    receipt = world.deliver(payload, seq, run_id="run-1")

    [entry] = entries(world.ledger, SYNC)
    assert (entry.window, entry.kind, entry.state) == (world.window.key, "overwrite", receipt.state)
    assert (entry.target, entry.run, entry.reason) == ("Beta", "run-1", "")
    assert (entry.members, entry.identified, entry.users, entry.delivered) == (4, 5, 4, 4)
    assert (entry.joiners, entry.leavers, entry.planned, entry.acknowledged) == (4, 0, 4, 4)
    assert (entry.rejected, entry.in_doubt, entry.requests) == (0, 0, receipt.requests)
    assert (entry.excluded, entry.excluded_by_reason) == (3, {"anonymous": 2, "no id": 1})
    assert entry.taken_at is not None
    assert entry.seconds is not None
    assert entry.taken_at <= entry.at
    assert entry.seconds >= 0


@pytest.mark.parametrize("stage", [Stage.MEMBERSHIP, Stage.RECEIPT])
def test_a_delivery_whose_end_cannot_be_filed_says_why_as_long_as_the_ledger_can_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    written = world.history.writer

    def full(sync: str, of: Stage, window: str, schema: pa.Schema) -> AbstractContextManager[StageWriter]:
        if of is stage:
            raise HistoryNotWritable(str(world.folder), "No space left on device")
        return written(sync, of, window, schema)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(world.history, "writer", full)
        with pytest.raises(DeliveryStopped, match="All of it was acknowledged; the next run goes on"):
            world.overwrite(users(1, 2))

    [entry] = entries(world.ledger, SYNC)
    assert entry.reason.startswith("The delivery stopped after 2 of 2 changes: The history could not be written at /")
    [noted] = world.ledger.windows(SYNC)
    assert (noted.state, noted.reason) == ("failed", entry.reason)
    world.next_window()
    world.overwrite(users(1, 2))
    assert entries(world.ledger, SYNC)[-1].reason == entry.reason


def test_overwrites_and_windows_that_came_to_none_stand_in_one_list_the_newest_first(world: World) -> None:
    opened = world.window
    world.overwrite(users(1, 2))
    quarter = timedelta(minutes=15)
    with clock.shifted(quarter):
        world.ledger.note_window(SYNC, world.next_window().key, "skipped", "paused: holidays")
    skipped = world.window
    world.next_window()
    missed = world.window
    with clock.shifted(3 * quarter):
        current = world.next_window()
        world.ledger.record_missed(SYNC, current)
        world.overwrite(users(1, 3))

    listed = entries(world.ledger, SYNC)

    assert told(listed) == [
        (current.key, "delivered"),
        (missed.key, "missed"),
        (skipped.key, "skipped"),
        (opened.key, "delivered"),
    ]
    assert [each.reason for each in listed[1:3]] == ["no run was started in it", "paused: holidays"]
    assert told(entries(world.ledger, SYNC, limit=2)) == told(listed)[:2]
    assert entries(world.ledger, "another") == []


def test_windows_since_the_last_tick_are_listed_as_missed_before_anybody_has_noted_them(world: World) -> None:
    world.overwrite(users(1))
    delivered = world.window
    between = [world.next_window().key for _ in range(2)]
    current = world.next_window()

    listed = entries(world.ledger, SYNC, before=current)

    assert told(listed) == [*((key, "missed") for key in reversed(between)), (delivered.key, "delivered")]
    world.ledger.record_missed(SYNC, current)
    assert [replace(each, at=listed[0].at) for each in entries(world.ledger, SYNC, before=current)] == [
        replace(each, at=listed[0].at) for each in listed
    ]


def test_a_window_that_failed_before_its_delivery_shows_how_far_it_came(world: World) -> None:
    _, seq = world.seal(users(1, 2))
    derive(world, seq, users(1, 2), {"anonymous": 1})
    world.ledger.note_window(SYNC, world.window.key, "failed", "the disk is full")

    [entry] = entries(world.ledger, SYNC)

    assert (entry.state, entry.reason, entry.kind) == ("failed", "the disk is full", "")
    assert (entry.members, entry.excluded, entry.delivered, entry.run) == (2, 1, None, None)


def test_a_held_payload_is_listed_with_its_reason_and_not_as_delivered(world: World) -> None:
    with pytest.raises(DeliveryHeld):
        world.overwrite(users(1), gates=Gates(min_users=2))

    [entry] = entries(world.ledger, SYNC)

    assert (entry.state, entry.users, entry.delivered) == ("held", 1, None)
    assert "at least 2 are wanted" in entry.reason


def test_an_attempt_is_under_way_as_long_as_its_lease_lasts(world: World) -> None:
    fate = Fate(dies_at=12)
    with pytest.raises(Killed):
        world.overwrite(users(*range(20)), fate=fate)

    assert [each.reason for each in entries(world.ledger, SYNC)] == [UNDER_WAY]
    with clock.shifted(timedelta(minutes=10)):
        assert [each.reason for each in entries(world.ledger, SYNC)] == [LEFT_OPEN]


def test_excluded_members_are_those_of_the_payload_that_was_delivered(world: World) -> None:
    payload, seq = world.seal(users(1, 2))
    derive(world, seq, users(1, 2), {"anonymous": 1})
    world.deliver(payload, seq)
    derive(world, seq, users(1), {"anonymous": 1, "no id": 1})  # the rule changed later

    [entry] = entries(world.ledger, SYNC)

    assert entry.excluded_by_reason == {"anonymous": 1}


def test_the_number_of_questions_does_not_grow_with_the_list(world: World) -> None:
    def questions(limit: int) -> int:
        asked: list[str] = []
        engine = world.ledger._reader

        def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
            asked.append(statement)

        event.listen(engine, "before_cursor_execute", note)
        listed = entries(world.ledger, SYNC, limit)
        event.remove(engine, "before_cursor_execute", note)
        assert len(listed) == limit
        return len(asked)

    for number in range(6):
        with clock.shifted(timedelta(minutes=15 * number)):
            try:
                world.overwrite(users(number, number + 1))
            except DeliveryError as error:  # pragma: no cover
                pytest.fail(str(error))
            world.next_window()

    assert questions(6) == questions(1)

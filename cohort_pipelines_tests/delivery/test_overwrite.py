from datetime import timedelta

import pyarrow.parquet as pq
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import (
    DeliveryDeferred,
    DeliveryHeld,
    DeliveryStopped,
    DeliverySuperseded,
    HistoryFileDamaged,
    HistoryFileMissing,
    TargetOwnedByAnother,
)
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery import Gates
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.state import SETTLES_AFTER
from cohort_pipelines_tests.delivery.world import (
    ANY_SIZE,
    SYNC,
    Fate,
    Killed,
    MemoryPartner,
    World,
    dropped,
    late,
    lost,
    users,
)


def test_a_first_fill_adds_everybody_and_establishes_the_target_once(world: World) -> None:
    receipt = world.overwrite(users(*range(10)))

    assert world.partner.members == users(*range(10))
    assert world.partner.established == 1
    assert (receipt.state, receipt.users, receipt.joiners, receipt.leavers) == (AttemptState.DELIVERED, 10, 10, 0)
    assert (receipt.acknowledged, receipt.requests, receipt.unchanged, receipt.in_doubt) == (10, 5, 0, 0)


def test_only_the_difference_is_sent_additions_first(world: World) -> None:
    world.overwrite(users(*range(10)))
    before = len(world.partner.requests)
    world.next_window()
    receipt = world.overwrite(users(*range(2, 12)))

    sent = world.partner.requests[before:]
    assert [(each.operation, set(each.ids)) for each in sent] == [
        (Operation.ADD, users(10, 11)),
        (Operation.REMOVE, users(0, 1)),
    ]
    assert (receipt.joiners, receipt.leavers, receipt.unchanged) == (2, 2, 8)
    assert world.partner.established == 1


def test_every_addition_ends_before_the_first_removal_begins(world: World) -> None:
    world.overwrite(users(*range(20)))
    world.next_window()
    world.partner.workers = 4
    seen: list[tuple[Operation, bool]] = []
    world.partner.on_request = lambda _: seen.append(
        (world.partner.requests[-1].operation, users(*range(20, 40)) <= world.partner.members)
    )
    world.overwrite(users(*range(20, 40)))

    assert {complete for operation, complete in seen if operation is Operation.REMOVE} == {True}
    assert world.partner.members == users(*range(20, 40))


def test_an_unchanged_audience_costs_nothing_and_leaves_a_receipt(world: World) -> None:
    world.overwrite(users(1, 2))
    before = len(world.partner.requests)
    window = world.next_window()
    receipt = world.overwrite(users(1, 2))

    assert len(world.partner.requests) == before
    assert (receipt.state, receipt.requests, receipt.planned, receipt.unchanged) == (AttemptState.DELIVERED, 0, 0, 2)
    (file,) = world.history.versions(SYNC, Stage.RECEIPT, window.key)
    assert file.rows == 1
    assert world.history.versions(SYNC, Stage.MEMBERSHIP, window.key) == []


def test_delivering_the_same_snapshot_again_changes_nothing(world: World) -> None:
    payload, seq = world.seal(users(1, 2, 3))
    first, again = world.deliver(payload, seq), world.deliver(payload, seq)

    assert (again.state, again.requests) == (AttemptState.DELIVERED, 0)
    assert again.generation == first.generation + 1


def test_an_empty_audience_establishes_the_target_once(world: World) -> None:
    world.overwrite(set())
    world.next_window()
    receipt = world.overwrite(set())

    assert (world.partner.established, receipt.requests, world.partner.requests) == (1, 0, [])


def test_what_was_lost_is_sent_again_and_nothing_else(world: World) -> None:
    world.partner.faults[2] = dropped
    with pytest.raises(DeliveryStopped, match="no clear answer"):
        world.overwrite(users(*range(12)))
    before = len(world.partner.requests)
    unknown = set(world.partner.requests[1].ids)
    world.next_window()
    world.overwrite(users(*range(12)))

    again = {each for sent in world.partner.requests[before:] for each in sent.ids}
    assert unknown <= again
    assert world.partner.members == users(*range(12))
    assert world.partner.repeated(before) == 1


def test_a_row_that_got_no_answer_is_split_from_its_chunk(world: World) -> None:
    def second_row_unknown(partner: MemoryPartner, operation: Operation, ids: tuple[str, ...]) -> object:
        answer = lost(partner, operation, ids)
        return type(answer)(unknown={1: "HTTP 502"}, requests=1)

    world.partner.faults[1] = second_row_unknown  # type: ignore[assignment]
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(1, 2, 3))
    world.next_window()
    receipt = world.overwrite(users(1, 2, 3))

    assert world.partner.sent_ids(Operation.ADD) == {"user-0001": 1, "user-0002": 2, "user-0003": 1}
    assert receipt.in_doubt == 1


def test_an_unknown_outcome_is_in_doubt_until_repeated_later_than_it_could_land(world: World) -> None:
    world.partner.faults[1] = late
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(1, 2))
    world.next_window()
    assert world.overwrite(users(3)).in_doubt == 2  # acknowledged, but the late addition may still land after it

    world.partner.land_late_requests()
    assert world.partner.members == users(1, 2, 3)
    world.next_window()
    with clock.shifted(SETTLES_AFTER + timedelta(seconds=1)):
        receipt = world.overwrite(users(3))
        assert (receipt.in_doubt, receipt.planned, receipt.leavers) == (0, 2, 0)
        assert world.partner.members == users(3)
        world.next_window()
        assert world.overwrite(users(3)).planned == 0


def test_an_older_snapshot_is_superseded_and_says_by_which(world: World) -> None:
    older_window = world.window
    older, older_seq = world.seal(users(1))
    newer_window = world.next_window()
    world.overwrite(users(2))
    world.window = older_window
    with pytest.raises(DeliverySuperseded, match=newer_window.key) as superseded:
        world.deliver(older, older_seq)

    assert superseded.value.newer == f"that of {newer_window.key}"
    assert world.partner.members == users(2)
    (receipt,) = world.history.versions(SYNC, Stage.RECEIPT, older_window.key)
    assert next(world.history.batches(receipt, ["state"])).column(0).to_pylist() == ["superseded"]


def test_a_claim_is_enough_to_supersede(world: World) -> None:
    older, older_seq = world.seal(users(1))
    world.partner.faults[1] = dropped
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(2))
    with pytest.raises(DeliverySuperseded):
        world.deliver(older, older_seq)


def test_a_target_has_one_owner(world: World) -> None:
    world.overwrite(users(1))
    payload, seq = world.seal(users(2))
    with pytest.raises(TargetOwnedByAnother, match=SYNC):
        world.deliver(payload, seq, sync="another_sync")

    assert world.partner.members == users(1)
    assert world.ledger.windows("another_sync")[0].state == "failed"


@pytest.mark.parametrize(
    ("gates", "ids", "gate"),
    [
        (Gates(min_users=1, max_shrink=1.0), set(), "min_users"),
        (Gates(min_users=5), users(1, 2, 3, 4), "min_users"),
        (Gates(max_shrink=0.5), users(1), "max_shrink"),
        (Gates(allow_empty=True), set(), "max_shrink"),
    ],
)
def test_a_gate_holds_however_often_it_is_tried(world: World, gates: Gates, ids: set[str], gate: str) -> None:
    world.overwrite(users(*range(6)))
    before = len(world.partner.requests)
    world.next_window()
    payload, seq = world.seal(ids)
    for _ in range(2):
        with pytest.raises(DeliveryHeld, match="start the same again") as held:
            world.deliver(payload, seq, gates=gates)
        assert held.value.gate == gate

    assert len(world.partner.requests) == before
    assert world.ledger.windows(SYNC)[0].state == "held"
    assert world.deliver(payload, seq, gates=ANY_SIZE).users == len(ids)  # the override
    assert world.partner.members == ids


def test_what_a_red_delivery_filled_in_counts_as_what_the_target_may_lose(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    world.partner.faults[5 + len(world.partner.requests)] = dropped
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(*range(60)))
    world.next_window()
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.overwrite(users(*range(6)), gates=Gates())


def test_a_shrink_that_got_half_way_is_still_one_from_the_last_delivered_audience(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    world.partner.faults[len(world.partner.requests) + 2] = dropped
    world.partner.workers = 1
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(*range(4, 8)))  # three of six leavers are out for certain
    world.next_window()
    with pytest.raises(DeliveryHeld, match="4 users after 10"):
        world.overwrite(users(*range(4, 8)), gates=Gates())


def test_a_first_fill_that_never_was_green_is_guarded_too(world: World) -> None:
    world.partner.faults[5] = dropped
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(*range(60)))
    world.next_window()
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.overwrite(users(1), gates=Gates())


def test_what_a_dead_writer_filled_in_counts_too(world: World) -> None:
    fate = Fate()
    world.partner.on_request = lambda number: setattr(fate, "dead", True) if number == 5 else None
    with pytest.raises(Killed):
        world.overwrite(users(*range(60)), fate=fate)
    world.partner.on_request = None
    world.next_window()
    with clock.shifted(timedelta(minutes=2)), pytest.raises(DeliveryHeld, match="max_shrink"):
        world.overwrite(users(1), gates=Gates())


def test_an_empty_payload_passes_where_it_is_allowed(world: World) -> None:
    receipt = world.overwrite(set(), gates=Gates(allow_empty=True))
    assert (receipt.state, receipt.users) == (AttemptState.DELIVERED, 0)


def test_at_the_deadline_it_is_deferred_between_two_chunks_and_the_next_window_goes_on(world: World) -> None:
    deadline = clock.now() + timedelta(hours=1)
    shift = clock.shifted(timedelta(hours=2))
    world.partner.on_request = lambda number: shift.__enter__() if number == 4 else None
    try:
        with pytest.raises(DeliveryDeferred, match="more minutes are needed"):
            world.overwrite(users(*range(30)), deadline=deadline)
    finally:
        shift.__exit__(None, None, None)
    sent = len(world.partner.requests)
    assert 4 <= sent <= 5  # with two workers, at most one more is under way
    assert world.ledger.windows(SYNC)[0].state == "deferred"

    world.partner.on_request = None
    world.next_window()
    receipt = world.overwrite(users(*range(30)))
    assert world.partner.members == users(*range(30))
    assert world.partner.repeated(sent) == 0
    assert receipt.unchanged + receipt.joiners == 30


def test_a_damaged_payload_is_never_sent(world: World) -> None:
    payload, seq = world.seal(users(1, 2))
    path = world.folder / "history" / payload.path
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(HistoryFileDamaged):
        world.deliver(payload, seq)

    assert world.partner.requests == []
    assert not world.ledger.is_delivering(SYNC)


def test_a_membership_that_is_gone_is_refused_before_the_first_request(world: World) -> None:
    membership = world.overwrite(users(1, 2)).membership_after
    before = len(world.partner.requests)
    (file,) = world.history.versions(SYNC, Stage.MEMBERSHIP, world.window.key)
    assert file.checksum == membership
    (world.folder / "history" / file.path).unlink()
    world.next_window()
    with pytest.raises(HistoryFileMissing):
        world.overwrite(users(1, 2, 3))

    assert len(world.partner.requests) == before


def test_membership_keeps_who_left(world: World) -> None:
    world.overwrite(users(1, 2))
    window = world.next_window()
    world.overwrite(users(2))
    (file,) = world.history.versions(SYNC, Stage.MEMBERSHIP, window.key)
    table = pq.read_table(world.folder / "history" / file.path)

    assert dict(zip(*table.select(["id", "state"]).to_pydict().values(), strict=True)) == {
        "user-0001": "OUT",
        "user-0002": "IN",
    }


@pytest.mark.parametrize("name", ["émile", "\U0001d518ser", "a\tb", '"quoted"', "=cmd", "x" * 10_000, "Ä", "ä"])
def test_ids_survive_byte_for_byte(world: World, name: str) -> None:
    world.overwrite({name, "other"})
    world.next_window()
    world.overwrite({"other"})

    assert world.partner.sent_ids(Operation.REMOVE) == {name: 1}
    assert world.partner.members == {"other"}


def test_progress_is_told_in_the_callers_thread(world: World) -> None:
    told: list[tuple[int, int]] = []
    world.overwrite(users(*range(12)), on_progress=lambda done, planned: told.append((done, planned)))
    assert told[-1] == (12, 12)

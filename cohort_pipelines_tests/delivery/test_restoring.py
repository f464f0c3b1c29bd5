from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryHeld, DeliverySuperseded, NothingToRestore, SyncPaused, TargetBusy
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery import Gates, Receipt, restore
from cohort_pipelines.delivery.restoring import Restorable, restorable
from cohort_pipelines.ledger import pauses, targets
from cohort_pipelines.ledger.ledger import Target
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines_tests.delivery.world import ANY_SIZE, SYNC, Fate, Killed, World, users


def delivered_before(world: World) -> str:
    """Deliver users 1 and 2, and return in which window; the one after it is open then."""
    world.overwrite(users(1, 2))
    delivered = world.window.key
    world.next_window()
    return delivered


def test_a_restore_puts_an_earlier_audience_back_and_names_it(world: World) -> None:
    first = world.overwrite(users(1, 2, 3))
    earlier = world.window.key
    world.next_window()
    world.overwrite(users(3, 4, 5))
    restored = world.restore(earlier)
    assert world.partner.members == users(1, 2, 3)
    assert (restored.kind, restored.restored_from) == ("restore", earlier)
    assert restored.payload_checksum == first.payload_checksum
    assert (restored.joiners, restored.leavers, restored.users) == (2, 2, 3)
    [row] = [
        row
        for stored in world.history.versions(SYNC, Stage.RECEIPT, world.window.key)
        for batch in world.history.batches(stored)
        for row in batch.to_pylist()
        if row["kind"] == "restore"
    ]
    assert (row["restored_from"], row["state"], row["window"]) == (earlier, "delivered", world.window.key)


def test_a_restore_can_be_undone_by_the_name_of_its_window(world: World) -> None:
    first = delivered_before(world)
    world.overwrite(users(3, 4))
    world.restore(first)
    restored_in = world.window.key
    world.next_window()
    world.overwrite(users(5, 6))
    receipt = world.restore(restored_in)  # its own audience, though a restore fell into that window
    assert world.partner.members == users(3, 4)
    assert receipt.restored_from == restored_in


def test_a_window_that_only_a_restore_fell_into_gives_what_was_restored(world: World) -> None:
    first = delivered_before(world)
    world.restore(first)
    restored_in = world.window.key
    world.next_window()
    world.overwrite(users(5, 6))
    receipt = world.restore(restored_in)
    assert world.partner.members == users(1, 2)
    assert receipt.restored_from == first


def test_a_later_window_wins_over_a_restore_and_an_earlier_one_does_not(world: World) -> None:
    first = delivered_before(world)
    world.overwrite(users(2, 3))
    queued, queued_seq = world.seal(users(3, 4))  # its run was asked for before the restore
    world.restore(first)
    with pytest.raises(DeliverySuperseded, match=world.window.key):
        world.deliver(queued, queued_seq)
    assert world.partner.members == users(1, 2)
    world.next_window()
    world.overwrite(users(7, 8))
    assert world.partner.members == users(7, 8)


@pytest.mark.parametrize("by_name", ["restore", "retirement"])
def test_a_run_that_waited_and_reads_only_afterwards_is_superseded_too(world: World, by_name: str) -> None:
    first = delivered_before(world)
    world.overwrite(users(2, 3))
    requested = clock.now()
    if by_name == "restore":
        world.restore(first)
    else:
        world.retire()
    left, sent = set(world.partner.members), len(world.partner.requests)
    waited, waited_seq = world.seal(users(3, 4))
    with pytest.raises(DeliverySuperseded, match=f"for {world.window.key} was asked for before the {by_name} of"):
        world.deliver(waited, waited_seq, requested=requested)
    assert (world.partner.members, len(world.partner.requests)) == (left, sent)

    world.deliver(waited, waited_seq, requested=clock.now())  # asked for again, by whoever wants it after all
    assert world.partner.members == users(3, 4)


def test_a_later_window_wins_over_a_restore_that_waited_for_its_turn(world: World) -> None:
    first = delivered_before(world)
    world.overwrite(users(2, 3))
    requested = clock.now()  # of the next window's run, while the restore waits
    world.restore(first)
    world.next_window()
    payload, seq = world.seal(users(3, 4))
    world.deliver(payload, seq, requested=requested)
    assert world.partner.members == users(3, 4)


def test_a_restore_that_a_gate_held_goes_over_nothing(world: World) -> None:
    world.overwrite(set())
    empty = world.window.key
    world.next_window()
    world.overwrite(users(1, 2))
    requested = clock.now()
    with pytest.raises(DeliveryHeld):
        world.restore(empty, gates=Gates(min_users=1))
    payload, seq = world.seal(users(3))
    world.deliver(payload, seq, requested=requested)
    assert world.partner.members == users(3)


def test_a_restore_by_a_clock_that_was_ahead_goes_over_nothing_that_is_asked_for_later(world: World) -> None:
    first = delivered_before(world)
    with clock.shifted(timedelta(days=30)):
        world.restore(first)
    payload, seq = world.seal(users(3, 4))
    world.deliver(payload, seq, requested=clock.now())
    assert world.partner.members == users(3, 4)


def test_an_older_snapshot_names_what_was_asked_for_by_name(world: World) -> None:
    first = delivered_before(world)
    older, older_seq = world.seal(users(3))
    world.restore(first)
    with pytest.raises(DeliverySuperseded, match=f"older than the restore of {first} in {world.window.key}, which"):
        world.deliver(older, older_seq)


def test_a_restore_passes_the_same_gates(world: World) -> None:
    world.overwrite(users(1))
    small = world.window.key
    world.next_window()
    world.overwrite(users(*range(10)))
    sent = len(world.partner.requests)
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.restore(small, gates=Gates())
    assert len(world.partner.requests) == sent


def test_a_restore_that_pauses_is_not_overwritten_by_the_next_window(world: World) -> None:
    first = delivered_before(world)
    world.overwrite(users(2, 3))
    world.restore(first, pause=True)
    world.next_window()
    with pytest.raises(SyncPaused, match="somebody: to look at it"):
        world.overwrite(users(4, 5))
    assert world.partner.members == users(1, 2)
    assert pauses.resume(world.ledger, SYNC)
    world.overwrite(users(4, 5))
    assert world.partner.members == users(4, 5)


def test_the_pause_holds_from_the_claim_on_even_where_the_restore_dies(world: World) -> None:
    first = delivered_before(world)
    world.overwrite(users(2, 3))
    point, outcomes = 0, set()
    while "done" not in outcomes:
        point += 1
        pauses.resume(world.ledger, SYNC)
        fate = Fate(dies_at=point)
        try:
            world.restore(first, fate=fate, pause=True)
        except Killed:
            claimed = world.ledger.is_delivering(SYNC)
            assert (pauses.paused(world.ledger, SYNC) is not None) == claimed, point
            outcomes.add("claimed" if claimed else "not begun")
        else:
            outcomes.add("done")
        if world.ledger.is_delivering(SYNC):
            break
    assert outcomes == {"not begun", "claimed"}


@pytest.mark.parametrize("asked", ["2020-01-01T0000Z", "no such window"])
def test_only_what_was_delivered_can_be_restored(world: World, asked: str) -> None:
    world.overwrite(users(1))
    with pytest.raises(NothingToRestore, match=world.window.key):
        world.restore(asked)


def test_a_held_window_cannot_be_restored(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    with pytest.raises(DeliveryHeld):
        world.overwrite(users(1), gates=Gates())
    with pytest.raises(NothingToRestore):
        world.restore(world.window.key)


def test_a_restore_is_no_window_of_its_own(world: World) -> None:
    first = delivered_before(world)
    world.restore(first)
    assert [window.key for window in world.ledger.windows(SYNC)] == [first]


def test_what_an_unchanged_restore_costs(world: World) -> None:
    world.overwrite(users(1, 2))
    sent = len(world.partner.requests)
    receipt = world.restore(world.window.key)
    assert receipt.state is AttemptState.DELIVERED
    assert len(world.partner.requests) == sent


def test_a_restore_that_does_not_get_its_turn_does_not_pause(world: World) -> None:
    first = delivered_before(world)
    fate = Fate()
    world.partner.on_request = lambda _: setattr(fate, "dead", True)
    payload, seq = world.seal(users(2, 3))
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=fate)
    with pytest.raises(TargetBusy):
        world.restore(first, pause=True, patience=timedelta(0))
    assert pauses.paused(world.ledger, SYNC) is None


def test_of_a_window_s_payloads_the_one_that_is_named_can_be_put_back(world: World) -> None:
    first = delivered_before(world)
    named = world.overwrite(users(2, 3))
    world.restore(first)  # in the same window
    target = Target("memory", "localhost", "", "Beta")

    def found(window: str, payload: str = "") -> Restorable:
        return restorable(world.ledger, world.history, target, SYNC, window, payload_checksum=payload)

    assert found(world.window.key).payload.checksum == named.payload_checksum
    again = found(world.window.key, named.payload_checksum)
    assert (again.window, again.payload.checksum) == (world.window.key, named.payload_checksum)
    assert found(first, found(first).payload.checksum).window == first
    with pytest.raises(NothingToRestore):
        found(first, named.payload_checksum)


def test_what_was_restored_after_a_renaming_can_be_put_back_once_more(world: World) -> None:
    world.overwrite(users(1, 2))
    first = world.window.key
    target = Target("memory", "localhost", "", "Beta")
    targets.hand_over(world.ledger, target, "renamed", declared=[])

    def put_back(window: str) -> Receipt:
        return restore(
            ledger=world.ledger,
            history=world.history,
            partner=world.partner,
            target=target,
            sync="renamed",
            window=world.window,
            from_window=window,
            gates=ANY_SIZE,
            run_id="restore",
            deadline=clock.now() + timedelta(hours=1),
        )

    world.next_window()
    assert put_back(first).restored_from == first
    restored_in = world.window.key
    world.next_window()
    assert put_back(restored_in).restored_from == first
    assert world.partner.members == users(1, 2)

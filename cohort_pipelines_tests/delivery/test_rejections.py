from collections.abc import Sequence
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import DeliveryRejected, DeliveryStopped, PartnerKeyRefused, PartnerRequestRejected
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery.chunks import OPENING_ROWS
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import SYNC, Fault, MemoryPartner, Sent, World, lost, users


def refusing(operation: Operation, *numbers: int) -> Fault:
    """Refuse the rows of some users, and take the others."""

    def fault(partner: MemoryPartner, asked: Operation, ids: Sequence[str]) -> Answer:
        bad = users(*numbers) if asked is operation else set()
        partner.apply(Sent(asked, tuple(each for each in ids if each not in bad)))
        return Answer(rejected={row: "422" for row, each in enumerate(ids) if each in bad}, requests=1)

    return fault


def rejected_whole(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    raise PartnerRequestRejected(partner.wire, 422)


def key_refused(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    raise PartnerKeyRefused(partner.wire, 401)


def test_a_refused_addition_is_red_after_the_rest_was_sent_and_is_tried_again(world: World) -> None:
    world.partner.always = refusing(Operation.ADD, 4)
    with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
        world.overwrite(users(*range(10)))
    assert world.partner.members == users(*range(10)) - users(4)

    before = len(world.partner.requests)
    world.next_window()
    world.partner.always = None
    receipt = world.overwrite(users(*range(10)))
    assert [set(sent.ids) for sent in world.partner.requests[before:]] == [users(4)]
    assert (receipt.state, receipt.in_doubt) == (AttemptState.DELIVERED, 0)


def test_a_refused_removal_is_red(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    world.partner.always = refusing(Operation.REMOVE, 2)
    with pytest.raises(DeliveryRejected, match="0 additions and 1 removals"):
        world.overwrite(users(*range(5, 10)))
    assert world.partner.members == users(2, *range(5, 10))

    window = world.window
    (file,) = world.history.versions(SYNC, Stage.RECEIPT, window.key)
    (row,) = next(world.history.batches(file)).to_pylist()
    assert (row["state"], row["rejected"]) == ("rejected", 1)
    assert row["rejected_rows"] == [{"operation": "remove", "id": "user-0002", "reason": "422"}]
    newest = world.ledger.newest_delivered(SYNC)
    assert newest is not None
    assert newest.window != window.key


def test_who_was_refused_and_leaves_needs_no_removal_so_that_the_sync_is_green_again(world: World) -> None:
    world.partner.always = refusing(Operation.ADD, 1)
    with pytest.raises(DeliveryRejected):
        world.overwrite(users(1, 2))
    world.next_window()
    world.overwrite(users(2))  # the partner would refuse a removal as well
    assert world.partner.sent_ids(Operation.REMOVE) == {}
    assert world.partner.members == users(2)


@pytest.mark.parametrize("fault", [rejected_whole, key_refused])
def test_a_permanent_refusal_from_the_first_request_on_stops_at_once(world: World, fault: Fault) -> None:
    world.partner.always = fault
    with pytest.raises(DeliveryStopped, match="what it held"):
        world.overwrite(users(*range(100)))
    assert 1 <= len(world.partner.requests) <= world.partner.workers
    assert world.ledger.newest_delivered(SYNC) is None


def rejecting_whole(operation: Operation, *numbers: int) -> Fault:
    """Refuse each request that holds one of some users as a whole, and take the others."""

    def fault(partner: MemoryPartner, asked: Operation, ids: Sequence[str]) -> Answer:
        if asked is operation and users(*numbers) & set(ids):
            raise PartnerRequestRejected(partner.wire, 400)
        partner.apply(Sent(asked, tuple(ids)))
        return Answer(requests=1)

    return fault


@pytest.mark.parametrize("workers", [1, 2])
def test_one_refused_joiner_holds_up_no_leaver(world: World, workers: int) -> None:
    world.overwrite(users(1, 2, 3, 4, 5))
    world.next_window()
    world.partner.workers = workers
    world.partner.always = rejecting_whole(Operation.ADD, 0)
    with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
        world.overwrite(users(0))
    assert world.partner.members == set()


@pytest.mark.parametrize("leavers", [set(), users(90, 91)])
def test_refused_first_chunks_hold_up_no_joiner_where_the_target_is_known_to_be_good(
    world: World, leavers: set[str]
) -> None:
    world.overwrite(leavers | users(92))
    world.next_window()
    world.partner.always = rejecting_whole(Operation.ADD, 0, 3)  # the first chunk of each of the two workers
    with pytest.raises(DeliveryRejected, match="2 additions and 0 removals"):
        world.overwrite(users(*range(30), 92))
    assert world.partner.members == users(*range(30), 92) - users(0, 3)


def test_a_lone_refused_joiner_is_a_bad_row_where_the_target_is_known_to_be_good(world: World) -> None:
    world.overwrite(users(1))
    world.next_window()
    world.partner.always = rejected_whole
    with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
        world.overwrite(users(1, 2))


@pytest.mark.parametrize("audience", [users(*range(100, 200)), users(*range(200)), users(1)])
def test_a_target_that_refuses_all_it_is_asked_is_not_asked_on_and_on(world: World, audience: set[str]) -> None:
    world.overwrite(users(*range(100)))
    before = len(world.partner.requests)
    world.next_window()
    world.partner.always = rejected_whole
    with pytest.raises(DeliveryStopped, match="exists where the partner asks"):
        world.overwrite(audience)
    assert len(world.partner.requests) - before <= 2 * world.partner.workers


def gone(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    refusal = PartnerRequestRejected(partner.wire, 404)
    refusal.requests = len(ids) if partner.judges_rows else 1
    raise refusal


@pytest.mark.slow
@pytest.mark.parametrize("judges_rows", [False, True])
@pytest.mark.parametrize("joiners", [40, 400, 5_000])
def test_a_target_that_is_gone_is_asked_a_handful_of_times_in_each_window_and_named(
    world: World, joiners: int, judges_rows: bool
) -> None:
    world.partner.chunk_rows, world.partner.judges_rows = 250, judges_rows
    world.overwrite(users(*range(10)))
    world.partner.always = gone
    for _ in range(3):
        world.next_window()
        before = len(world.partner.requests)
        with pytest.raises(DeliveryStopped, match="exists where the partner asks"):
            world.overwrite(users(*range(10 + joiners)))
        asked = world.partner.requests[before:]
        assert sum(len(sent.ids) for sent in asked) <= OPENING_ROWS or not judges_rows
        assert len(asked) <= 4


@pytest.mark.parametrize("judges_rows", [False, True])
def test_rows_that_were_refused_before_are_given_up_for_a_window_where_nothing_else_is_acknowledged(
    world: World, judges_rows: bool
) -> None:
    world.partner.chunk_rows, world.partner.judges_rows = 100, judges_rows
    world.partner.always = refusing(Operation.ADD, *range(3, 2_000, 5))
    audience = users(*range(2_000))
    with pytest.raises(DeliveryRejected, match="400 additions"):
        world.overwrite(audience)
    world.partner.always = gone
    for _ in range(2):
        before = len(world.partner.requests)
        world.next_window()
        with pytest.raises(DeliveryRejected, match="that it rejected before were left for the next delivery"):
            world.overwrite(audience)
        asked = world.partner.requests[before:]
        requests = sum(len(sent.ids) for sent in asked) if judges_rows else len(asked)
        assert requests <= (world.partner.workers * OPENING_ROWS if judges_rows else 8 + world.partner.workers)


def test_a_bad_row_among_the_first_is_told_from_a_bad_target_by_one_removal(world: World) -> None:
    world.overwrite(users(*range(20, 30)))
    before = len(world.partner.requests)
    world.next_window()
    world.partner.always = rejecting_whole(Operation.ADD, 0)
    with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
        world.overwrite(users(*range(15)))
    operations = [sent.operation for sent in world.partner.requests[before:]]
    assert operations[:2] == [Operation.ADD, Operation.REMOVE]
    assert operations[2:] == sorted(operations[2:])  # and the other removals after all additions
    assert world.partner.members == users(*range(1, 15))


def test_a_bad_row_in_the_only_chunk_of_additions_is_found_where_the_target_is_known_to_be_good(world: World) -> None:
    world.partner.chunk_rows = 100
    world.overwrite(users(*range(10)))
    world.next_window()
    world.partner.always = rejecting_whole(Operation.ADD, 37)
    with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
        world.overwrite(users(*range(80)))
    assert world.partner.members == users(*range(80)) - users(37)


def test_a_lone_bad_joiner_is_told_from_a_bad_target_by_what_is_reconciled_or_was_refused_before(world: World) -> None:
    weekly = Terms(reconcile_within=timedelta(days=7))
    world.overwrite(users(*range(20)), terms=weekly)
    with clock.shifted(timedelta(days=1)):
        world.next_window()
        world.partner.always = rejecting_whole(Operation.ADD, 50)
        with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
            world.overwrite(users(*range(20), 50), terms=weekly)
        world.next_window()
        world.partner.always = rejecting_whole(Operation.ADD, 50, 51)
        with pytest.raises(DeliveryRejected, match="2 additions and 0 removals"):
            world.overwrite(users(*range(20), 50, 51), terms=weekly)
        world.next_window()
        world.partner.always = rejecting_whole(Operation.ADD, 52)
        with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
            world.overwrite(users(*range(20), 50, 51, 52), terms=weekly)
    assert world.partner.members == users(*range(20), 50, 51)


def test_a_key_revoked_on_the_way_stops_at_once(world: World) -> None:
    world.partner.faults = dict.fromkeys(range(5, 50), key_refused)
    with pytest.raises(DeliveryStopped, match="refused the key"):
        world.overwrite(users(*range(100)))
    assert len(world.partner.requests) <= 4 + world.partner.workers

    world.partner.faults = {}
    world.next_window()
    world.overwrite(users(*range(100)))
    assert world.partner.members == users(*range(100))


def test_a_request_refused_later_on_concerns_its_chunk_only(world: World) -> None:
    world.partner.always = rejecting_whole(Operation.ADD, 7)
    with pytest.raises(DeliveryRejected, match="1 additions"):
        world.overwrite(users(*range(30)))
    assert world.partner.members == users(*range(30)) - users(7)

    world.next_window()  # it took no effect, so who leaves meanwhile need not be removed
    receipt = world.overwrite(world.partner.members)
    assert receipt.planned == 0


def test_a_first_chunk_refused_among_good_ones_does_not_stop_the_others(world: World) -> None:
    world.partner.always = rejecting_whole(Operation.ADD, 0)
    with pytest.raises(DeliveryRejected, match="1 additions"):
        world.overwrite(users(*range(30)))
    assert world.partner.members == users(*range(1, 30))


def test_an_adapter_that_breaks_leaves_membership_exact(world: World) -> None:
    def breaks(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        lost(partner, operation, ids)
        raise ZeroDivisionError

    world.partner.faults[3] = breaks
    with pytest.raises(DeliveryStopped, match="ZeroDivisionError"):
        world.overwrite(users(*range(30)))
    assert world.ledger.windows(SYNC)[0].state == "failed"
    assert not world.ledger.is_delivering(SYNC)

    world.next_window()
    world.overwrite(users(*range(10, 20)))
    assert world.partner.members == users(*range(10, 20))

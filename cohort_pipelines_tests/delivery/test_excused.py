"""A partner that refuses to remove who is not there: reconciliation asks it for just that, and nobody is to blame."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import DeliveryRejected, DeliveryStopped, PartnerRequestRejected
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import MemoryPartner, Sent, World, one_duckdb, users

A_DAY = Terms(reconcile_within=timedelta(days=1))
TWO_HOURS = timedelta(hours=2)


def strict(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
    """Refuse to remove somebody who is not there, and with it all that is asked for in the same breath."""
    if operation is Operation.REMOVE and not set(ids) <= partner.members:
        raise PartnerRequestRejected(partner.wire, 422)
    partner.apply(Sent(operation, tuple(ids)))
    return Answer(requests=1)


@pytest.fixture
def strictly(world: World) -> World:
    world.partner.always = strict
    world.partner.chunk_rows = 1_000
    return world


@pytest.mark.slow
def test_an_audience_that_comes_and_goes_is_green_in_every_window(strictly: World) -> None:
    with one_duckdb():
        for window in range(60):
            wanted = users(*range(10 * window, 10 * window + 100))
            with clock.shifted(window * TWO_HOURS):
                receipt = strictly.overwrite(wanted, terms=A_DAY)
            assert (receipt.state, strictly.partner.members) == (AttemptState.DELIVERED, wanted)
            strictly.next_window()


@pytest.mark.parametrize("left", [0, 1])
def test_reconciliation_that_is_refused_throughout_is_green_and_over(strictly: World, left: int) -> None:
    strictly.overwrite(users(*range(200)), terms=A_DAY)
    strictly.next_window()
    strictly.overwrite(users(*range(left)), terms=A_DAY)
    strictly.next_window()
    with clock.shifted(12 * TWO_HOURS):
        receipt = strictly.overwrite(users(*range(left)), terms=A_DAY)
        assert (receipt.state, receipt.reconciled) == (AttemptState.DELIVERED, 200)
        assert receipt.rejected > 0
        strictly.next_window()
        assert strictly.overwrite(users(*range(left)), terms=A_DAY).requests == 0  # its turn was over


@pytest.mark.parametrize(("status", "judges_rows"), [(402, False), (400, False), (422, True)])
def test_a_connection_that_refuses_everything_is_not_excused(world: World, status: int, *, judges_rows: bool) -> None:
    def broken(partner: MemoryPartner, _: Operation, __: Sequence[str]) -> Answer:
        raise PartnerRequestRejected(partner.wire, status)

    world.partner.judges_rows, world.partner.chunk_rows = judges_rows, 50
    world.overwrite(users(*range(600)), terms=A_DAY)
    world.next_window()
    world.overwrite(set(), terms=A_DAY)
    world.next_window()
    world.partner.always, before = broken, len(world.partner.requests)
    with clock.shifted(12 * TWO_HOURS), pytest.raises(DeliveryStopped):
        world.overwrite(set(), terms=A_DAY)
    assert len(world.partner.requests) - before <= 4


def test_who_was_not_there_to_be_removed_comes_back_with_everybody_else(strictly: World) -> None:
    strictly.overwrite(users(*range(200)), terms=A_DAY)
    strictly.next_window()
    strictly.overwrite(users(300), terms=A_DAY)
    strictly.next_window()
    with clock.shifted(12 * TWO_HOURS):
        assert strictly.overwrite(users(300), terms=A_DAY).rejected == 200
        strictly.next_window()
        assert strictly.overwrite(users(300, *range(200)), terms=A_DAY).requests == 1


def test_a_removal_of_somebody_who_may_be_in_is_never_excused(strictly: World) -> None:
    strictly.overwrite(users(*range(200)), terms=A_DAY)
    strictly.partner.members -= users(7)
    strictly.next_window()
    with clock.shifted(12 * TWO_HOURS), pytest.raises(DeliveryRejected, match="0 additions and 1 removals"):
        strictly.overwrite(users(*range(7)), terms=A_DAY)
    assert strictly.partner.members == users(*range(7))


def test_who_was_refused_once_and_is_put_in_by_hand_is_reconciled(world: World) -> None:
    def picky(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        if operation is Operation.ADD and users(9) <= set(ids):
            raise PartnerRequestRejected(partner.wire, 422)
        partner.apply(Sent(operation, tuple(ids)))
        return Answer(requests=1)

    world.partner.always = picky
    terms = Terms(reconcile_within=timedelta(days=1), rejection_tolerance=1)
    world.overwrite(users(1, 2), terms=terms)
    world.next_window()
    assert world.overwrite(users(1, 2, 3, 9), terms=terms).rejected == 1
    world.next_window()
    world.overwrite(users(1, 2), terms=terms)
    world.partner.members |= users(9)
    world.next_window()
    with clock.shifted(12 * TWO_HOURS):
        world.overwrite(users(1, 2), terms=terms)
    assert world.partner.members == users(1, 2)

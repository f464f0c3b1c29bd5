"""Reconciliation keeps its pace whatever is refused, and leaves time for changes."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryRejected
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import Fault, MemoryPartner, Sent, World, users

pytestmark = pytest.mark.slow

DAY = timedelta(days=1)
WEEKLY = Terms(reconcile_within=7 * DAY)
EVERYBODY = users(*range(700))


def refusing(*bad: str) -> Fault:
    """Refuse the rows of these users, whatever is asked, and take the others."""

    def fault(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        partner.apply(Sent(operation, tuple(each for each in ids if each not in bad)))
        return Answer(rejected={row: "HTTP 400" for row, each in enumerate(ids) if each in bad}, requests=1)

    return fault


def days(world: World, count: int, deliver: Callable[[int], None]) -> list[int]:
    """Deliver once a day, and return how many rows each day sent."""
    sent = []
    with ExitStack() as later:
        for day in range(count):
            before = world.partner.sent_ids(Operation.ADD) + world.partner.sent_ids(Operation.REMOVE)
            world.next_window()
            deliver(day)
            after = world.partner.sent_ids(Operation.ADD) + world.partner.sent_ids(Operation.REMOVE)
            sent.append((after - before).total())
            later.enter_context(clock.shifted(DAY))
    return sent


@pytest.mark.parametrize("bad_from", [0, 1])
def test_an_id_that_is_refused_every_day_changes_nothing_in_the_reconciliation_of_the_others(
    world: World, bad_from: int
) -> None:
    world.partner.chunk_rows, world.partner.judges_rows = 250, True
    world.partner.always = refusing("bad")

    def deliver(day: int) -> None:
        if day < bad_from:
            world.overwrite(EVERYBODY, terms=WEEKLY)
        else:
            with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
                world.overwrite(EVERYBODY | {"bad"}, terms=WEEKLY)

    first, *others = days(world, 10, deliver)

    assert first == len(EVERYBODY) + (bad_from == 0)
    share = len(EVERYBODY) / 7
    assert all(0.6 * share < rows < 1.5 * share for rows in others), others
    assert world.partner.members == EVERYBODY


def test_who_is_gone_and_refused_when_reconciled_is_red_until_they_are_back(world: World) -> None:
    world.overwrite(users(*range(20)), terms=WEEKLY)
    world.partner.members -= users(3)
    world.partner.always = refusing("user-0003")
    with ExitStack() as later:
        later.enter_context(clock.shifted(8 * DAY))  # all of them are due
        for _ in range(3):
            world.next_window()
            with pytest.raises(DeliveryRejected, match="1 additions"):
                world.overwrite(users(*range(20)), terms=WEEKLY)
            later.enter_context(clock.shifted(timedelta(minutes=15)))
        world.partner.always = None
        world.next_window()
        world.overwrite(users(*range(20)), terms=WEEKLY)
    assert world.partner.members == users(*range(20))


def test_who_is_out_and_cannot_be_removed_once_more_is_no_failure(world: World) -> None:
    world.overwrite(users(*range(20)), terms=WEEKLY)
    world.next_window()
    world.overwrite(users(*range(10, 20)), terms=WEEKLY)
    world.partner.always = refusing(*users(3, 4))  # it has deleted them
    with clock.shifted(8 * DAY):
        world.next_window()
        receipt = world.overwrite(users(*range(11, 20)), terms=WEEKLY)
    assert (receipt.rejected, receipt.leavers) == (2, 1)
    assert world.partner.members == users(*range(11, 20))


def test_what_is_to_be_removed_and_refused_is_red_beside_what_is_only_reconciled(world: World) -> None:
    world.overwrite(users(*range(20)), terms=WEEKLY)
    world.next_window()
    world.overwrite(users(*range(10, 20)), terms=WEEKLY)
    world.partner.always = refusing(*users(3, 10))
    with clock.shifted(8 * DAY):
        world.next_window()
        with pytest.raises(DeliveryRejected, match="2 removals"):
            world.overwrite(users(*range(11, 20)), terms=WEEKLY)


@pytest.mark.parametrize("held", [2_000, 20])
def test_where_everybody_is_due_and_the_window_short_changes_are_made_and_reconciliation_ends_in_some_windows(
    world: World, held: int
) -> None:
    """A partner that takes 100 rows a second, and windows of five seconds for 2,000 users, of whom ``held`` are in."""
    everybody, audience = users(*range(2_000)), users(*range(held))
    world.partner.chunk_rows = 50
    rounds: list[set[str]] = []
    with ExitStack() as later:

        def half_a_second(_: int) -> None:
            later.enter_context(clock.shifted(timedelta(seconds=0.5)))

        for ids in (everybody, audience):
            world.overwrite(ids, terms=WEEKLY)
            world.next_window()
        world.partner.on_request = half_a_second  # from now on, so that the measured pace is too good at first
        later.enter_context(clock.shifted(30 * DAY))
        for number in range(60):
            before = len(world.partner.requests)
            world.next_window()
            leaver = users(number)
            audience -= leaver
            with suppress(DeliveryDeferred):
                world.overwrite(audience, terms=WEEKLY, deadline=clock.now() + timedelta(seconds=5))
            assert not leaver & world.partner.members, number
            rounds.append({each for sent in world.partner.requests[before:] for each in sent.ids})
            if set.union(*rounds) == everybody:
                break
    assert set.union(*rounds) == everybody  # was sent again
    assert len(rounds) >= 4

from contextlib import ExitStack
from datetime import timedelta
from types import SimpleNamespace

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryStopped, SyncPaused
from cohort_pipelines.delivery import service
from cohort_pipelines.ledger import pauses
from cohort_pipelines.ledger.database import Database
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import SYNC, World, lost, users

ASYNCHRONOUS = Terms(apply_delay=timedelta(minutes=5))


def test_what_the_partner_has_yet_to_apply_is_accepted_and_then_delivered(world: World) -> None:
    receipt = world.overwrite(users(1, 2), terms=ASYNCHRONOUS)
    assert receipt.state is AttemptState.ACCEPTED
    newest = world.ledger.newest_delivered(SYNC)
    assert newest is not None
    assert newest.users == 2
    world.next_window()
    with clock.shifted(timedelta(minutes=6)):
        unchanged = world.overwrite(users(1, 2), terms=ASYNCHRONOUS)
    assert unchanged.state is AttemptState.DELIVERED  # nothing was sent that would have to be applied
    with world.ledger.read() as connection:
        states = connection.exec_driver_sql("SELECT state FROM attempt ORDER BY id").scalars().all()
    assert states == ["delivered", "delivered"]


def test_no_id_is_reversed_before_the_partner_has_applied_it(world: World) -> None:
    world.overwrite(users(1, 2), terms=ASYNCHRONOUS)
    world.next_window()
    sent = len(world.partner.requests)
    with pytest.raises(DeliveryDeferred):
        world.overwrite(users(1), terms=ASYNCHRONOUS, deadline=clock.now() + timedelta(seconds=1))
    assert len(world.partner.requests) == sent
    world.next_window()
    with clock.shifted(timedelta(minutes=6)):
        world.overwrite(users(1), terms=ASYNCHRONOUS)
    assert world.partner.members == users(1)


def test_a_pause_ends_the_wait_for_what_is_yet_to_be_applied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def pause(_: float) -> None:
        pauses.pause(world.ledger, SYNC, who="somebody", why="to look at it")

    world.overwrite(users(1, 2), terms=ASYNCHRONOUS)
    world.next_window()
    sent = len(world.partner.requests)
    monkeypatch.setattr(service, "time", SimpleNamespace(sleep=pause))
    with pytest.raises(SyncPaused, match="to look at it"):
        world.overwrite(users(1), terms=ASYNCHRONOUS)
    assert len(world.partner.requests) == sent


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [50, -50])
def test_the_time_to_apply_is_told_by_the_ledgers_clock(
    world: World, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    now = Database.now
    monkeypatch.setattr(Database, "now", lambda ledger, at: now(ledger, at) + timedelta(seconds=ahead))
    terms = Terms(apply_delay=timedelta(seconds=40))
    first = world.overwrite(users(1, 2), terms=terms)
    assert 0 <= first.seconds < 30
    world.next_window()
    with pytest.raises(DeliveryDeferred):  # whatever this host's clock says, the 40 seconds are not over
        world.overwrite(users(1), terms=terms, deadline=clock.now() + timedelta(seconds=1))
    assert world.partner.members == users(1, 2)


def test_what_is_accepted_stays_so_until_the_time_has_passed(world: World) -> None:
    world.overwrite(users(1, 2), terms=ASYNCHRONOUS)
    world.next_window()
    assert world.overwrite(users(1, 2), terms=ASYNCHRONOUS).state is AttemptState.ACCEPTED
    with world.ledger.read() as connection:
        states = connection.exec_driver_sql("SELECT state FROM attempt ORDER BY id").scalars().all()
    assert states == ["accepted", "accepted"]


def test_a_lost_request_to_a_partner_that_applies_late_is_in_doubt_for_longer(world: World) -> None:
    slow = Terms(apply_delay=timedelta(hours=1))
    world.partner.always = lost
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(1), terms=slow)
    world.partner.always = None
    in_doubt = []
    with ExitStack() as later:
        for _ in range(2):
            later.enter_context(clock.shifted(timedelta(minutes=62)))
            world.next_window()
            in_doubt.append(world.overwrite(users(2), terms=slow).in_doubt)
    assert in_doubt == [1, 0]

from datetime import timedelta

import pytest

from cohort_pipelines import clock
from cohort_pipelines.delivery import AttemptState, Terms
from cohort_pipelines.errors import DeliveryYielded
from cohort_pipelines_tests.delivery.world import SYNC, World, users

ASYNCHRONOUS = Terms(applies_within=timedelta(minutes=5))


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
    with pytest.raises(DeliveryYielded):
        world.overwrite(users(1), terms=ASYNCHRONOUS, deadline=clock.now() + timedelta(seconds=1))
    assert len(world.partner.requests) == sent
    world.next_window()
    with clock.shifted(timedelta(minutes=6)):
        world.overwrite(users(1), terms=ASYNCHRONOUS)
    assert world.partner.members == users(1)

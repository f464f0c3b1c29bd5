"""Rows that were only rate limited, or never got a connection, are certain to be as they were."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryStopped, PartnerRateLimited
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines_tests.delivery.world import Fault, MemoryPartner, Sent, World, users


def rate_limited(wait: float | None) -> Fault:
    """Take nothing, and name the seconds after which to come back (None: there is nobody to ask)."""

    def fault(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001  a Fault
        return Answer(not_sent=dict.fromkeys(range(len(ids)), "HTTP 429"), again_after=wait, requests=5)

    return fault


def half_of_them(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
    """Take every other row."""
    partner.apply(Sent(operation, tuple(ids[::2])))
    not_sent = dict.fromkeys(range(1, len(ids), 2), "HTTP 429")
    return Answer(not_sent=not_sent, again_after=0.0, requests=len(ids))


def very_soon() -> datetime:
    return clock.now() + timedelta(seconds=0.6)


def test_who_was_rate_limited_is_sent_again(world: World) -> None:
    world.partner.faults = {2: rate_limited(0.0), 3: half_of_them}
    receipt = world.overwrite(users(*range(10)))
    assert world.partner.members == users(*range(10))
    assert (receipt.state, receipt.acknowledged, receipt.in_doubt) == (AttemptState.DELIVERED, 10, 0)


def test_only_the_rows_that_were_rate_limited_are_sent_again(world: World) -> None:
    world.partner.faults = {1: half_of_them}
    world.overwrite(users(1, 2, 3))
    assert world.partner.sent_ids(Operation.ADD) == {"user-0001": 1, "user-0002": 2, "user-0003": 1}


def test_additions_that_were_rate_limited_still_go_before_removals(world: World) -> None:
    world.overwrite(users(*range(6)))
    before = len(world.partner.requests)
    world.next_window()
    world.partner.faults = {before + 1: rate_limited(0.0), before + 2: rate_limited(0.0)}
    world.overwrite(users(*range(6, 12)))
    operations = [sent.operation for sent in world.partner.requests[before:]]
    assert operations == sorted(operations)
    assert world.partner.members == users(*range(6, 12))


@pytest.mark.parametrize("wait", [0.0, 0.05, 3_600.0, 1e12, 1e300])
def test_rate_limited_for_ever_it_is_deferred_and_knows_that_nothing_changed(world: World, wait: float) -> None:
    world.partner.always = rate_limited(wait)
    with pytest.raises(DeliveryDeferred):
        world.overwrite(users(*range(10)), deadline=very_soon())

    world.next_window()
    world.partner.always = None
    receipt = world.overwrite(users(1))  # nobody of the others has to be removed
    assert (receipt.planned, receipt.in_doubt) == (1, 0)


def test_a_wait_beyond_the_deadline_is_not_begun(world: World) -> None:
    world.partner.always = rate_limited(3_600.0)
    with pytest.raises(DeliveryDeferred):
        world.overwrite(users(*range(100)), deadline=clock.now() + timedelta(minutes=15))
    assert len(world.partner.requests) <= world.partner.workers


def test_a_partner_that_is_down_stops_the_delivery_and_nothing_is_in_doubt(world: World) -> None:
    world.partner.always = rate_limited(None)
    with pytest.raises(DeliveryStopped, match="no clear answer"):
        world.overwrite(users(*range(100)))
    assert len(world.partner.requests) <= world.partner.workers

    world.next_window()
    world.partner.always = None
    receipt = world.overwrite(users(1))
    assert (receipt.planned, receipt.in_doubt) == (1, 0)


def test_a_cancel_while_waiting_ends_the_wait(world: World) -> None:
    class Cancelled(BaseException):
        """As Dagster's own interrupt."""

    def cancel(done: int, planned: int) -> None:
        assert (done, planned) == (0, 10)
        if world.partner.requests:
            raise Cancelled

    world.partner.always = rate_limited(600.0)
    with pytest.raises(Cancelled):
        world.overwrite(users(*range(10)), on_progress=cancel)
    world.next_window()
    world.partner.always = None
    assert world.overwrite(users(1)).planned == 1


@pytest.mark.parametrize("wait", [0.0, 3_600.0])
def test_rate_limited_before_the_target_exists_it_is_deferred_too(
    world: World, monkeypatch: pytest.MonkeyPatch, wait: float
) -> None:
    async def establish(_session: object, _deadline: datetime) -> int:
        raise PartnerRateLimited(world.partner.wire, "HTTP 429", wait)

    monkeypatch.setattr("cohort_pipelines_tests.delivery.world._MemorySession.establish", establish)
    with pytest.raises(DeliveryDeferred):
        world.overwrite(users(1), deadline=very_soon())
    assert world.partner.requests == []

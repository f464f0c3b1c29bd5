"""Somebody deletes the target at the partner: it is made anew, with everybody, by the second delivery after that."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import (
    DeliveryDeferred,
    DeliveryRejected,
    DeliveryStopped,
    PartnerRateLimited,
    PartnerRequestRejected,
    PartnerUnreachable,
    SyncPaused,
)
from cohort_pipelines.core.windows import one_time_window
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.destinations.taplytics import Taplytics
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.ledger import pauses
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, MemoryPartner, World, users


@pytest.mark.parametrize("changed", [users(*range(12)), users(*range(8)), users(*range(2, 12))])
def test_a_deleted_target_is_named_and_made_anew_with_everybody(world: World, changed: set[str]) -> None:
    world.overwrite(users(*range(10)))
    world.partner.delete()
    world.next_window()
    before = len(world.partner.requests)
    with pytest.raises(DeliveryStopped, match=r"it was deleted there.* makes it anew and sends whom it shall hold"):
        world.overwrite(changed)
    assert len(world.partner.requests) - before == 1

    world.next_window()
    receipt = world.overwrite(changed)

    assert world.partner.established == 2
    assert world.partner.members == changed
    assert (receipt.in_doubt, receipt.users) == (0, len(changed))
    world.next_window()
    assert world.overwrite(changed).planned == 0


def test_a_target_that_is_deleted_in_mid_delivery_is_found_by_the_next_one(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    before = len(world.partner.requests)
    world.partner.on_request = lambda number: world.partner.delete() if number == before + 3 else None
    with pytest.raises((DeliveryStopped, DeliveryRejected)):
        world.overwrite(users(*range(40)))
    world.partner.on_request = None
    world.next_window()
    with pytest.raises(DeliveryStopped, match="deleted there"):
        world.overwrite(users(*range(40)))
    world.next_window()
    world.overwrite(users(*range(40)))
    assert world.partner.members == users(*range(40))


def test_a_quiet_window_finds_it_by_what_it_reconciles(world: World) -> None:
    daily, audience = Terms(reconcile_within=timedelta(days=1)), users(*range(10))
    world.overwrite(audience, terms=daily)
    world.partner.delete()
    with clock.shifted(timedelta(hours=23)):
        world.next_window()
        with pytest.raises(DeliveryStopped, match="deleted there"):
            world.overwrite(audience, terms=daily)
        world.next_window()
        world.overwrite(audience, terms=daily)
        assert world.partner.members == audience


def test_it_is_found_where_only_a_row_is_tried_again_that_was_refused_before(world: World) -> None:
    world.partner.always = _refusing_the_last
    with pytest.raises(DeliveryRejected):
        world.overwrite(users(*range(10)))
    world.partner.always = None
    world.partner.delete()
    world.next_window()
    with pytest.raises(DeliveryStopped, match="deleted there"):
        world.overwrite(users(*range(10)))
    world.next_window()
    world.overwrite(users(*range(10)))
    assert world.partner.members == users(*range(10))


def test_whoever_gives_it_up_is_told_that_nobody_is_there(world: World) -> None:
    world.overwrite(users(1, 2, 3))
    world.partner.delete()
    with pytest.raises(DeliveryStopped, match=r"Nobody is in the target until the next run, .* whom it shall hold"):
        world.retire()
    assert world.retire().users == 0
    assert world.partner.members == set()


def test_a_pause_comes_before_the_question(world: World) -> None:
    world.overwrite(users(1, 2, 3))
    world.partner.delete()
    world.next_window()
    asked: list[int] = []
    world.partner.on_find = lambda: asked.append(1)
    world.partner.on_request = lambda _: pauses.pause(world.ledger, SYNC, who="ann", why="to see")
    world.partner.workers = 1
    with pytest.raises(SyncPaused):
        world.overwrite(users(1, 2, 3, *range(10, 40)))
    assert asked == []


def test_a_user_that_the_partner_does_not_know_is_not_taken_for_the_target(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.partner.always = _unknown_user
    for _ in range(2):
        world.next_window()
        with pytest.raises(DeliveryRejected, match="0 additions and 1 removals"):
            world.overwrite(users(*range(1, 10)))
    assert world.partner.established == 1
    assert world.partner.members == users(*range(10))


def test_whoever_dies_of_finding_it_missing_leaves_that_to_the_next(world: World) -> None:
    audience = users(*range(10))
    world.overwrite(audience)
    for point in range(1, 100):
        audience ^= users(11)
        world.next_window()
        payload, seq = world.seal(audience)
        world.partner.delete()
        found = 0
        try:
            world.deliver(payload, seq, fate=Fate(dies_at=point))
        except DeliveryStopped:
            break
        except Killed:
            found = 2
        with clock.shifted(timedelta(minutes=2)):  # past the lease of the dead one
            for _ in range(found):
                if world.partner.members != audience:
                    with suppress(DeliveryStopped):
                        world.next_window()
                        world.overwrite(audience)
        assert world.partner.members == audience
    assert 10 < point < 99


def _refusing_the_last(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    return Answer(rejected={row: "HTTP 400" for row, each in enumerate(ids) if each in users(9)}, requests=1)


def _unknown_user(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:  # noqa: ARG001
    raise PartnerRequestRejected(partner.wire, 404)


def export(world: World, audience: set[str], name: str) -> Receipt:
    world.window = one_time_window(name)
    return world.overwrite(audience)


def test_an_unchanged_export_makes_a_deleted_target_anew_and_fills_it(world: World) -> None:
    audience = users(*range(10))
    export(world, audience, "first")
    world.partner.delete()

    receipt = export(world, audience, "second")

    assert (receipt.state, world.partner.members, world.partner.established) == ("delivered", audience, 2)


def test_an_unchanged_export_asks_once_whether_the_target_is_there(world: World) -> None:
    asked: list[int] = []
    world.partner.on_find = lambda: asked.append(1)
    export(world, users(1, 2, 3), "first")
    sent = len(world.partner.requests)

    receipt = export(world, users(1, 2, 3), "second")

    assert (receipt.requests, len(asked), len(world.partner.requests)) == (1, 1, sent)


def test_an_export_that_cannot_ask_for_the_target_is_red(world: World) -> None:
    export(world, users(1, 2, 3), "first")
    world.partner.on_find = _raising(PartnerUnreachable("P", "rejected"))

    with pytest.raises(DeliveryStopped, match="could not be reached"):
        export(world, users(1, 2, 3), "second")


def test_a_restore_of_what_is_there_makes_a_deleted_target_anew_and_fills_it(world: World) -> None:
    audience, window = users(*range(10)), world.window.key
    world.overwrite(audience)
    world.partner.delete()
    world.next_window()

    receipt = world.restore(window)

    assert (receipt.state, world.partner.members, world.partner.established) == ("delivered", audience, 2)


def test_windows_without_changes_ask_for_the_target_once_a_day(world: World) -> None:
    asked: list[int] = []
    world.partner.on_find = lambda: asked.append(1)
    world.overwrite(users(1, 2, 3))
    for hours in range(6, 72, 6):
        with clock.shifted(timedelta(hours=hours)):
            world.next_window()
            world.overwrite(users(1, 2, 3))

    assert len(asked) == 2


def test_a_quiet_window_names_a_deleted_target_within_a_day(world: World) -> None:
    audience = users(*range(10))
    world.overwrite(audience)
    world.partner.delete()
    with clock.shifted(timedelta(hours=25)):
        world.next_window()
        with pytest.raises(DeliveryStopped, match="deleted there"):
            world.overwrite(audience)
        world.next_window()
        world.overwrite(audience)

    assert world.partner.members == audience


def test_a_partner_too_busy_to_tell_of_the_target_is_asked_again_by_the_next_window(world: World) -> None:
    audience = users(*range(10))
    world.overwrite(audience)
    world.partner.delete()
    with clock.shifted(timedelta(hours=25)):
        world.next_window()
        world.partner.on_find = _raising(PartnerRateLimited("P", "HTTP 429", 3_600.0))
        with pytest.raises(DeliveryDeferred):
            world.overwrite(audience)
        world.partner.on_find = lambda: None
        world.next_window()
        with pytest.raises(DeliveryStopped, match="deleted there"):
            world.overwrite(audience)
        world.next_window()
        world.overwrite(audience)

    assert world.partner.members == audience


def test_an_unchanged_audience_is_delivered_past_the_deadline_and_the_next_window_asks(world: World) -> None:
    asked: list[int] = []
    world.partner.on_find = lambda: asked.append(1)
    world.overwrite(users(1, 2, 3))
    with clock.shifted(timedelta(hours=25)):
        for late, asks in ((True, 0), (False, 1)):
            world.next_window()
            deadline = clock.now() - timedelta(seconds=1) if late else None
            assert world.overwrite(users(1, 2, 3), deadline=deadline).state == "delivered"
            assert len(asked) == asks


def test_a_partner_without_targets_that_can_go_missing_is_not_even_opened(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.partner.findable = False
    world.overwrite(users(1, 2, 3))
    monkeypatch.setattr(world.partner, "open", _raising(AssertionError("opened")))
    with clock.shifted(timedelta(hours=25)):
        world.next_window()
        assert world.overwrite(users(1, 2, 3)).state == "delivered"
    assert not Taplytics.findable


def _raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail

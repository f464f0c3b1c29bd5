"""Rows that were acknowledged although an earlier try of the same request may still land."""

from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.state import SETTLES_AFTER
from cohort_pipelines_tests.delivery.world import LAST_TRY, Fate, Killed, MemoryPartner, World, tried_twice, users

LATER = SETTLES_AFTER + timedelta(seconds=1)


def test_doubted_rows_are_in_but_in_doubt_until_they_are_sent_again_later(world: World) -> None:
    world.partner.faults[1] = tried_twice
    first = world.overwrite(users(1, 2))
    assert (first.state, first.acknowledged, first.requests) == (AttemptState.DELIVERED, 2, 3)
    assert first.in_doubt == 2

    world.next_window()
    soon = world.overwrite(users(1, 2))
    assert (soon.joiners, soon.unchanged, soon.planned, soon.in_doubt) == (0, 2, 2, 2)  # too soon to be sure

    world.next_window()
    with clock.shifted(LATER):
        settled = world.overwrite(users(1, 2))
        assert (settled.joiners, settled.planned, settled.in_doubt) == (0, 2, 0)
        world.next_window()
        assert world.overwrite(users(1, 2)).planned == 0


def test_a_doubt_in_the_second_window_starts_the_wait_anew(world: World) -> None:
    world.partner.faults = {1: tried_twice, 2: tried_twice}
    world.overwrite(users(1, 2))
    world.next_window()
    with clock.shifted(LATER):
        assert world.overwrite(users(1, 2)).in_doubt == 2


def test_who_leaves_stays_out_although_a_late_first_try_adds_them_again(world: World) -> None:
    world.partner.faults[1] = tried_twice
    world.overwrite(users(1, 2))
    world.next_window()
    assert world.overwrite(users(2)).in_doubt == 2  # the removal was acknowledged, but too soon to be the last word

    world.partner.land_late_requests()
    assert world.partner.members == users(1, 2)
    world.next_window()
    with clock.shifted(LATER):
        receipt = world.overwrite(users(2))
        assert (receipt.in_doubt, receipt.leavers) == (0, 0)
        assert world.partner.members == users(2)


def test_who_returns_stays_in_although_a_late_first_try_removes_them_again(world: World) -> None:
    world.overwrite(users(1, 2))
    world.next_window()
    world.partner.faults[2] = tried_twice
    world.overwrite(users(2))
    world.next_window()
    assert world.overwrite(users(1, 2)).in_doubt == 1

    world.partner.land_late_requests()
    assert world.partner.members == users(2)
    world.next_window()
    with clock.shifted(LATER):
        assert world.overwrite(users(1, 2)).in_doubt == 0
        assert world.partner.members == users(1, 2)


@pytest.mark.parametrize(("minutes", "settled"), [(15, False), (17, True)])
def test_a_writer_that_is_cut_off_may_try_for_minutes_more(world: World, minutes: int, settled: bool) -> None:
    fate = Fate()
    world.partner.on_request = lambda _: setattr(fate, "dead", True)
    with pytest.raises(Killed):
        world.overwrite(users(1), fate=fate)
    world.partner.on_request = None
    assert timedelta(minutes=15) < LAST_TRY + SETTLES_AFTER < timedelta(minutes=17)
    world.next_window()
    with clock.shifted(timedelta(minutes=minutes)):
        assert world.overwrite(users(2)).in_doubt == (0 if settled else 1)


def test_only_the_doubtful_rows_of_a_chunk_are_sent_again(world: World) -> None:
    def second_row_doubtful(partner: MemoryPartner, operation: Operation, ids: tuple[str, ...]) -> Answer:
        return Answer(doubtful=tried_twice(partner, operation, ids).doubtful & {1}, requests=4)

    world.partner.faults[1] = second_row_doubtful  # type: ignore[assignment]
    receipt = world.overwrite(users(1, 2, 3))
    assert (receipt.acknowledged, receipt.in_doubt) == (3, 1)

    world.next_window()
    world.overwrite(users(1, 2, 3))
    assert world.partner.sent_ids(Operation.ADD) == {"user-0001": 1, "user-0002": 2, "user-0003": 1}

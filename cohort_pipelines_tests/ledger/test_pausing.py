import pytest

from cohort_pipelines.core.errors import PartnerRateLimited, SyncPaused
from cohort_pipelines.ledger import pauses
from cohort_pipelines_tests.delivery.world import SYNC, World, users


def test_a_paused_sync_sends_nothing_and_says_by_whose_word(world: World) -> None:
    pauses.pause(world.ledger, SYNC, who="mia", why="an experiment is being read")
    with pytest.raises(SyncPaused, match="mia: an experiment is being read"):
        world.overwrite(users(1))
    assert world.partner.requests == []
    [window] = world.ledger.windows(SYNC)
    assert (window.state, "paused" in window.reason) == ("skipped", True)


def test_a_pause_ends_a_delivery_between_two_chunks_and_the_next_goes_on(world: World) -> None:
    def pause(number: int) -> None:
        if number == 3:
            pauses.pause(world.ledger, SYNC, who="mia", why="stop")

    world.partner.on_request = pause
    with pytest.raises(SyncPaused):
        world.overwrite(users(*range(60)))
    sent = len(world.partner.requests)
    assert 3 <= sent < 12  # of twenty; the other workers may have begun another each
    assert world.ledger.windows(SYNC)[0].state == "deferred"
    assert not world.ledger.is_delivering(SYNC)

    world.partner.on_request = None
    assert pauses.resume(world.ledger, SYNC)
    world.next_window()
    world.overwrite(users(*range(60)))
    assert world.partner.members == users(*range(60))
    assert world.partner.repeated(sent) == 0


def test_a_pause_knows_who_and_why_until_it_is_over(world: World) -> None:
    assert pauses.paused(world.ledger, SYNC) is None
    assert not pauses.resume(world.ledger, SYNC)
    pauses.pause(world.ledger, SYNC, who="mia", why="first")
    pauses.pause(world.ledger, SYNC, who="noa", why="second")
    found = pauses.paused(world.ledger, SYNC)
    assert found is not None
    assert (found.who, found.why) == ("noa", "second")
    assert pauses.resume(world.ledger, SYNC)
    assert pauses.paused(world.ledger, SYNC) is None


def test_a_pause_stops_a_restore_that_is_under_way_too(world: World) -> None:
    world.overwrite(users(*range(60)))
    first = world.window.key
    world.next_window()
    world.overwrite(users(*range(60, 120)))
    sent = len(world.partner.requests)

    def pause(number: int) -> None:
        if number == sent + 3:
            pauses.pause(world.ledger, SYNC, who="mia", why="stop")

    world.partner.on_request = pause
    with pytest.raises(SyncPaused):
        world.restore(first)
    assert len(world.partner.requests) - sent < 12  # of forty


@pytest.mark.slow
def test_no_target_is_made_for_a_sync_that_was_paused_meanwhile(world: World) -> None:
    def busy_and_paused() -> None:
        pauses.pause(world.ledger, SYNC, who="mia", why="stop")
        raise PartnerRateLimited(world.partner.wire, "HTTP 429")

    world.partner.on_establish = busy_and_paused
    with pytest.raises(SyncPaused):
        world.overwrite(users(1))
    assert world.partner.established == 1
    assert world.partner.requests == []

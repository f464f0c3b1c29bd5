"""F3: an answer is lost, and the request may land later: unknown, re-asserted, and exact once that has settled."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryStopped
from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.state import SETTLES_AFTER
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.faults.projects import without_waiting
from cohort_pipelines_tests.faults.wires import ALREADY_THERE, HTTP_WIRES, Wired, small_pages

LATER = SETTLES_AFTER + timedelta(seconds=1)
APPLY_DELAY = timedelta(minutes=5)
OLD, NEW = users(1, 2, 3, 4) | ALREADY_THERE, users(3, 4, 5)


@pytest.fixture(params=HTTP_WIRES)
def wired(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    """Return a target that is full of strangers."""
    without_waiting(monkeypatch)
    receiver = Behaviour(members="replace" if request.param == "replace_session" else "add")
    with in_thread(Settings(members=10, apptimize=receiver)) as standins, small_pages():
        wired = Wired(request.param, standins, tmp_path)
        wired.meet_strangers()
        yield wired


@pytest.fixture
def world(wired: Wired) -> World:
    """Return a world in its second window; OLD was delivered in the first."""
    with clock.shifted(-timedelta(hours=1)):
        world = World(wired.folder)
        world.overwrite(OLD, partner=wired.partner())
    world.next_window()
    return world


def test_f03_a_lost_answer_is_asked_for_again_until_it_has_settled(world: World, wired: Wired) -> None:
    wired.fault(kind="lost_response", times=1)
    receipt = world.overwrite(NEW, partner=wired.partner())
    assert receipt.state is AttemptState.DELIVERED
    assert receipt.in_doubt > 0
    assert wired.members == wired.with_strangers(NEW)

    world.next_window()
    wired.forget_sent()
    with clock.shifted(LATER):
        again = world.overwrite(NEW, partner=wired.partner())
        assert again.in_doubt == 0
        assert again.planned > 0
        assert wired.sent().total() == (len(NEW) if wired.kind == "replace_session" else again.planned)
        assert wired.members == wired.with_strangers(NEW)


def test_f03_a_request_that_is_silent_for_good_stops_and_is_sent_again(world: World, wired: Wired) -> None:
    wired.fault(kind="lost_response", times=None)
    with pytest.raises(DeliveryStopped):
        world.overwrite(NEW, partner=wired.partner())
    wired.mend()

    world.next_window()
    receipt = world.overwrite(OLD, partner=wired.partner())
    assert wired.members == wired.with_strangers(OLD)
    assert receipt.in_doubt > 0


@pytest.mark.parametrize("late", [1, None], ids=["the first try", "every try"])
def test_f03_what_lands_after_a_green_of_the_opposite_is_put_right(
    world: World, wired: Wired, late: int | None
) -> None:
    """What a first attempt sent last comes so late that it undoes what a second one did, which had said so."""
    wired.behave(late=late, late_after=0 if wired.kind == "replace_session" else len(NEW - OLD))
    try:
        first = world.overwrite(NEW, partner=wired.partner())
    except DeliveryStopped:
        assert late is None
    else:
        assert first.in_doubt > 0
    wired.behave(late=0)
    world.next_window()

    green = world.overwrite(OLD, partner=wired.partner())
    assert green.state is AttemptState.DELIVERED
    assert green.in_doubt > 0  # so that nobody takes it for final
    assert wired.members == wired.with_strangers(OLD)
    assert wired.land() >= 1
    assert wired.members != wired.with_strangers(OLD)

    world.next_window()
    with clock.shifted(LATER):
        settled = world.overwrite(OLD, partner=wired.partner())
    assert settled.in_doubt == 0
    assert wired.members == wired.with_strangers(OLD)


@pytest.mark.parametrize("reordered", [False, True], ids=["in order", "reordered"])
def test_f03_a_receiver_that_applies_later_is_only_accepted_and_never_overtaken(
    world: World, wired: Wired, reordered: bool
) -> None:
    wired.behave(asynchronous=True, reordered=reordered, seed=7)
    terms = Terms(apply_delay=APPLY_DELAY)
    first = world.overwrite(NEW, partner=wired.partner(), terms=terms)
    assert first.state is AttemptState.ACCEPTED
    assert wired.members == wired.with_strangers(OLD)
    world.next_window()

    payload, seq = world.seal(OLD)
    pending = wired.pending()
    soon = clock.now() + timedelta(seconds=1)  # there is time to send something
    with pytest.raises(DeliveryDeferred):  # reversed now, the two could change places on their way
        world.deliver(payload, seq, partner=wired.partner(), terms=terms, deadline=soon)
    assert wired.pending() == pending

    wired.land()
    assert wired.members == wired.with_strangers(NEW)
    with clock.shifted(APPLY_DELAY + timedelta(minutes=1)):
        assert world.deliver(payload, seq, partner=wired.partner(), terms=terms).state is AttemptState.ACCEPTED
        wired.land()
    assert wired.members == wired.with_strangers(OLD)

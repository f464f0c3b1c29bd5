"""F3: an answer is lost, and the request may land later: unknown, re-asserted, and exact once that has settled."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines import clock
from cohort_pipelines.delivery import AttemptState, Terms
from cohort_pipelines.delivery.belief import SETTLES_AFTER
from cohort_pipelines.errors import DeliveryStopped, DeliveryYielded
from cohort_pipelines.standins.behaviour import Behaviour
from cohort_pipelines.standins.server import InThread, in_thread
from cohort_pipelines.standins.settings import Settings
from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.faults.projects import without_waiting
from cohort_pipelines_tests.faults.wires import HTTP_WIRES, Wired, small_pages

LATER = SETTLES_AFTER + timedelta(seconds=1)
ALL_TRIES = 5
APPLIES_WITHIN = timedelta(minutes=5)
OLD, NEW = users(1, 2, 3, 4), users(3, 4, 5, 6)


@pytest.fixture(params=HTTP_WIRES)
def wired(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    """Return a target that holds OLD, which was delivered to it."""
    without_waiting(monkeypatch)
    receiver = Behaviour(members="replace" if request.param == "replace_session" else "add")
    with in_thread(Settings(members=10, apptimize=receiver)) as standins, small_pages():
        yield Wired(request.param, standins, tmp_path)


@pytest.fixture
def world(wired: Wired) -> World:
    world = World(wired.folder)
    world.overwrite(OLD, partner=wired.partner())
    world.next_window()
    return world


def test_f03_a_lost_answer_is_asked_for_again_until_it_has_settled(world: World, wired: Wired) -> None:
    wired.fault(kind="lost_response", times=1)
    receipt = world.overwrite(NEW, partner=wired.partner())
    assert receipt.state is AttemptState.DELIVERED
    assert receipt.unsettled > 0
    assert wired.members == NEW

    world.next_window()
    wired.forget_sent()
    with clock.shifted(LATER):
        again = world.overwrite(NEW, partner=wired.partner())
        assert again.unsettled == 0
        assert 0 < again.planned == wired.sent().total()
        assert wired.members == NEW


def test_f03_a_request_that_is_silent_for_good_stops_and_is_sent_again(world: World, wired: Wired) -> None:
    wired.fault(kind="lost_response", times=ALL_TRIES)
    with pytest.raises(DeliveryStopped):
        world.overwrite(NEW, partner=wired.partner())
    wired.mend()

    world.next_window()
    receipt = world.overwrite(OLD, partner=wired.partner())
    assert wired.members == OLD
    assert receipt.unsettled > 0


@pytest.mark.parametrize("tries", [1, ALL_TRIES], ids=["the first try", "every try"])
def test_f03_what_lands_after_a_green_of_the_opposite_is_put_right(world: World, wired: Wired, tries: int) -> None:
    """The removals of a first attempt come so late that they undo what a second one added, which had said so."""
    late_after = {"flags": len(NEW - OLD), "messages": len(NEW - OLD), "replace_session": 0}[wired.kind]
    wired.behave(late=tries, late_after=late_after)
    try:
        first = world.overwrite(NEW, partner=wired.partner())
    except DeliveryStopped:
        first = None
    assert first is None if tries == ALL_TRIES else first is not None
    assert wired.pending() == tries
    world.next_window()

    green = world.overwrite(OLD, partner=wired.partner())
    assert green.state is AttemptState.DELIVERED
    assert green.unsettled > 0  # so that nobody takes it for final
    assert wired.members == OLD
    assert wired.land() == tries
    if wired.kind != "replace_session" or tries == 1:
        assert wired.members != OLD

    world.next_window()
    with clock.shifted(LATER):
        settled = world.overwrite(OLD, partner=wired.partner())
    assert settled.unsettled == 0
    assert wired.members == OLD


@pytest.mark.parametrize("reordered", [False, True], ids=["in order", "reordered"])
def test_f03_a_receiver_that_applies_later_is_only_accepted_and_never_overtaken(
    world: World, wired: Wired, reordered: bool
) -> None:
    wired.behave(asynchronous=True, reordered=reordered, seed=7)
    terms = Terms(applies_within=APPLIES_WITHIN)
    first = world.overwrite(NEW, partner=wired.partner(), terms=terms)
    assert first.state is AttemptState.ACCEPTED
    assert wired.members == OLD
    world.next_window()

    payload, seq = world.seal(OLD)
    pending = wired.pending()
    with pytest.raises(DeliveryYielded):  # reversed now, the two could change places on their way
        world.deliver(payload, seq, partner=wired.partner(), terms=terms, deadline=clock.now())
    assert wired.pending() == pending

    wired.land()
    assert wired.members == NEW
    with clock.shifted(APPLIES_WITHIN + timedelta(minutes=1)):
        assert world.deliver(payload, seq, partner=wired.partner(), terms=terms).state is AttemptState.ACCEPTED
        wired.land()
    assert wired.members == OLD

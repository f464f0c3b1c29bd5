"""Deliveries to a receiver that replaces its group once a whole session of pages has come."""

from collections.abc import Iterator
from contextlib import ExitStack, suppress
from copy import copy
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryError, DeliveryStopped, SyncPaused
from cohort_pipelines.core.windows import one_time_window
from cohort_pipelines.destinations.apptimize import apptimize_http
from cohort_pipelines.destinations.exchange import BackingOff
from cohort_pipelines.destinations.replacing import ReplacingMessages
from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.ledger.pauses import pause, resume
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines_tests.delivery.world import SYNC, World, users
from cohort_pipelines_tests.event_loops import free_of_the_ledger

SETTLED = timedelta(minutes=11)
A_DAY_LATER = timedelta(hours=25)
A_WHILE = timedelta(seconds=30)


@pytest.fixture(scope="module")
def services() -> Iterator[InThread]:
    with in_thread(Settings(members=10, apptimize=Behaviour(members="replace"))) as running:
        yield running


@pytest.fixture
def standins(services: InThread) -> InThread:
    services.standins.apptimize.groups.clear()
    services.standins.apptimize.messages.clear()
    services.standins.apptimize_faults.clear()
    return services


@pytest.fixture(autouse=True)
def _short_naps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cohort_pipelines.destinations.replacing._NAP_SECONDS", 0.1)


@pytest.fixture
def receiver(standins: InThread) -> ReplacingMessages:
    wire = apptimize_http(url=standins.apptimize_url, token=standins.credentials.apptimize_token, region="eu")
    return ReplacingMessages(wire)


@pytest.fixture
def _a_while_passes_with_each_429(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    rate_limited = BackingOff.rate_limited
    with ExitStack() as passed:

        def wait(backing_off: BackingOff, seconds: float) -> float:
            passed.enter_context(clock.shifted(A_WHILE))
            return rate_limited(backing_off, seconds)

        monkeypatch.setattr(BackingOff, "rate_limited", wait)
        yield


def group(standins: InThread) -> set[str]:
    return standins.standins.apptimize.groups["Beta"].ids


def pages(standins: InThread) -> int:
    return len(standins.standins.apptimize.messages)


def test_each_change_sends_the_whole_audience_and_no_change_sends_nothing(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    first = world.overwrite(users(*range(2_500)), partner=receiver)
    assert (first.state, first.requests, first.acknowledged) == (AttemptState.DELIVERED, 3, 2_500)

    world.next_window()
    second = world.overwrite(users(*range(100, 2_600)), partner=receiver)
    assert (second.joiners, second.leavers, second.unchanged, second.requests) == (100, 100, 2_400, 3)
    assert group(standins) == users(*range(100, 2_600))

    world.next_window()
    assert world.overwrite(users(*range(100, 2_600)), partner=receiver).requests == 0
    assert pages(standins) == 6


def test_an_unchanged_export_sends_a_deleted_group_everybody(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    audience = users(*range(1_500))
    for name, requests in (("first", 2), ("second", 1)):
        world.window = one_time_window(name)
        assert world.overwrite(audience, partner=receiver).requests == requests
    standins.standins.apptimize.groups.clear()

    world.window = one_time_window("third")
    world.overwrite(audience, partner=receiver)

    assert group(standins) == audience


@pytest.mark.usefixtures("_a_while_passes_with_each_429")
@pytest.mark.parametrize(
    "fault",
    [
        Fault(kind="status", status=429, headers={"Retry-After": "3600"}, after=1, times=None),
        Fault(kind="status", status=401, after=2, times=None),
    ],
)
def test_a_deleted_group_of_which_a_window_could_send_a_part_is_filled_by_the_next(
    world: World, receiver: ReplacingMessages, standins: InThread, fault: Fault
) -> None:
    audience = users(*range(2_500))
    world.overwrite(audience, partner=receiver)
    standins.standins.apptimize.groups.clear()
    with clock.shifted(A_DAY_LATER):
        standins.standins.apptimize_faults.add(copy(fault))
        for _ in range(2):
            world.next_window()
            with suppress(DeliveryError):
                world.overwrite(audience, partner=receiver, deadline=clock.now() + A_WHILE)
        standins.standins.apptimize_faults.clear()

        world.next_window()
        world.overwrite(audience, partner=receiver)

    assert group(standins) == audience


def test_a_window_names_a_deleted_group_within_a_day_and_sends_it_nothing(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    world.overwrite(users(1, 2, 3), partner=receiver)
    standins.standins.apptimize.groups.clear()
    with clock.shifted(A_DAY_LATER):
        world.next_window()
        with pytest.raises(DeliveryStopped, match="deleted there"):
            world.overwrite(users(1, 2, 3), partner=receiver)
    assert standins.standins.apptimize.groups == {}


@pytest.mark.usefixtures("_a_while_passes_with_each_429")
def test_a_receiver_too_busy_to_tell_of_the_group_is_asked_again_by_the_next_window(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    world.overwrite(users(1, 2, 3), partner=receiver)
    with clock.shifted(A_DAY_LATER):
        world.next_window()
        standins.standins.apptimize_faults.add(Fault(kind="status", status=429, headers={"Retry-After": "40"}))
        with pytest.raises(DeliveryDeferred):
            world.overwrite(users(1, 2, 3), partner=receiver, deadline=clock.now() + A_WHILE)

        world.next_window()
        assert world.overwrite(users(1, 2, 3), partner=receiver).requests == 1
        world.next_window()
        assert world.overwrite(users(1, 2, 3), partner=receiver).requests == 0


def test_a_pause_ends_the_wait_for_a_receiver_too_busy_to_tell_of_the_group(
    world: World, receiver: ReplacingMessages, standins: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.overwrite(users(1, 2, 3), partner=receiver)
    with clock.shifted(A_DAY_LATER):
        world.next_window()
        standins.standins.apptimize_faults.add(Fault(kind="status", status=429, headers={"Retry-After": "3600"}))

        rate_limited = BackingOff.rate_limited

        def pausing(backing_off: BackingOff, seconds: float) -> float:
            pause(world.ledger, SYNC, who="ann", why="a campaign")
            return rate_limited(backing_off, seconds)

        monkeypatch.setattr(BackingOff, "rate_limited", pausing)
        with pytest.raises(SyncPaused, match="a campaign"):
            world.overwrite(users(1, 2, 3), partner=receiver)


def test_a_session_never_waits_for_the_ledger_in_its_event_loop(world: World, receiver: ReplacingMessages) -> None:
    with free_of_the_ledger() as blocking:
        assert world.overwrite(users(*range(1_500)), partner=receiver).acknowledged == 1_500
    assert blocking == []


def test_an_empty_audience_empties_the_group_and_makes_it_where_there_is_none(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    assert world.overwrite([], partner=receiver).requests == 1
    world.next_window()
    assert world.overwrite([], partner=receiver).requests == 0
    for audience in (users(1, 2), users()):
        world.next_window()
        world.overwrite(audience, partner=receiver)
        assert group(standins) == audience


def test_what_the_group_held_before_is_replaced(world: World, receiver: ReplacingMessages, standins: InThread) -> None:
    standins.standins.apptimize.edit("Beta", ["somebody", "user-0001"], [])

    world.overwrite(users(1, 2), partner=receiver)

    assert group(standins) == users(1, 2)


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 1, 2])
def test_after_a_page_that_was_lost_the_whole_session_is_sent_anew(
    world: World, receiver: ReplacingMessages, standins: InThread, after: int
) -> None:
    world.overwrite(users(*range(2_500)), partner=receiver)
    world.next_window()
    standins.standins.apptimize_faults.add(Fault(kind="status", status=401, after=after))
    with pytest.raises(DeliveryStopped, match="refused the key"):
        world.overwrite(users(*range(50, 2_550)), partner=receiver)
    assert group(standins) == users(*range(2_500))

    world.next_window()
    receipt = world.overwrite(users(*range(50, 2_550)), partner=receiver)
    assert (receipt.state, receipt.requests) == (AttemptState.DELIVERED, 3)
    assert group(standins) == users(*range(50, 2_550))


def test_a_refused_first_page_changes_no_membership(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    world.overwrite(users(1, 2), partner=receiver)
    world.next_window()
    standins.standins.apptimize_faults.add(Fault(kind="status", status=400))
    with pytest.raises(DeliveryStopped, match="refused the request"):
        world.overwrite(users(2, 3), partner=receiver)
    assert world.overwrite(users(1, 2), partner=receiver).requests == 0


def test_a_page_that_was_tried_twice_leaves_everybody_in_doubt_until_it_is_sent_again(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    standins.standins.apptimize_faults.add(Fault(kind="lost_response"))
    assert world.overwrite(users(1, 2, 3), partner=receiver).in_doubt == 3

    with clock.shifted(SETTLED):
        world.next_window()
        receipt = world.overwrite(users(1, 2, 3), partner=receiver)
        assert (receipt.in_doubt, receipt.requests) == (0, 1)
        world.next_window()
        assert world.overwrite(users(1, 2, 3), partner=receiver).requests == 0


def test_at_the_deadline_it_is_deferred_and_the_next_window_sends_everything(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    standins.standins.apptimize_faults.add(
        Fault(kind="status", status=429, headers={"Retry-After": "3600"}, after=1, times=None)
    )
    with pytest.raises(DeliveryDeferred):
        world.overwrite(users(*range(1_500)), partner=receiver, deadline=clock.now() + timedelta(seconds=0.5))

    standins.standins.apptimize_faults.clear()
    world.next_window()
    assert world.overwrite(users(*range(1_500)), partner=receiver).requests == 2
    assert group(standins) == users(*range(1_500))


def test_a_page_without_an_answer_at_the_deadline_is_deferred_as_any_delivery_does(
    world: World, receiver: ReplacingMessages, standins: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    standins.standins.apptimize_faults.add(Fault(kind="delay", seconds=20.0, after=1, times=None))
    monkeypatch.setattr("cohort_pipelines.delivery.publishing.GRACE", timedelta(0))
    with pytest.raises(DeliveryDeferred):
        world.overwrite(users(*range(1_500)), partner=receiver, deadline=clock.now() + timedelta(seconds=1))
    assert world.ledger.windows(SYNC)[0].state == "deferred"


def test_a_pause_ends_it_between_two_pages(world: World, receiver: ReplacingMessages, standins: InThread) -> None:
    world.overwrite(users(*range(10)), partner=receiver)
    world.next_window()
    payload, seq = world.seal(users(*range(2_500)))

    taken, messages = standins.standins.apptimize.take, []

    def pausing(message: object, **options: bool) -> None:
        taken(message, **options)  # type: ignore[arg-type]
        messages.append(message)
        pause(world.ledger, SYNC, who="ann", why="a campaign")

    standins.standins.apptimize.take = pausing  # type: ignore[method-assign]
    try:
        with pytest.raises(SyncPaused, match="a campaign"):
            world.deliver(payload, seq, partner=receiver)
    finally:
        standins.standins.apptimize.take = taken  # type: ignore[method-assign]
    assert len(messages) == 1
    assert group(standins) == users(*range(10))

    resume(world.ledger, SYNC)
    world.deliver(payload, seq, partner=receiver)
    assert group(standins) == users(*range(2_500))


def test_a_receiver_that_only_adds_is_known_by_what_it_held(
    world: World, receiver: ReplacingMessages, standins: InThread
) -> None:
    """What is known outlives a change of `members`, since it is the same target."""
    world.overwrite(users(1, 2, 3), partner=receiver)
    world.next_window()
    adding = apptimize_http(url=standins.apptimize_url, token=standins.credentials.apptimize_token, region="eu")
    receipt = world.overwrite(users(2, 3, 4), partner=adding)
    assert (receipt.joiners, receipt.leavers, receipt.requests) == (1, 1, 2)
    assert group(standins) == users(2, 3, 4)

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliverySuperseded, LeaseLost, TargetBusy
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.destinations import exchange
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, MemoryPartner, World, users


class Held:
    """Holds the event loop of a delivery at one of its requests until it is let go."""

    def __init__(self, at: int) -> None:
        self._at = at
        self.reached = threading.Event()
        self.approved = threading.Event()

    def __call__(self, number: int) -> None:
        if number == self._at:
            self.reached.set()
            assert self.approved.wait(30)


def test_two_runs_at_once_take_turns(world: World) -> None:
    held = Held(at=2)
    world.partner.on_request = held
    other = MemoryPartner(members=world.partner.members)
    payload, seq = world.seal(users(*range(9)))
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(world.deliver, payload, seq, run_id="first")
        assert held.reached.wait(30)
        assert world.ledger.is_delivering(SYNC)
        second = threads.submit(world.deliver, payload, seq, run_id="second", partner=other)
        with pytest.raises(TimeoutError):
            second.result(0.5)
        held.approved.set()
        receipts: list[Receipt] = [first.result(30), second.result(30)]

    assert [receipt.requests for receipt in receipts] == [4, 0]
    assert other.requests == []
    assert not world.ledger.is_delivering(SYNC)


@pytest.mark.slow
def test_a_lease_that_is_kept_alive_is_not_taken(world: World) -> None:
    held = Held(at=2)
    world.partner.on_request = held
    payload, seq = world.seal(users(*range(9)))
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(world.deliver, payload, seq, lease_seconds=0.6)
        assert held.reached.wait(30)
        with pytest.raises(TargetBusy, match="Another run is writing"):
            world.deliver(payload, seq, lease_seconds=0.6)
        held.approved.set()
        assert first.result(30).requests == 4


def test_an_older_snapshot_does_not_wait_for_the_lease(world: World) -> None:
    older, older_seq = world.seal(users(1))
    payload, seq = world.seal(users(2))
    held = Held(at=1)
    world.partner.on_request = held
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(world.deliver, payload, seq)
        assert held.reached.wait(30)
        with pytest.raises(DeliverySuperseded):
            world.deliver(older, older_seq)
        held.approved.set()
        first.result(30)


def test_a_paused_writer_that_wakes_after_a_takeover_starts_no_further_chunk(world: World) -> None:
    held = Held(at=3)  # the first chunk goes alone, then one for each worker
    slow = MemoryPartner(members=world.partner.members, on_request=held)
    payload, seq = world.seal(users(*range(30)))
    with ThreadPoolExecutor(1) as threads:
        paused = threads.submit(world.deliver, payload, seq, partner=slow)
        assert held.reached.wait(30)
        world.next_window()
        with clock.shifted(timedelta(minutes=2)):
            taken_over = world.overwrite(users(*range(20, 40)))
        held.approved.set()
        with pytest.raises(LeaseLost):
            paused.result(30)

    assert len(slow.requests) == 3  # what it had under way, and nothing more
    assert taken_over.in_doubt == 6
    with clock.shifted(timedelta(minutes=20)):
        world.next_window()
        receipt = world.overwrite(users(*range(20, 40)))
    assert world.partner.members == users(*range(20, 40))
    assert receipt.in_doubt == 0


def test_a_request_that_waited_for_its_turn_is_not_made_after_a_takeover(world: World) -> None:
    """As a message that waits until another one has been answered, for longer than the lease lasts."""
    asked: list[int] = []
    slow = MemoryPartner(members=world.partner.members)

    def stopped(number: int) -> None:
        asked.append(number)
        with clock.shifted(timedelta(minutes=2)):
            world.next_window()
            world.overwrite(users(*range(20, 40)))
            only_in_time()  # what the exchange with a partner asks before each request

    slow.on_request = stopped
    payload, seq = world.seal(users(*range(30)))
    with pytest.raises(LeaseLost):
        world.deliver(payload, seq, partner=slow)
    assert asked == [1]
    assert world.partner.members == users(*range(20, 40))


@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=400)])
def test_a_lease_that_a_clock_ahead_has_taken_blocks_nobody(world: World, ahead: timedelta) -> None:
    world.overwrite(users(1))
    world.next_window()
    with clock.shifted(ahead), pytest.raises(Killed):
        world.overwrite(users(2), fate=Fate(dies_at=8))
    assert not world.ledger.is_delivering(SYNC)
    world.next_window()
    world.overwrite(users(3), deadline=clock.now() + timedelta(seconds=10))
    assert world.partner.members >= users(3)


def test_a_lease_that_only_seems_to_have_run_out_is_renewed(world: World) -> None:
    world.partner.on_request = lambda _: only_in_time()
    with clock.shifted(timedelta(hours=1)):
        receipt = world.overwrite(users(*range(9)))
    assert receipt.acknowledged == 9


def test_an_expired_lease_is_noticed_though_the_clock_of_the_host_was_set_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = MemoryPartner(members=world.partner.members)
    refused: list[LeaseLost] = []

    def stopped(_number: int) -> None:
        with clock.shifted(timedelta(minutes=2)):
            world.next_window()
            world.overwrite(users(*range(20, 40)))
            host = clock.now
            monkeypatch.setattr(clock, "now", lambda: host() - timedelta(hours=1))
            with pytest.raises(LeaseLost) as lost:
                only_in_time()
            refused.append(lost.value)
            raise lost.value

    slow.on_request = stopped
    payload, seq = world.seal(users(*range(30)))
    with pytest.raises(LeaseLost):
        world.deliver(payload, seq, partner=slow)
    assert len(refused) == 1  # before the request, and not by what is recorded after it
    assert world.partner.members == users(*range(20, 40))


def only_in_time() -> None:
    """Ask what the exchange with a partner asks, from a callback of its event loop."""
    with ThreadPoolExecutor(1) as another:
        another.submit(asyncio.run, exchange._permission.get()()).result()  # type: ignore[arg-type]


def test_the_lease_of_a_dead_writer_runs_out(world: World) -> None:
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=Fate(dies_at=8), lease_seconds=1.0)
    assert world.ledger.is_delivering(SYNC)
    world.deliver(payload, seq, lease_seconds=1.0)  # waits for it
    assert world.partner.members == users(1, 2)

"""F28: a request of a dead or stopped writer lands after a green of the opposite: unsettled until sent again later."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from cohort_pipelines import clock
from cohort_pipelines.delivery import AttemptState
from cohort_pipelines.delivery.belief import SETTLES_AFTER
from cohort_pipelines.errors import LeaseLost
from cohort_pipelines.http import AsyncClient, Response, send
from cohort_pipelines.partners import exchange
from cohort_pipelines.standins.server import in_thread
from cohort_pipelines.standins.settings import Settings
from cohort_pipelines_tests.delivery.world import LAST_TRY, World, users
from cohort_pipelines_tests.faults.mortal import dies
from cohort_pipelines_tests.faults.projects import without_waiting
from cohort_pipelines_tests.faults.wires import Wired

LEASE_IS_OVER = timedelta(minutes=2)
LATER = LAST_TRY + SETTLES_AFTER + timedelta(seconds=1)
OLD, NEW = users(1, 2, 3), users(3, 4)


@pytest.fixture(params=["flags", "messages"])
def wired(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    without_waiting(monkeypatch)
    with in_thread(Settings(members=10)) as standins:
        yield Wired(request.param, standins, tmp_path)


@pytest.fixture
def world(wired: Wired) -> World:
    world = World(wired.folder)
    world.overwrite(OLD, partner=wired.partner())
    world.next_window()
    return world


def exact_in_the_end(world: World, wired: Wired) -> None:
    """Deliver OLD as late as it takes for everything to have settled, and once more, which then sends nothing."""
    world.next_window()
    with clock.shifted(LATER):
        receipt = world.overwrite(OLD, partner=wired.partner())
        assert receipt.unsettled == 0
        assert wired.members == OLD
        world.next_window()
        assert world.overwrite(OLD, partner=wired.partner()).requests == 0


def test_f28_a_dead_writers_requests_land_after_a_green_of_the_opposite(world: World, wired: Wired) -> None:
    """Wherever it died: all of its requests are on their way when it does, and come when nobody expects them."""
    point, landed, undone = 0, 0, 0
    alive = True
    while alive:
        point += 1
        wired.behave(late=None)
        alive = dies(world, NEW, point, partner=wired.partner())
        survivor = World(wired.folder)
        survivor.window = world.window
        wired.behave(late=0)
        world = survivor
        world.next_window()
        with clock.shifted(LEASE_IS_OVER):
            green = world.overwrite(OLD, partner=wired.partner())
        assert green.state is AttemptState.DELIVERED, point
        assert wired.members == OLD, point
        late = wired.land()
        assert green.unsettled > 0 or not late, point
        landed, undone = landed + late, undone + (wired.members != OLD)
        exact_in_the_end(world, wired)
        if undone > 2:
            break
    assert undone > 1  # the late requests did their harm


def test_f28_a_writer_that_was_stopped_in_a_request_sends_it_after_a_green_of_the_opposite(
    world: World, wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, released = threading.Event(), threading.Event()
    stopped: list[int] = []

    async def send_when_released(http: AsyncClient, request: httpx.Request, *, seconds: float) -> Response:
        if threading.get_ident() == stopped[0]:
            reached.set()
            assert released.wait(60)
        return await send(http, request, seconds=seconds)

    async def note_the_first(http: AsyncClient, request: httpx.Request, *, seconds: float) -> Response:
        if not stopped:
            stopped.append(threading.get_ident())
        return await send_when_released(http, request, seconds=seconds)

    monkeypatch.setattr(exchange, "send", note_the_first)
    payload, seq = world.seal(NEW)
    with ThreadPoolExecutor(1) as threads:
        sleeper = threads.submit(world.deliver, payload, seq, partner=wired.partner())
        assert reached.wait(60)
        world.next_window()
        with clock.shifted(LEASE_IS_OVER):
            green = world.overwrite(OLD, partner=wired.partner())
        assert (green.state, wired.members) == (AttemptState.DELIVERED, OLD)
        assert green.unsettled > 0
        released.set()
        with pytest.raises(LeaseLost):
            sleeper.result(60)
    assert wired.members != OLD
    assert wired.members <= OLD | NEW

    exact_in_the_end(world, wired)

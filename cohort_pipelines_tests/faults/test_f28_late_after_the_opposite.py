"""F28: a request of a dead or stopped writer lands after a green of the opposite: in doubt until sent again later."""

import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryStopped, LeaseLost
from cohort_pipelines.core.http import AsyncClient, Response, send
from cohort_pipelines.destinations import exchange
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.membership.state import SETTLES_AFTER
from cohort_pipelines_tests.delivery.world import IN_MEMORY, LAST_TRY, World, one_duckdb, users
from cohort_pipelines_tests.faults.mortal import dies
from cohort_pipelines_tests.faults.projects import without_waiting
from cohort_pipelines_tests.faults.wires import Wired

LEASE_IS_OVER = timedelta(minutes=2)
LATER = LAST_TRY + SETTLES_AFTER + timedelta(seconds=1)
OLD, NEW = users(1, 2, 3), users(3, 4)
LEAST_POINTS, LEAST_HARM = 30, 10


@pytest.fixture(autouse=True)
def _one_duckdb() -> Iterator[None]:
    with one_duckdb():
        yield


@pytest.fixture(params=["flags", "messages"])
def wired(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wired]:
    without_waiting(monkeypatch)
    with (
        tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as folder,
        in_thread(Settings(members=10)) as standins,
    ):
        yield Wired(request.param, standins, Path(folder))


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
        assert receipt.in_doubt == 0
        assert wired.members == OLD
        world.next_window()
        assert world.overwrite(OLD, partner=wired.partner()).requests == 0


def dies_unheard(world: World, wired: Wired, at: int, answers: int) -> bool:
    """Deliver NEW with so many answers and no more, and die at that point; return False where it gives up before."""
    wired.behave(late=None, late_after=answers)
    try:
        return dies(world, NEW, at, partner=wired.partner())
    except DeliveryStopped:
        return False
    finally:
        wired.behave(late=0)


@pytest.mark.parametrize(("answers", "harm"), [(0, users(4)), (1, users(1, 2))], ids=["additions", "removals"])
def test_f28_a_dead_writers_requests_land_after_a_green_of_the_opposite(
    world: World, wired: Wired, answers: int, harm: set[str]
) -> None:
    """Wherever it died: all of its requests are on their way when it does, and come when nobody expects them."""
    point, harmed = 0, 0
    dead = True
    while dead:
        point += 1
        dead = dies_unheard(world, wired, point, answers)
        survivor = World(wired.folder)
        survivor.window = world.window
        world = survivor
        world.next_window()
        with clock.shifted(LEASE_IS_OVER):
            green = world.overwrite(OLD, partner=wired.partner())
        assert green.state is AttemptState.DELIVERED, point
        assert wired.members == OLD, point
        late = wired.land()
        assert green.in_doubt > 0 or not late, point
        harmed += wired.members != OLD
        assert wired.members ^ OLD <= harm, point
        if green.in_doubt:  # else it died before anything was under way, and is where it was
            exact_in_the_end(world, wired)
    assert point > LEAST_POINTS
    assert harmed > LEAST_HARM


def test_f28_a_writer_that_was_stopped_in_a_request_sends_it_after_a_green_of_the_opposite(
    world: World, wired: Wired, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached, approved = threading.Event(), threading.Event()
    stopped: list[int] = []

    async def send_when_released(
        http: AsyncClient, request: httpx.Request, *, seconds: float, max_bytes: int
    ) -> Response:
        if threading.get_ident() == stopped[0]:
            reached.set()
            assert approved.wait(60)
        return await send(http, request, seconds=seconds, max_bytes=max_bytes)

    async def note_the_first(http: AsyncClient, request: httpx.Request, *, seconds: float, max_bytes: int) -> Response:
        if not stopped:
            stopped.append(threading.get_ident())
        return await send_when_released(http, request, seconds=seconds, max_bytes=max_bytes)

    monkeypatch.setattr(exchange, "send", note_the_first)
    payload, seq = world.seal(NEW)
    with ThreadPoolExecutor(1) as threads:
        sleeper = threads.submit(world.deliver, payload, seq, partner=wired.partner())
        assert reached.wait(60)
        world.next_window()
        with clock.shifted(LEASE_IS_OVER):
            green = world.overwrite(OLD, partner=wired.partner())
        assert (green.state, wired.members) == (AttemptState.DELIVERED, OLD)
        assert green.in_doubt > 0
        approved.set()
        with pytest.raises(LeaseLost):
            sleeper.result(60)
    assert wired.members != OLD
    assert wired.members <= OLD | NEW

    exact_in_the_end(world, wired)

"""F27: who leaves in an attempt that dies, and is back in the next window, is in the target after the next green."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.faults.mortal import dies
from cohort_pipelines_tests.faults.wires import Wired

LEASE_IS_OVER = timedelta(minutes=2)
EVERYBODY, WITHOUT_ONE = users(1, 2, 3), users(2, 3)


@pytest.fixture(params=["flags", "messages"])
def wired(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wired]:
    with in_thread(Settings(members=10)) as standins:
        yield Wired(request.param, standins, tmp_path)


def test_f27_who_left_in_an_attempt_that_died_and_is_back_is_a_member_again(wired: Wired) -> None:
    """One world lives through all of it: in each round the attempt dies a point later."""
    world = World(wired.folder)
    world.overwrite(EVERYBODY, partner=wired.partner())
    point, missing, alive = 0, 0, True
    while alive:
        point += 1
        world.next_window()
        alive = dies(world, WITHOUT_ONE, point, partner=wired.partner())
        missing += wired.members == WITHOUT_ONE
        survivor = World(wired.folder)
        survivor.window = world.window
        world = survivor
        world.next_window()
        with clock.shifted(LEASE_IS_OVER):
            world.overwrite(EVERYBODY, partner=wired.partner())
        assert wired.members == EVERYBODY, point
    assert missing > 5  # the removal was there, and nothing of ours said that it was

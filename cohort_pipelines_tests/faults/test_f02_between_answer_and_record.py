"""F2: killed between the partner's 200 and our own record of it: what took effect is taken for possible, and asserted.

The same by SIGKILL is part of the sweep of F1.
"""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.destinations.wire import ChangeWire
from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.delivery.world import Fate, World, users
from cohort_pipelines_tests.faults.mortal import dies
from cohort_pipelines_tests.faults.wires import HTTP_WIRES, Wired, small_pages

LEASE_IS_OVER = timedelta(minutes=2)
OLD, NEW = users(*range(8)), users(*range(4, 14))
ANSWERS = {"flags": (1, 7), "messages": (1, 7), "replace_session": (1, 4)}
"""The first answer of a delivery, and the one by which the first removal has taken effect."""


class AfterTheAnswer(Fate):
    """Lets a process die once so many answers have come, and nothing of the last is recorded."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._left = number

    def answered(self) -> None:
        self._left -= 1
        self.dead = self.dead or self._left == 0
        super().answered()


@pytest.fixture(params=HTTP_WIRES)
def wired(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wired]:
    members = Behaviour(members="replace" if request.param == "replace_session" else "add")
    with in_thread(Settings(members=10, apptimize=members)) as standins, small_pages():
        yield Wired(request.param, standins, tmp_path)


@pytest.mark.parametrize("wanted", [NEW, OLD], ids=["again", "back"])
@pytest.mark.parametrize("which", [0, 1], ids=["addition", "removal"])
def test_f02_killed_after_the_answer_and_before_the_record(wired: Wired, which: int, wanted: set[str]) -> None:
    world = World(wired.folder)
    world.overwrite(OLD, partner=wired.partner())
    world.next_window()
    wired.forget_sent()
    assert dies(world, NEW, AfterTheAnswer(ANSWERS[wired.kind][which]), partner=wired.partner())
    killed, sent = wired.members, wired.sent()
    if wired.kind == "replace_session":
        assert killed == (OLD, NEW)[which]  # its last page counts for all
    else:
        assert killed not in (OLD, NEW)
        assert (killed >= OLD) != bool(which)

    survivor = World(wired.folder)
    survivor.window = world.window
    survivor.next_window()
    wired.forget_sent()
    with clock.shifted(LEASE_IS_OVER):
        receipt = survivor.overwrite(wanted, partner=wired.partner())

    assert wired.members == wanted
    assert receipt.in_doubt > 0  # the dead writer's request may still be on its way
    if wanted == NEW and isinstance(partner := wired.partner(), ChangeWire):
        assert 1 <= (sent & wired.sent()).total() <= partner.workers * partner.chunk_rows

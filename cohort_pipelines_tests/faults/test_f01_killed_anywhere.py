"""F1: killed before and after any request and any durable write, the next green is exact and sends what was left."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines import clock
from cohort_pipelines.partners.wire import ChangeWire
from cohort_pipelines.standins.behaviour import Behaviour
from cohort_pipelines.standins.server import InThread, in_thread
from cohort_pipelines.standins.settings import Settings
from cohort_pipelines_tests.delivery.world import IN_MEMORY, World, one_duckdb, users
from cohort_pipelines_tests.faults.mortal import dies
from cohort_pipelines_tests.faults.wires import WIRES, Wired, small_pages

LEASE_IS_OVER = timedelta(minutes=2)
OLD, NEW = users(*range(4)), users(*range(2, 9))
Receivers = tuple[InThread, InThread]
LEAST_POINTS = {"flags": 40, "messages": 40, "replace_session": 25, "file": 25}


@pytest.fixture(scope="module")
def receivers() -> Iterator[Receivers]:
    """Serve receivers that add, and receivers that replace a group by a session."""
    with (
        in_thread(Settings(members=10)) as adding,
        in_thread(Settings(members=10, apptimize=Behaviour(members="replace"))) as replacing,
    ):
        yield adding, replacing


@pytest.fixture(autouse=True)
def _one_duckdb() -> Iterator[None]:
    with one_duckdb():
        yield


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as made:
        yield Path(made)


def same_window_again(world: World, wired: Wired) -> set[str]:
    world.overwrite(NEW, partner=wired.partner())
    return NEW


def back_to_the_old_audience(world: World, wired: Wired) -> set[str]:
    world.next_window()
    world.overwrite(OLD, partner=wired.partner())
    return OLD


def forget_everybody(standins: InThread) -> None:
    standins.standins.taplytics.writes.clear()
    standins.standins.apptimize.messages.clear()
    standins.standins.taplytics.users.clear()
    standins.standins.apptimize.groups.clear()
    standins.standins.apptimize._sessions.clear()


@pytest.mark.parametrize(
    ("before", "afterwards"),
    [(OLD, same_window_again), (OLD, back_to_the_old_audience), (None, same_window_again)],
    ids=["change", "change and back", "first fill"],
)
@pytest.mark.parametrize("kind", WIRES)
def test_f01_killed_at_any_point_the_next_green_is_exact(
    kind: str,
    before: set[str] | None,
    afterwards: Callable[[World, Wired], set[str]],
    folder: Path,
    receivers: Receivers,
) -> None:
    standins = receivers[kind == "replace_session"]
    template, place = folder / "template", folder / "place"  # one place, since a published file's folder is its account
    wired = Wired(kind, standins, place)
    place.mkdir()
    forget_everybody(standins)
    if before:
        World(place).overwrite(before, partner=wired.partner())
    shutil.copytree(place, template, symlinks=True)
    point, alive = 0, True
    while alive:
        point += 1
        forget_everybody(standins)
        shutil.rmtree(place)
        shutil.copytree(template, place, symlinks=True)
        world = World(place)
        if before:
            wired.hold(before)
            world.next_window()
        with small_pages():
            alive = dies(world, NEW, point, partner=wired.partner())
            survivor, sent = World(place), wired.sent()
            survivor.window = world.window
            wired.forget_sent()
            with clock.shifted(LEASE_IS_OVER):
                wanted = afterwards(survivor, wired)
        assert wired.members == wanted, point
        if afterwards is same_window_again and isinstance(partner := wired.partner(), ChangeWire):
            assert (sent & wired.sent()).total() <= partner.workers * partner.chunk_rows, point
    assert point > LEAST_POINTS[kind]

"""F1: killed before and after any request and any durable write, the next green is exact and sends what was left."""

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.destinations.wire import ChangeWire
from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.membership.state import SETTLES_AFTER
from cohort_pipelines_tests.delivery.world import IN_MEMORY, LAST_TRY, World, one_duckdb, users
from cohort_pipelines_tests.faults.mortal import dies
from cohort_pipelines_tests.faults.projects import without_waiting
from cohort_pipelines_tests.faults.wires import (
    ALREADY_THERE,
    HTTP_WIRES,
    STRANGERS,
    WIRES,
    Row,
    Wired,
    skipping_waits,
    small_pages,
)

LEASE_IS_OVER = timedelta(minutes=2)
APPLY_DELAY = timedelta(minutes=5)  # longer than that, so that the next writer comes too early
ALL_IS_SETTLED = LAST_TRY + SETTLES_AFTER + timedelta(seconds=1)
AN_HOUR_AGO = -timedelta(hours=1)
OLD, NEW = users(*range(4)), users(*range(2, 9)) | ALREADY_THERE
Receivers = tuple[InThread, InThread]
EVERY = 3  # points from one death to the next, in the sweeps of partners that are late
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


def same_window_again(world: World, wired: Wired) -> Receipt:
    return world.overwrite(NEW, partner=wired.partner(), terms=wired.terms)


def back_to_the_old_audience(world: World, wired: Wired) -> Receipt:
    world.next_window()
    return world.overwrite(OLD, partner=wired.partner(), terms=wired.terms)


def forget_everybody(standins: InThread) -> None:
    flags, messages = standins.standins.taplytics, standins.standins.apptimize
    for partner in (flags, messages):
        partner.reception.reset(())
        partner.reception._pending.clear()
    flags.writes.clear()
    messages.messages.clear()
    flags.users.clear()
    messages.groups.clear()
    messages._sessions.clear()


@dataclass(frozen=True)
class Scene:
    """What every death begins with: a target, and the world that has written it; ``held`` are in the target."""

    wired: Wired
    standins: InThread
    template: Path
    held: set[str]

    def begin(self) -> World:
        """Put everything back, and return the world."""
        forget_everybody(self.standins)
        self.wired.hold(self.held)
        shutil.rmtree(self.wired.folder)
        shutil.copytree(self.template, self.wired.folder, symlinks=True)
        world = World(self.wired.folder)
        world.next_window()
        return world

    def due(self, payload: set[str], sent: Iterable[Row]) -> set[str]:
        """Return who has to be in the target by now: who was there already is ours only from when it was ``sent``."""
        told = {user for _, user in sent}
        return self.wired.with_strangers(payload) | (self.held & ALREADY_THERE - told)


def set_up(
    kind: str, folder: Path, receivers: Receivers, before: set[str], apply_delay: timedelta = timedelta(0)
) -> Scene:
    """Let a target full of strangers be written for the first time with ``before``, an hour ago; nobody: never yet."""
    template, place = folder / "template", folder / "place"  # one place, since a published file's folder is its account
    standins = receivers[kind == "replace_session"]
    wired = Wired(kind, standins, place, apply_delay)
    place.mkdir()
    forget_everybody(standins)
    wired.meet_strangers()
    if before:
        with clock.shifted(AN_HOUR_AGO):
            World(place).overwrite(before, partner=wired.partner())
    shutil.copytree(place, template, symlinks=True)
    return Scene(wired, standins, template, wired.members if before else STRANGERS | ALREADY_THERE)


def survivor_of(world: World) -> World:
    """Return the same world for another process, in the same window."""
    survivor = World(world.folder)
    survivor.window = world.window
    return survivor


@pytest.mark.parametrize(
    ("before", "afterwards"),
    [(OLD, same_window_again), (OLD, back_to_the_old_audience), (users(), same_window_again)],
    ids=["change", "change and back", "first fill"],
)
@pytest.mark.parametrize("kind", WIRES)
def test_f01_killed_at_any_point_the_next_green_is_exact(
    kind: str,
    before: set[str],
    afterwards: Callable[[World, Wired], Receipt],
    folder: Path,
    receivers: Receivers,
) -> None:
    scene = set_up(kind, folder, receivers, before)
    wired, wanted = scene.wired, OLD if afterwards is back_to_the_old_audience else NEW
    point, alive = 0, True
    while alive:
        point += 1
        world = scene.begin()
        with small_pages():
            alive = dies(world, NEW, point, partner=wired.partner())
            sent = wired.sent()
            wired.forget_sent()
            with clock.shifted(LEASE_IS_OVER):
                afterwards(survivor_of(world), wired)
        assert wired.members == scene.due(wanted, sent + wired.sent()), point
        if afterwards is same_window_again and isinstance(partner := wired.partner(), ChangeWire):
            assert (sent & wired.sent()).total() <= partner.workers * partner.chunk_rows, point
    assert point > LEAST_POINTS[kind]


@pytest.mark.parametrize("kind", HTTP_WIRES)
def test_f01_killed_at_a_partner_that_applies_later_and_out_of_order(
    kind: str, folder: Path, receivers: Receivers
) -> None:
    """What the dead writer sent is acknowledged and not applied yet, when the next one is to take it back."""
    scene = set_up(kind, folder, receivers, OLD, APPLY_DELAY)
    wired = scene.wired
    point, alive, pending = 1 - EVERY, True, 0
    while alive:
        point += EVERY
        world = scene.begin()
        wired.behave(asynchronous=True, reordered=True, seed=point)
        with small_pages(), skipping_waits(wired):
            alive = dies(world, NEW, point, partner=wired.partner(), terms=wired.terms)
            pending += wired.pending()
            with clock.shifted(LEASE_IS_OVER):
                back_to_the_old_audience(survivor_of(world), wired)
        wired.land()
        assert wired.members == scene.due(OLD, wired.sent()), point
    assert point > LEAST_POINTS[kind]
    assert pending  # when they died


@pytest.mark.parametrize("kind", HTTP_WIRES)
def test_f01_killed_after_requests_that_land_late(
    kind: str, folder: Path, receivers: Receivers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tries that got no answer land after the next green, which was exact; so is the one that settles them."""
    without_waiting(monkeypatch)
    scene = set_up(kind, folder, receivers, OLD)
    wired = scene.wired
    point, alive, undone = 1 - EVERY, True, 0
    while alive:
        point += EVERY
        world = scene.begin()
        passing = 2 if kind == "replace_session" else point % 8  # a session takes effect with its last page
        wired.behave(late=3, late_after=passing)
        with small_pages():
            alive = dies(world, NEW, point, partner=wired.partner())
            wired.behave(late=0)
            survivor = survivor_of(world)
            with clock.shifted(LEASE_IS_OVER):
                green = back_to_the_old_audience(survivor, wired)
            assert wired.members == scene.due(OLD, wired.sent()), point
            late = wired.land()
            assert green.in_doubt > 0 or not late, point
            undone += wired.members != scene.due(OLD, wired.sent())
            with clock.shifted(ALL_IS_SETTLED):
                settled = back_to_the_old_audience(survivor, wired)
        assert settled.in_doubt == 0, point
        assert wired.members == scene.due(OLD, wired.sent()), point
    assert point > LEAST_POINTS[kind]
    assert undone  # by what landed late

"""Two copies of one ledger that are used at the same ticks, such as those of a cloned host."""

import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryStopped, LeaseLost, LedgerUnpaired
from cohort_pipelines.history import History
from cohort_pipelines.ledger.ledger import Ledger, Target
from cohort_pipelines.recovery import pairing
from cohort_pipelines.recovery.pairing import Mirror
from cohort_pipelines.recovery.rebuilding import rebuild
from cohort_pipelines_tests.delivery.world import LEASE_SECONDS, World, users

BETA = Target("memory", "localhost", "", "Beta")
MARK = pairing.mark_of(BETA)
DOUBLED = "a copy of it has written 'Beta' meanwhile"
PATIENCE = 30.0


def nothing() -> None:
    """Stand for what is not to happen."""


class Attended(History):
    """A history of whose target's mark something is done before or after it is read for the first time."""

    def __init__(
        self, root: Path, *, before: Callable[[], object] = nothing, after: Callable[[], object] = nothing
    ) -> None:
        super().__init__(root)
        self._doing = [after, before]

    def read_mark(self, name: str) -> bytes | None:
        if name != MARK or not self._doing:
            return super().read_mark(name)
        self._doing.pop()()
        content = super().read_mark(name)
        self._doing.pop()()
        return content


@pytest.fixture
def first(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.overwrite(users(*range(10)), run_id="before")
    return world


@pytest.fixture
def second(first: World) -> World:
    """The same as ``first``, with a copy of its ledger."""
    copy = first.folder / "copy.sqlite"
    with closing(sqlite3.connect(first.ledger.where)) as source, closing(sqlite3.connect(copy)) as destination:
        source.backup(destination)
    return World(first.folder, first.partner, f"sqlite:///{copy}")


def next_windows(*worlds: World) -> None:
    for world in worlds:
        world.next_window()


def mark(world: World) -> Mirror:
    read = pairing.read_mark(Mirror, world.history.read_mark(MARK) or b"")
    assert read is not None
    return read


def test_the_one_that_comes_later_is_refused_before_its_first_request(
    first: World, second: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    next_windows(first, second)
    require_paired = pairing.require_paired

    def then_the_other_delivers(ledger: Ledger, history: History) -> None:
        require_paired(ledger, history)
        if ledger is second.ledger:
            first.overwrite(users(*range(5, 15)), run_id="first")

    with monkeypatch.context() as patched:
        patched.setattr(pairing, "require_paired", then_the_other_delivers)
        with pytest.raises(LedgerUnpaired, match=f"{DOUBLED}.*ledger rebuild"):
            second.overwrite(users(*range(20, 30)), run_id="second")
    assert first.partner.members == users(*range(5, 15))

    next_windows(first, second)
    with pytest.raises(LedgerUnpaired):
        second.overwrite(users(1), run_id="second again")
    assert first.overwrite(users(3), run_id="first again").state == "delivered"
    assert first.partner.members == users(3)


def test_two_that_send_in_the_same_moment_are_not_both_green_and_both_refused_from_then_on(
    first: World, second: World
) -> None:
    next_windows(first, second)
    both = threading.Barrier(2, timeout=PATIENCE)
    found: dict[str, str] = {}

    def deliver(name: str, world: World, *numbers: int) -> None:
        world.history = Attended(world.folder / "history", after=both.wait)  # neither has said anything when both look
        try:
            found[name] = world.overwrite(users(*numbers), run_id=name).state
        except DeliveryStopped as error:
            found[name] = str(error)

    with ThreadPoolExecutor() as pool:
        for asked in [pool.submit(deliver, "first", first, *range(8)), pool.submit(deliver, "second", second, 1, 50)]:
            asked.result(PATIENCE)

    assert DOUBLED in "".join(found.values())
    for world in (first, second):
        world.history = History(world.folder / "history")
        world.next_window()
        with pytest.raises(LedgerUnpaired, match="ledger rebuild"):
            world.overwrite(users(2), run_id="next")

    rebuild(first.ledger, first.history)
    with clock.shifted(timedelta(minutes=20)):
        assert first.overwrite(users(2), run_id="rebuilt").in_doubt == 0
    assert first.partner.members == users(2)


@pytest.mark.parametrize(
    ("said", "fits"),
    [
        ({}, True),
        ({"run": "another"}, False),
        ({"target_generation": 7}, False),
        ({"run": ""}, True),  # by a version that did not tell, or by rebuilding
    ],
)
def test_a_mark_must_speak_of_a_run_that_the_ledger_has(first: World, said: dict[str, object], *, fits: bool) -> None:
    first.history.write_mark(MARK, msgspec.json.encode(asdict(mark(first)) | said))
    if fits:
        assert pairing.require_fitting(first.ledger, first.history)
    else:
        with pytest.raises(LedgerUnpaired, match=DOUBLED):
            pairing.require_fitting(first.ledger, first.history)


def test_a_writer_that_was_taken_over_before_its_first_request_says_so(first: World) -> None:
    first.next_window()
    other = World(first.folder, first.partner)
    other.window = first.window

    def is_taken_over() -> None:
        with clock.shifted(timedelta(seconds=LEASE_SECONDS + 1)):
            other.overwrite(users(3, 4), run_id="heir")

    first.history = Attended(first.folder / "history", before=is_taken_over)
    with pytest.raises(LeaseLost):
        first.overwrite(users(1), run_id="stalled")
    assert first.partner.members == users(3, 4)
    assert mark(first).run == "heir"
    first.next_window()
    first.history = History(first.folder / "history")
    first.overwrite(users(5), run_id="later")
    assert first.partner.members == users(5)

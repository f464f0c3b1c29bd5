"""Kill the process at every point where it could matter, run again, and look at what the partner holds."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryStopped, HistoryNotWritable
from cohort_pipelines.history import History
from cohort_pipelines_tests.delivery.journal import JournaledPartner
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, MemoryPartner, World, lost, users

LEASE_IS_OVER = timedelta(minutes=2)
OLD, NEW = users(*range(8)), users(*range(4, 14))


def die_at(folder: Path, template: Path, point: int) -> tuple[World, bool]:
    """Deliver NEW over OLD and die at ``point``; say whether the delivery got that far."""
    shutil.copytree(template, folder)
    world = World(folder, MemoryPartner(members=set(OLD)))
    world.next_window()
    payload, seq = world.seal(NEW)
    try:
        world.deliver(payload, seq, fate=Fate(dies_at=point))
    except Killed:
        return world, True
    return world, False


def same_window(world: World) -> set[str]:
    payload, seq = world.seal(NEW)
    world.deliver(payload, seq)
    return NEW


def back_to_the_old_audience(world: World) -> set[str]:
    world.next_window()
    world.overwrite(OLD)
    return OLD


@pytest.mark.slow
@pytest.mark.parametrize("afterwards", [same_window, back_to_the_old_audience])
def test_killed_at_any_point_and_run_again_the_audience_is_exact(
    tmp_path: Path, afterwards: Callable[[World], set[str]]
) -> None:
    World(tmp_path / "template").overwrite(OLD)
    point, alive = 0, True
    while alive:
        point += 1
        world, alive = die_at(tmp_path / str(point), tmp_path / "template", point)
        sent = len(world.partner.requests)
        with clock.shifted(LEASE_IS_OVER):
            wanted = afterwards(world)
        assert world.partner.members == wanted, point
        if afterwards is same_window:
            assert world.partner.repeated(sent) <= world.partner.workers, point
        shutil.rmtree(tmp_path / str(point))
    assert point > 40  # the sweep saw the ledger's, the history's and the partner's points


@pytest.mark.slow
def test_a_first_fill_killed_at_any_point_and_run_again_is_exact(tmp_path: Path) -> None:
    point, alive = 0, True
    while alive:
        point += 1
        world = World(tmp_path / str(point))
        payload, seq = world.seal(OLD)
        try:
            world.deliver(payload, seq, fate=Fate(dies_at=point))
            alive = False
        except Killed:
            with clock.shifted(LEASE_IS_OVER):
                world.deliver(payload, seq)
        assert world.partner.members == OLD, point
    assert point > 20


def test_who_leaves_in_an_attempt_that_dies_and_is_back_is_not_lost(world: World) -> None:
    world.overwrite(users(1, 2, 3))
    world.next_window()
    payload, seq = world.seal(users(2, 3))
    fate = Fate()
    world.partner.on_request = lambda _: world.partner.members.discard("user-0001") or setattr(fate, "dead", True)  # type: ignore[func-returns-value]
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=fate)
    assert world.partner.members == users(2, 3)

    world.partner.on_request = None
    world.next_window()
    with clock.shifted(LEASE_IS_OVER):
        receipt = world.overwrite(users(1, 2, 3))
    assert world.partner.members == users(1, 2, 3)
    assert receipt.joiners == 1
    assert receipt.in_doubt == 1  # the dead writer's removal may still land


def test_a_cancel_ends_between_two_chunks_and_is_passed_on(world: World) -> None:
    class Cancelled(BaseException):
        """As Dagster's own interrupt: no Exception, raised in the main thread."""

    def cancel(done: int, planned: int) -> None:
        assert planned == 3_000
        if done:
            raise Cancelled

    with pytest.raises(Cancelled):
        world.overwrite(users(*range(3_000)), on_progress=cancel)
    sent = len(world.partner.requests)
    assert 0 < sent < 1_000
    assert world.ledger.windows(SYNC)[0].reason == "Cancelled"
    assert not world.ledger.is_delivering(SYNC)

    world.next_window()
    receipt = world.overwrite(users(*range(3_000)))
    assert receipt.unchanged == sent * world.partner.chunk_rows  # nothing was left unknown
    assert world.partner.repeated(sent) == 0


def test_a_cancel_is_passed_on_where_nothing_can_be_written_any_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cancel(done: int, planned: int) -> None:  # noqa: ARG001  a Progress
        monkeypatch.setattr(History, "writer", lambda *_: broken())
        raise KeyboardInterrupt

    def broken() -> None:
        raise HistoryNotWritable(str(world.folder), "no space left on device")

    with pytest.raises(KeyboardInterrupt):
        world.overwrite(users(*range(30)), on_progress=cancel)
    monkeypatch.undo()
    with clock.shifted(LEASE_IS_OVER):
        world.next_window()
        world.overwrite(users(*range(30)))
    assert world.partner.members == users(*range(30))


def test_the_lost_answer_of_a_dead_run_is_asked_for_again(world: World) -> None:
    world.partner.always = lost
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(1, 2, 3))
    world.partner.always = None
    world.next_window()
    assert world.overwrite(users(4)).leavers == 3
    assert world.partner.members == users(4)


@pytest.mark.slow
@pytest.mark.parametrize(("request_number", "moment"), [(1, "before"), (2, "after"), (3, "before"), (4, "after")])
def test_sigkill_of_a_real_process(tmp_path: Path, request_number: int, moment: str) -> None:
    world = World(tmp_path, JournaledPartner(journal=tmp_path / "partner.jsonl"))
    world.overwrite(OLD)
    world.next_window()
    before = len(world.partner.requests)
    child = subprocess.run(
        [
            sys.executable,
            "-m",
            "cohort_pipelines_tests.delivery.journal",
            str(tmp_path),
            str(request_number),
            moment,
            world.window.key,
            *NEW,
        ],
        check=False,
        capture_output=True,
        cwd=Path(__file__).parents[2],
        env=dict(os.environ),
    )
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()

    survivor = World(tmp_path, JournaledPartner(journal=tmp_path / "partner.jsonl"))
    assert world.ledger.is_delivering(SYNC)  # by the lease, whatever became of the process
    sent = len(survivor.partner.requests)
    assert sent >= before + request_number - 1
    survivor.window = world.window
    payload, seq = survivor.seal(NEW)
    with clock.shifted(LEASE_IS_OVER):
        survivor.deliver(payload, seq)
    assert survivor.partner.members == NEW
    assert survivor.partner.repeated(sent) <= survivor.partner.workers

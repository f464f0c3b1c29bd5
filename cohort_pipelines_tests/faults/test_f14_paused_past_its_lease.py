"""F14: a process is stopped past its lease, another takes over, it goes on: it starts no further batch."""

import signal
from datetime import timedelta
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines_tests.databases import postgres_url
from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.faults.wires import ALREADY_THERE, Wired
from cohort_pipelines_tests.faults.writer import await_stopped, outcome, stop_between_transactions, writing
from cohort_pipelines_tests.live import until

MANY, OTHERS = users(*range(40)) | ALREADY_THERE, users(*range(100, 104))
LATER = timedelta(minutes=25)


def test_f14_a_writer_that_wakes_after_a_takeover_starts_no_further_batch(world: World, wired: Wired) -> None:
    wired.fault(kind="delay", seconds=0.5, times=None)
    with writing(world, wired, MANY, "sleeper", lease_seconds=2.0) as sleeper:
        until(lambda: wired.sent().total() >= 4, "the first requests")
        stop_between_transactions(sleeper, world.url)
        wired.mend()

        world.next_window()
        taken_over = world.overwrite(OTHERS, partner=wired.partner(), terms=wired.terms, lease_seconds=2.0)
        asked = wired.sent().total()
        sleeper.send_signal(signal.SIGCONT)
        ended = outcome(sleeper)

    assert ended["error"] == "LeaseLost"
    partner = wired.partner()
    started = wired.sent().total() - asked
    assert started <= getattr(partner, "workers", 0) * getattr(partner, "chunk_rows", 0) < len(MANY) / 2
    assert taken_over.state is wired.green
    assert taken_over.in_doubt > 0  # what it had under way is known, and may still land

    world.next_window()
    wired.land()
    with clock.shifted(LATER):
        settled = world.overwrite(OTHERS, partner=wired.partner(), terms=wired.terms)
    assert settled.in_doubt == 0
    wired.land()
    assert wired.members == wired.with_strangers(OTHERS)


@pytest.mark.parametrize("applies_after", [0.0], indirect=True)
@pytest.mark.parametrize("wired", ["messages"], indirect=True)
def test_f14_a_writer_that_is_stopped_within_a_transaction_keeps_nobody_from_taking_over(
    tmp_path: Path, wired: Wired
) -> None:
    """PostgreSQL ends the transaction; with a file, who has it locked has to be woken or killed."""
    with postgres_url() as url:
        world = World(tmp_path, url=url)
        with writing(world, wired, MANY, "sleeper", lease_seconds=2.0, stops_at=3) as sleeper:
            await_stopped(sleeper)
            world.next_window()
            taken_over = world.overwrite(OTHERS, partner=wired.partner(), lease_seconds=2.0)
            asked = wired.sent().total()
            sleeper.send_signal(signal.SIGCONT)
            ended = outcome(sleeper)

    assert ended["error"] == "LeaseLost"
    assert wired.sent().total() == asked
    assert taken_over.state is wired.green
    assert wired.members == wired.with_strangers(OTHERS)

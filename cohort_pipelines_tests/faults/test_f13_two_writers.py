"""F13: two runs for one target are one writer at a time, and one that outlives its window makes way for the next."""

import pytest

from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.faults.wires import ALREADY_THERE, Wired
from cohort_pipelines_tests.faults.writer import outcome, writing
from cohort_pipelines_tests.live import until

MANY = users(*range(24)) | ALREADY_THERE


@pytest.fixture(params=[0.0, 4.0], ids=["at once", "later"])
def applies_after(request: pytest.FixtureRequest) -> float:
    """Return few seconds, since other processes really wait for them."""
    seconds: float = request.param
    return seconds


def test_f13_two_runs_that_start_together_send_each_user_once(world: World, wired: Wired) -> None:
    wired.fault(kind="delay", seconds=0.05, times=None)
    with writing(world, wired, MANY, "one") as one, writing(world, wired, MANY, "two") as two:
        ended = [outcome(one), outcome(two)]

    wired.land()
    assert wired.members == wired.with_strangers(MANY)
    assert max(wired.sent().values()) == 1
    assert wired.sent().total() == len(MANY)
    assert {each["state"] for each in ended if each.get("requests")} == {wired.green}
    errors = sorted(each["error"] for each in ended)
    assert errors in (["", ""], ["", "DeliverySuperseded"])  # the other found nothing left to do, or was the older


def test_f13_a_run_that_outlives_its_window_is_deferred_and_the_next_goes_on(world: World, wired: Wired) -> None:
    wired.fault(kind="delay", seconds=1, times=None)
    with writing(world, wired, MANY, "late", seconds=6) as late:
        until(wired.sent, "the first request")
        later = World(world.folder, url=world.url)
        later.window = world.window
        later.next_window()
        wanted = users(*range(0, 26, 2))  # so that some of what was sent last is to be taken back
        with writing(later, wired, wanted, "next") as following:
            first = outcome(late)
            wired.mend()
            second = outcome(following)

    assert first["error"] == "DeliveryDeferred"
    assert (second["error"], second["in_doubt"]) == ("", 0)
    wired.land()
    assert wired.members == wired.with_strangers(wanted)
    assert max(wired.sent().values()) == 1  # it went on, and began nothing anew

"""F37: one id is refused in 96 windows in a row; the others advance, and hardly a request more is made for it."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.core.errors import DeliveryRejected
from cohort_pipelines.destinations.apptimize import apptimize_http
from cohort_pipelines.destinations.taplytics import Taplytics
from cohort_pipelines.destinations.wire import ChangeWire
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.faults.checker import Checker

WINDOWS, USERS, LEAVE = 96, 400, 60  # as many join as leave in each window
BAD = "user-bad"


def flags(at: Addresses) -> ChangeWire:
    return Taplytics(key=at.credentials.taplytics_key, url=at.taplytics_url)


def messages(at: Addresses) -> ChangeWire:
    return apptimize_http(url=at.apptimize_url, token=at.credentials.apptimize_token, region="eu")


@pytest.mark.parametrize("wire", [flags, messages])
def test_f37_an_id_that_is_refused_all_day_costs_next_to_nothing_and_holds_up_nobody(
    tmp_path: Path, wire: Callable[[Addresses], ChangeWire]
) -> None:
    world = World(tmp_path)
    changes, before = 0, users(*range(USERS))
    with in_thread(Settings(members=10)) as standins:
        judge, service = (
            Checker(tmp_path, standins),
            standins.taplytics_url if wire is flags else standins.apptimize_url,
        )
        httpx.post(httpx.URL(service).copy_with(path="/standin/behaviour"), json={"refuse": [BAD]}).raise_for_status()
        payload, seq = world.seal(before)
        world.deliver(payload, seq, partner=wire(standins))  # so that the target is known to be good
        first = judge.asked().total()
        for number in range(1, WINDOWS + 1):
            world.next_window()
            audience = users(*range(number * LEAVE, number * LEAVE + USERS))
            payload, seq = world.seal(audience | {BAD})
            with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
                world.deliver(payload, seq, partner=wire(standins))
            assert (judge.segment("Beta") if wire is flags else judge.group("Beta")) == audience, number
            changes += len(audience ^ before)
            before = audience
        asked = judge.asked().total() - first

    without_it = changes if wire is flags else 2 * WINDOWS
    assert changes == 2 * LEAVE * WINDOWS
    assert WINDOWS <= asked - without_it <= changes * 0.02

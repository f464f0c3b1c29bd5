from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred
from cohort_pipelines.core.windows import Cadence, Window, one_time_window
from cohort_pipelines.delivery import deadline, retire
from cohort_pipelines.delivery.deadlines import AT_LEAST, MARGIN, ONE_TIME
from cohort_pipelines.ledger.ledger import Target
from cohort_pipelines_tests.delivery.world import SYNC, World, users

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("minutes", "cadence", "stops"),
    [
        (1, Cadence.QUARTER_HOUR, NOON + timedelta(minutes=15) - MARGIN),
        (14.5, Cadence.QUARTER_HOUR, NOON + timedelta(minutes=14.5) + AT_LEAST),
        (20, Cadence.QUARTER_HOUR, NOON + timedelta(minutes=30) - MARGIN),  # the window of noon is over
        (20, Cadence.TWO_HOURS, NOON + timedelta(hours=2) - MARGIN),
        (20, None, NOON + timedelta(minutes=20) + ONE_TIME),
    ],
)
def test_a_delivery_stops_before_the_next_window(minutes: float, cadence: Cadence | None, stops: datetime) -> None:
    window: Window = cadence.window_at(NOON) if cadence else one_time_window("launch")
    with clock.shifted(NOON + timedelta(minutes=minutes) - clock.now()):
        assert abs(deadline(window, cadence) - stops) < timedelta(seconds=2)


def overwrite(world: World, _earlier: str) -> None:
    world.overwrite(users(3, 4), deadline=clock.now())


def export(world: World, _earlier: str) -> None:
    world.window = one_time_window("launch")
    world.overwrite(users(3, 4), deadline=clock.now())


def put_back(world: World, earlier: str) -> None:
    world.restore(earlier, patience=timedelta(0))


def give_up(world: World, _earlier: str) -> None:
    retire(
        ledger=world.ledger,
        history=world.history,
        partner=world.partner,
        target=Target(world.partner.wire, world.partner.host, world.partner.account, "Beta"),
        sync=SYNC,
        window=world.window,
        run_id="retire",
        deadline=clock.now(),
    )


@pytest.mark.parametrize(
    ("asked", "goes_on"),
    [
        (overwrite, "the next window goes on from there"),
        (export, "the same export, asked for again, goes on from there"),
        (put_back, "the same restore, asked for again, goes on from there"),
        (give_up, "the same retirement, asked for again, goes on from there"),
    ],
)
def test_what_goes_on_from_a_delivery_that_was_deferred_is_said_by_what_was_asked_for(
    world: World, asked: Callable[[World, str], None], goes_on: str
) -> None:
    world.overwrite(users(1, 2))
    earlier = world.window.key
    world.next_window()
    world.overwrite(users(2, 3))

    with pytest.raises(DeliveryDeferred) as deferred:
        asked(world, earlier)

    assert goes_on in str(deferred.value)

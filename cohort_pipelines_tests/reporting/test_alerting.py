import re
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import event

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryHeld, DeliveryStopped, SyncPaused
from cohort_pipelines.delivery import Gates
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.ledger import pauses
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.ledger.schema import WindowState
from cohort_pipelines.ledger.windows import NEVER_ENDED
from cohort_pipelines.reporting.alerting import Health, Judgement, Watched, judge
from cohort_pipelines.reporting.telling import note_changes
from cohort_pipelines_tests.delivery.outcomes import QUARTER, delivered, key
from cohort_pipelines_tests.delivery.world import SYNC, MemoryPartner, World

HOUR = timedelta(hours=1)
HOURLY = Watched(SYNC, HOUR)
EXPORT = Watched(SYNC)


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url)


def health(ledger: Ledger, watched: Watched = HOURLY) -> Health:
    return judge(ledger, watched).health


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("delivered", "", Health.OK),
        ("open", "", Health.OK),
        ("skipped", "the delivery of an earlier window still goes on", Health.OK),
        ("missed", "no run was started in it", Health.OK),
        ("missed", NEVER_ENDED, Health.FAILING),
        ("failed", "Mixpanel refused the credential (401).", Health.FAILING),
        ("held", "Held by the gate min_users: 0 users.", Health.HELD),
    ],
)
def test_the_newest_window_says_how_a_sync_fares(
    ledger: Ledger, state: WindowState, reason: str, expected: Health
) -> None:
    delivered(ledger, back=1)
    ledger.note_window(SYNC, key(), state, reason)

    judged = judge(ledger, HOURLY)
    assert judged.health == expected
    assert expected is Health.OK or (reason in judged.detail and key() in judged.detail)


@pytest.mark.parametrize(("state", "reason"), [("open", ""), ("skipped", "busy"), ("missed", "no run was started")])
def test_a_window_without_an_outcome_leaves_the_one_before_it_in_force(
    ledger: Ledger, state: WindowState, reason: str
) -> None:
    delivered(ledger, back=2)
    ledger.note_window(SYNC, key(1), "failed", "no answer")
    ledger.note_window(SYNC, key(), state, reason)

    assert health(ledger) is Health.FAILING


def test_a_backfill_of_an_old_window_is_no_news(ledger: Ledger) -> None:
    delivered(ledger)
    ledger.note_window(SYNC, key(40), "failed", "the window is over")

    assert health(ledger) is Health.OK


def test_a_one_time_export_fares_as_its_newest_one_did_whatever_it_is_called(ledger: Ledger) -> None:
    ledger.note_window(SYNC, "z first", "failed", "no answer")
    assert health(ledger, EXPORT) is Health.FAILING
    with clock.shifted(timedelta(days=300)):
        ledger.note_window(SYNC, "a second", "delivered")
        assert health(ledger, EXPORT) is Health.OK


def test_a_sync_is_late_as_soon_as_its_newest_delivered_snapshot_is_older_than_promised(ledger: Ledger) -> None:
    delivered(ledger)
    taken = clock.now()
    with clock.shifted(HOUR - timedelta(minutes=1)):
        assert health(ledger) is Health.OK
    with clock.shifted(HOUR + timedelta(minutes=1)):
        judged = judge(ledger, HOURLY)

    assert judged.health is Health.LATE
    assert judged.since - taken == pytest.approx(HOUR, abs=timedelta(seconds=5))
    assert f"taken at {taken:%Y-%m-%d %H:%M} UTC; it is promised to be at most 1 h old" in judged.detail
    assert "schedule" in judged.detail


def test_a_sync_that_never_had_a_run_is_late_from_when_it_was_first_seen(ledger: Ledger) -> None:
    note_changes(ledger, "on_call/slack", {SYNC: judge(ledger, HOURLY)})

    with clock.shifted(HOUR - timedelta(minutes=1)):
        assert health(ledger) is Health.OK
    with clock.shifted(HOUR + timedelta(minutes=1)):
        judged = judge(ledger, HOURLY)
    assert judged.health is Health.LATE
    assert "Nothing was delivered since" in judged.detail
    assert ledger.windows(SYNC) == []


def test_a_window_that_was_noted_earlier_counts_as_first_seen(ledger: Ledger) -> None:
    with clock.shifted(-2 * HOUR):
        ledger.note_window(SYNC, key(), "open")
    note_changes(ledger, "on_call/slack", {SYNC: judge(ledger, HOURLY)})

    assert health(ledger) is Health.LATE


def test_a_sync_whose_first_window_is_yet_to_come_is_not_late(ledger: Ledger) -> None:
    note_changes(ledger, "on_call/slack", {SYNC: judge(ledger, HOURLY)})
    tomorrow = Watched(SYNC, HOUR, begins=clock.now() + timedelta(days=1))

    with clock.shifted(timedelta(days=1)):
        assert health(ledger, tomorrow) is Health.OK
    with clock.shifted(timedelta(days=1) + HOUR + QUARTER):
        assert health(ledger, tomorrow) is Health.LATE


def test_a_one_time_export_is_never_late(ledger: Ledger) -> None:
    delivered(ledger)
    with clock.shifted(timedelta(days=400)):
        assert health(ledger, EXPORT) is Health.OK


def test_a_sync_that_is_deferred_is_amber_and_says_how_far_it_came(ledger: Ledger) -> None:
    delivered(ledger, back=1)
    deferred = str(DeliveryDeferred(10, 90, eta_seconds=600))
    ledger.note_window(SYNC, key(), "deferred", deferred)

    judged = judge(ledger, HOURLY)
    assert (judged.health, judged.detail) == (Health.DEFERRED, f"Window {key()}: {deferred}")
    assert "10 of 90 changes" in deferred
    with clock.shifted(2 * HOUR):
        judged = judge(ledger, HOURLY)
    assert judged.health is Health.LATE
    assert judged.detail.endswith(deferred)


@pytest.mark.parametrize("reason", ["KeyboardInterrupt", str(SyncPaused(SYNC, "ann", "the partner moves house"))])
def test_a_delivery_that_was_cancelled_or_paused_says_nothing(ledger: Ledger, reason: str) -> None:
    delivered(ledger, back=1)
    ledger.note_window(SYNC, key(), "deferred", reason)

    assert health(ledger) is Health.OK


@pytest.mark.parametrize(("state", "expected"), [("failed", Health.FAILING), ("held", Health.HELD)])
def test_what_fails_or_is_held_stays_so_when_it_is_late_too(
    ledger: Ledger, state: WindowState, expected: Health
) -> None:
    delivered(ledger, back=1, ago=HOUR)
    ledger.note_window(SYNC, key(), state, "why")
    with clock.shifted(timedelta(days=1)):
        assert health(ledger) is expected


def test_a_paused_sync_is_in_no_trouble(ledger: Ledger) -> None:
    ledger.note_window(SYNC, key(), "held", "why")
    pauses.pause(ledger, SYNC, who="ann", why="the partner moves house")
    with clock.shifted(timedelta(days=2)):
        assert health(ledger) is Health.PAUSED
        pauses.resume(ledger, SYNC)
        assert health(ledger) is Health.HELD


def test_after_a_pause_lateness_counts_from_its_end(ledger: Ledger) -> None:
    delivered(ledger)
    taken = clock.now()
    pauses.pause(ledger, SYNC, who="ann", why="the partner moves house")
    with clock.shifted(timedelta(days=2)):
        pauses.resume(ledger, SYNC)
        resumed = clock.now()
        assert health(ledger) is Health.OK
    with clock.shifted(timedelta(days=2) + HOUR - timedelta(minutes=1)):
        assert health(ledger) is Health.OK
    with clock.shifted(timedelta(days=2) + HOUR + timedelta(minutes=1)):
        judged = judge(ledger, HOURLY)

    assert judged.health is Health.LATE
    assert judged.since - resumed == pytest.approx(HOUR, abs=timedelta(seconds=5))
    says = f"taken at {taken:%Y-%m-%d %H:%M} UTC, and its pause ended at {resumed:%Y-%m-%d %H:%M} UTC; it is promised"
    assert says in judged.detail


def test_a_pause_that_ended_before_the_newest_snapshot_changes_nothing(ledger: Ledger) -> None:
    with clock.shifted(-2 * HOUR):
        pauses.pause(ledger, SYNC, who="ann", why="the partner moves house")
        pauses.resume(ledger, SYNC)
    delivered(ledger)
    with clock.shifted(HOUR + timedelta(minutes=1)):
        judged = judge(ledger, HOURLY)

    assert judged.health is Health.LATE
    assert "pause" not in judged.detail


@pytest.mark.parametrize("watched", [HOURLY, EXPORT])
def test_judging_reads_no_more_of_a_sync_than_it_needs(tmp_path: Path, watched: Watched) -> None:
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.sqlite")
    asked: list[tuple[str, Sequence[object]]] = []
    event.listen(ledger._reader, "before_cursor_execute", lambda *each: asked.append((each[2], each[3])))
    judge(ledger, watched)
    selects = [(statement, bound) for statement, bound in asked if statement.startswith("SELECT")]
    with ledger.read() as connection:
        plans = {
            statement: [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", bound)]
            for statement, bound in selects
        }

    by_key = re.compile(r"SEARCH \w+ USING (COVERING )?(INDEX \w+|INTEGER PRIMARY KEY) ")
    assert [step for plan in plans.values() for step in plan if not by_key.match(step)] == []
    of_attempts = {step for plan in plans.values() for step in plan if "SEARCH attempt" in step}
    assert of_attempts == {"SEARCH attempt USING INDEX attempt_of_sync (sync=? AND state=?)"}


def test_syncs_are_judged_one_by_one(ledger: Ledger) -> None:
    ledger.note_window("another", key(), "failed", "no answer")
    pauses.pause(ledger, "a_third", who="ann", why="because")

    assert health(ledger) is Health.OK


def refuse_everything(_partner: MemoryPartner, _operation: object, ids: object) -> Answer:
    assert ids
    return Answer(unknown={0: "time-out", 1: "time-out", 2: "time-out"}, requests=1)


def hold(world: World) -> None:
    with pytest.raises(DeliveryHeld):
        world.overwrite({"needle-1"}, gates=Gates(min_users=5))


def run_out_of_time(world: World) -> None:
    with pytest.raises(DeliveryDeferred):
        world.overwrite({"needle-1", "needle-2", "needle-3"}, deadline=clock.now())


def stop(world: World) -> None:
    world.partner.always = refuse_everything
    with pytest.raises(DeliveryStopped):
        world.overwrite({"needle-1", "needle-2", "needle-3"})


def deliver(world: World) -> None:
    world.overwrite({"needle-1"})


@pytest.mark.parametrize(
    ("ends", "expected", "says"),
    [
        (hold, Health.HELD, "Held by the gate min_users"),
        (run_out_of_time, Health.DEFERRED, "0 of 3 changes"),
        (stop, Health.FAILING, "stopped after 0 of 3 changes"),
        (deliver, Health.OK, "is delivered: 1 users"),
    ],
)
def test_real_deliveries_are_judged_by_how_they_ended_and_name_no_user(
    world: World, ends: Callable[[World], None], expected: Health, says: str
) -> None:
    ends(world)

    judged: Judgement = judge(world.ledger, HOURLY)
    assert judged.health is expected
    assert says in judged.detail
    assert "needle" not in judged.detail

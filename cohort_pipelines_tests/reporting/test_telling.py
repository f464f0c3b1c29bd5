import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.reporting.alerting import Health, Judgement, Watched, judge
from cohort_pipelines.reporting.telling import CLAIM, Alert, next_untold, note_changes
from cohort_pipelines_tests.delivery.outcomes import QUARTER, delivered
from cohort_pipelines_tests.delivery.world import SYNC

pytestmark = pytest.mark.slow

SLACK, MAIL = "on_call/slack", "on_call/email"


@pytest.fixture
def ledger(ledger_url: str) -> Ledger:
    return Ledger(ledger_url)


class Receiver:
    """Somebody who is told, unless the line is dead."""

    def __init__(self) -> None:
        self.heard: list[Alert] = []
        self.dead = False

    def hear(self, ledger: Ledger, channel: str = SLACK) -> None:
        while True:
            with next_untold(ledger, channel) as alert:
                if alert is None:
                    return
                if self.dead:
                    raise ConnectionError
                self.heard.append(alert)

    @property
    def states(self) -> list[str]:
        return [alert.state for alert in self.heard]


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


def fares(health: Health, detail: str = "why", sync: str = SYNC) -> dict[str, Judgement]:
    return {sync: Judgement(health, detail, clock.now())}


def tick(ledger: Ledger, receiver: Receiver, *healths: Health) -> None:
    for health in healths:
        note_changes(ledger, SLACK, fares(health))
        receiver.hear(ledger)


def test_a_change_is_told_once_and_not_once_a_tick(ledger: Ledger, receiver: Receiver) -> None:
    tick(ledger, receiver, *[Health.OK] * 3, *[Health.FAILING] * 5, *[Health.OK] * 3)

    assert [(each.sync, each.state, each.previous, each.detail) for each in receiver.heard] == [
        (SYNC, "failing", "ok", "why"),
        (SYNC, "recovered", "failing", "why"),
    ]


def test_a_sync_that_is_in_trouble_when_it_is_first_seen_is_told_of(ledger: Ledger, receiver: Receiver) -> None:
    tick(ledger, receiver, Health.LATE, Health.LATE)

    assert [(each.state, each.previous) for each in receiver.heard] == [("late", "ok")]


def test_one_kind_of_trouble_that_becomes_another_is_told(ledger: Ledger, receiver: Receiver) -> None:
    tick(ledger, receiver, Health.DEFERRED, Health.LATE, Health.HELD)

    assert [(each.previous, each.state) for each in receiver.heard] == [
        ("ok", "deferred"),
        ("deferred", "late"),
        ("late", "held"),
    ]


@pytest.mark.parametrize(
    ("healths", "states"),
    [
        ([Health.OK, Health.PAUSED, Health.OK], []),
        ([Health.HELD, Health.PAUSED, Health.PAUSED, Health.OK], ["held", "paused"]),
        ([Health.HELD, Health.PAUSED, Health.HELD], ["held", "paused", "held"]),
    ],
)
def test_a_pause_ends_trouble_and_is_none(
    ledger: Ledger, receiver: Receiver, healths: list[Health], states: list[str]
) -> None:
    tick(ledger, receiver, *healths)

    assert receiver.states == states


def test_a_day_of_failures_is_one_alert_and_its_end_another(ledger: Ledger, receiver: Receiver) -> None:
    def tick_now() -> None:
        note_changes(ledger, SLACK, {SYNC: judge(ledger, Watched(SYNC, timedelta(hours=1)))})
        receiver.hear(ledger)

    delivered(ledger)
    tick_now()
    for number in range(1, 97):
        with clock.shifted(QUARTER * number):
            window = Cadence.QUARTER_HOUR.window_at(clock.now())
            ledger.record_missed(SYNC, window)
            ledger.note_window(SYNC, window.key, "open")
            tick_now()
            ledger.note_window(SYNC, window.key, "failed", f"no answer, time-out number {number}")
            tick_now()
    assert receiver.states == ["failing"]
    with clock.shifted(QUARTER * 97):
        tick_now()
        delivered(ledger)
        for _ in range(3):
            tick_now()

    assert receiver.states == ["failing", "recovered"]


def test_a_failure_that_no_tick_saw_is_not_told(ledger: Ledger, receiver: Receiver) -> None:
    key = Cadence.QUARTER_HOUR.window_at(clock.now()).key
    ledger.note_window(SYNC, key, "failed", "no answer")
    ledger.note_window(SYNC, key, "delivered")
    note_changes(ledger, SLACK, {SYNC: judge(ledger, Watched(SYNC))})
    receiver.hear(ledger)

    assert receiver.heard == []


def test_what_was_not_sent_is_tried_again_in_its_order(ledger: Ledger, receiver: Receiver) -> None:
    receiver.dead = True
    for health in (Health.FAILING, Health.FAILING, Health.OK, Health.LATE):
        with pytest.raises(ConnectionError):
            tick(ledger, receiver, health)
    receiver.dead = False
    tick(ledger, receiver, Health.LATE, Health.LATE)

    assert receiver.states == ["failing", "recovered", "late"]


def test_a_channel_that_fails_does_not_make_another_hear_twice(ledger: Ledger, receiver: Receiver) -> None:
    mail = Receiver()
    mail.dead = True
    for _ in range(3):
        for channel in (SLACK, MAIL):
            note_changes(ledger, channel, fares(Health.HELD))
        receiver.hear(ledger, SLACK)
        with pytest.raises(ConnectionError):
            mail.hear(ledger, MAIL)
    mail.dead = False
    mail.hear(ledger, MAIL)

    assert (receiver.states, mail.states) == (["held"], ["held"])


def test_a_channel_that_is_added_hears_of_what_is_not_over(ledger: Ledger, receiver: Receiver) -> None:
    tick(ledger, receiver, Health.FAILING)
    note_changes(ledger, MAIL, fares(Health.FAILING) | fares(Health.OK, sync="another"))
    mail = Receiver()
    mail.hear(ledger, MAIL)

    assert [(each.sync, each.state) for each in mail.heard] == [(SYNC, "failing")]


def test_nobody_else_sends_what_somebody_is_sending(ledger: Ledger, receiver: Receiver) -> None:
    note_changes(ledger, SLACK, fares(Health.FAILING) | fares(Health.HELD, sync="another"))
    with next_untold(ledger, SLACK) as alert:
        receiver.hear(ledger)  # nor what comes after it: order is kept
        assert (alert is not None, receiver.heard) == (True, [])
    receiver.hear(ledger)

    assert receiver.states == ["held"]


def test_what_a_dead_process_was_sending_is_sent_again_when_its_claim_has_run_out(
    ledger: Ledger, receiver: Receiver
) -> None:
    note_changes(ledger, SLACK, fares(Health.FAILING))
    dead = next_untold(ledger, SLACK)
    dead.__enter__()  # and never left
    receiver.hear(ledger)
    assert receiver.heard == []
    with clock.shifted(CLAIM + timedelta(seconds=1)):
        receiver.hear(ledger)

    assert receiver.states == ["failing"]


def test_many_processes_at_once_tell_a_change_once(ledger_url: str, receiver: Receiver) -> None:
    start = threading.Barrier(8)
    ledgers = [Ledger(ledger_url) for _ in range(8)]

    def tick_once(mine: Ledger) -> None:
        start.wait()
        tick(mine, receiver, Health.FAILING, Health.FAILING)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(tick_once, ledgers))

    assert receiver.states == ["failing"]

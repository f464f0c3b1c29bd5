"""F19: a sync that fails for 24 hours tries each window within bounds; people are told when it began and ended."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.destinations.exchange import ATTEMPTS
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.orchestration.resources import Records
from cohort_pipelines_tests.faults.projects import MESSAGES, MIXPANEL, Faulty, opened, said, sync, without_waiting
from cohort_pipelines_tests.receivers import HttpReceiver, http_receiver

GROUP, ON_CALL = "beta_group", "on_call"
WINDOWS = 96  # of a quarter of an hour
IN_FLIGHT = 3
DECLARED = {
    "mixpanel": MIXPANEL,
    "apptimize": MESSAGES,
    GROUP: sync("apptimize", "Beta", "recurring"),
    ON_CALL: """
type: cohort_pipelines.orchestration.Alerts
attributes: {webhook: "{{ env.HOOK_URL }}"}
""",
}


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    with http_receiver() as receiver:
        monkeypatch.setenv("HOOK_URL", receiver.url)
        yield receiver


@pytest.fixture
def watched(tmp_path: Path, at_an_opening: None, hook: HttpReceiver) -> Iterator[Faulty]:  # noqa: ARG001  come first
    with opened(tmp_path, DECLARED, Settings(members=60, page_size=100)) as project:
        yield project


@pytest.fixture
def tick(watched: Faulty) -> Callable[[], None]:
    """Return what lets the alerts' sensor look once, as the daemon does every minute."""
    repository = watched.definitions.get_repository_def()

    def tick() -> None:
        with dg.build_sensor_context(
            instance=watched.instance, repository_def=repository, resources={"records": Records()}
        ) as context:
            assert not repository.get_sensor_def(ON_CALL).evaluate_tick(context).run_requests

    return tick


def back(windows: int) -> timedelta:
    return -windows * timedelta(minutes=15)


def test_f19_a_day_of_failures_is_bounded_attempts_and_one_alert_for_each_change(
    watched: Faulty, hook: HttpReceiver, tick: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    without_waiting(monkeypatch)
    with clock.shifted(back(WINDOWS + 1)):
        assert watched.run(GROUP).success
        tick()
    before = watched.judge.group("Beta")
    watched.churn(0.2)
    watched.fault("apptimize", kind="status", status=503, match="/cohorts", times=None)
    for window in reversed(range(1, WINDOWS + 1)):
        asked, queried = watched.judge.asked().total(), watched.judge.queried().total()
        with clock.shifted(back(window)):
            sentence = said(watched.run(GROUP))
            tick()
        assert "Apptimize (EU) did not confirm the request (HTTP 503)" in sentence, window  # of a change, or of a look
        assert 1 <= watched.judge.asked().total() - asked <= ATTEMPTS * IN_FLIGHT, window
        assert watched.judge.queried().total() - queried == 1, window
    assert watched.judge.group("Beta") == before
    assert hook.states == ["failing"]

    watched.mend()
    assert watched.run(GROUP).success
    tick()
    tick()
    assert hook.states == ["failing", "recovered"]
    assert watched.judge.group("Beta") == watched.judge.payload(GROUP, watched.window(GROUP))

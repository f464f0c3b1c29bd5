"""The sensor of the alerts under Dagster's own daemon."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines_tests.live import Live, serving, until
from cohort_pipelines_tests.live_project import APPTIMIZE, MODULE, new_project, roomy
from cohort_pipelines_tests.receivers import http_receiver
from cohort_pipelines_tests.test_daemon import REPOSITORY, ended_run, launch_as_the_ui_does

pytestmark = pytest.mark.slow

ALERTS = """
type: cohort_pipelines.orchestration.Alerts
attributes: {webhook: "{{ env.ALERTS_URL }}"}
"""


def ticks(dagster: Live) -> list[dict[str, Any]]:
    query = """query($selector: SensorSelector!) { sensorOrError(sensorSelector: $selector) { ... on Sensor {
        sensorState { ticks(limit: 20) { status runIds skipReason error { message } } } } } }"""
    found: list[dict[str, Any]] = dagster.ask(query, selector=REPOSITORY | {"sensorName": "on_call"})["sensorState"][
        "ticks"
    ]
    return found


def test_the_daemon_tells_of_a_sync_that_no_run_was_started_for_and_of_its_recovery(tmp_path: Path) -> None:
    with http_receiver() as receiver, new_project(tmp_path / "alerted") as project:
        alerts = project.folder / MODULE / "defs" / "on_call"
        alerts.mkdir()
        (alerts / "defs.yaml").write_text(ALERTS, encoding="utf-8")
        with clock.shifted(-timedelta(hours=2)):
            project.ledger.note_window(APPTIMIZE, Cadence.QUARTER_HOUR.window_at(clock.now()).key, "open")
        with serving(project.folder, {**project.environment, "ALERTS_URL": receiver.url}) as dagster:
            until(lambda: receiver.bodies, "the first alert", 180)
            until(lambda: roomy(Cadence.QUARTER_HOUR), "a window with time left", 180)
            window = Cadence.QUARTER_HOUR.window_at(clock.now()).key
            assert ended_run(dagster, launch_as_the_ui_does(dagster, APPTIMIZE, window))["status"] == "SUCCESS"
            until(lambda: len(receiver.bodies) > 1, "the second alert", 180)
            seen = ticks(dagster)

    assert [(body["sync"], body["state"], body["previous"]) for body in receiver.bodies] == [
        (APPTIMIZE, "late", "ok"),
        (APPTIMIZE, "recovered", "late"),
    ]
    assert receiver.bodies[0]["project"] == MODULE
    assert {(tick["status"], tuple(tick["runIds"]), tick["error"]) for tick in seen} == {("SKIPPED", (), None)}
    assert f"on_call/webhook: {APPTIMIZE} has recovered" in {tick["skipReason"] for tick in seen}

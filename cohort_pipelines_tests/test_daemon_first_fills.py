"""First fills under Dagster's own scheduler, queue and daemon: beside each other, and new syncs before others go on."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from cohort_pipelines.core import clock
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.devtools.processes import HOST
from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.live import serving, until
from cohort_pipelines_tests.live_project import APPTIMIZE, LiveProject, declare, write_project
from cohort_pipelines_tests.test_daemon import (
    ended_run,
    launch_as_the_ui_does,
    newest_tick_with_a_run,
    switch_off_every_minute,
    switch_on_every_minute,
)

pytestmark = pytest.mark.slow

NEW = tuple(f"new_{number}" for number in range(6))
BEGUN = "begun"  # before all others by its name: only its turn tells it from those that are new
RECEIVER = """
type: cohort_pipelines.orchestration.WebhookDestination
attributes: {url: "{{ env.WEBHOOK_URL }}", account: receiver}
"""
SYNC = """
type: cohort_pipelines.orchestration.CohortSync
attributes:
  {{source: demo_project, cohort_id: {cohort_id}, destination: receiver, target: {name}, type: recurring,
    since: 2026-11-01}}
"""
_PATIENCE = 25.0  # seconds; less than a request may take


@dataclass
class Receiver:
    """Refuses every message until it is ``open``, and then answers none before ``together`` groups have sent one."""

    url: str
    together: int
    open: bool = False
    groups: list[str] = field(default_factory=list)
    met: threading.Event = field(default_factory=threading.Event)

    def status_for(self, group: str) -> int:
        if not self.open:
            return 401
        if group not in self.groups:
            self.groups.append(group)
        if len(self.groups) >= self.together:
            self.met.set()
        self.met.wait(_PATIENCE)
        return 200


@contextmanager
def receiving(together: int) -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            message = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(receiver.status_for(message["parameters"]["mixpanel_cohort_name"]))
            self.end_headers()
            self.wfile.write(json.dumps({"action": message["action"], "status": "success"}).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        receiver = Receiver(f"http://{HOST}:{server.server_port}/", together)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def project(tmp_path: Path) -> Iterator[LiveProject]:
    folder = tmp_path / "live"
    write_project(folder)
    declare(folder, "receiver", RECEIVER)
    with in_thread(Settings(members=2_000)) as standins:
        cohorts = standins.standins.mixpanel.project.cohorts
        for cohort_id, name in enumerate((BEGUN, *NEW), start=1):
            cohorts[cohort_id] = replace(cohorts[BETA_USERS], id=cohort_id, name=name)
            declare(folder, name, SYNC.format(cohort_id=cohort_id, name=name))
        yield LiveProject(folder, standins)


def first_fills_at_once(folder: Path) -> int:
    limits = yaml.safe_load((folder / "dagster.yaml").read_text())["concurrency"]["runs"]["tag_concurrency_limits"]
    return next(int(each["limit"]) for each in limits if each["key"] == "cohort_pipelines/unknown_length")


def test_first_fills_run_beside_each_other_and_new_syncs_before_one_that_goes_on(project: LiveProject) -> None:
    at_once = first_fills_at_once(project.folder)
    assert at_once > 1
    with receiving(together=at_once) as receiver:
        environment = {**project.environment, "WEBHOOK_URL": receiver.url}
        project.deliver_windows(APPTIMIZE, {1: 0.05})
        with serving(project.folder, environment) as dagster:
            until(has_minutes_left, "a window with time left", 240)
            window = Cadence.QUARTER_HOUR.window_at(clock.now()).key
            assert ended_run(dagster, launch_as_the_ui_does(dagster, BEGUN, window))["status"] == "FAILURE"
            assert project.ledger.last_attempt(BEGUN)

            receiver.open = True
            switch_on_every_minute(dagster)
            until(lambda: newest_tick_with_a_run(dagster), "a tick that starts the runs")
            switch_off_every_minute(dagster)  # every tick would start them all again
            assert receiver.met.wait(60)
            expected = {BEGUN, *NEW, APPTIMIZE}
            delivered = until(lambda: delivered_in_one_window(project, expected), "a window of every sync", 240)

    assert delivered >= window
    assert set(receiver.groups[:at_once]) < set(NEW)
    begun_before = receiver.groups.index(BEGUN)
    assert begun_before > len(NEW) - at_once  # the last of those that are new may be starting just then


def has_minutes_left() -> bool:
    closes = Cadence.QUARTER_HOUR.window_at(clock.now()).closes
    assert closes is not None
    return closes - clock.now() > timedelta(minutes=3)


def delivered_in_one_window(project: LiveProject, syncs: set[str]) -> str | None:
    """Return the newest window that all of ``syncs`` have delivered."""
    windows = [{row.key for row in project.ledger.windows(sync) if row.state == "delivered"} for sync in syncs]
    return max(set.intersection(*windows), default=None)

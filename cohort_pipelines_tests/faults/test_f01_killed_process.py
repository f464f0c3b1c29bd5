"""F1: the four assets in a process that is really killed, at every kind of point; the next run is exact.

Each run that dies has an audience of its own to deliver, in a window of its own: in another's window its snapshot would
be kept, and there would be nothing left to do.
"""

import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Literal

import dagster as dg
import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.destinations.wire import ChangeWire
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines_tests.faults import killed, projects
from cohort_pipelines_tests.faults.checker import Checker
from cohort_pipelines_tests.faults.killed import Point
from cohort_pipelines_tests.faults.wires import TARGET, Row, Wired, small_chunks

LEASE_IS_OVER = timedelta(minutes=2)
FLAGS, MESSAGES, FILES = "flags", "messages", "file"
"""The syncs, by their wires."""

ANY_SIZE = ", gates: {max_shrink: 1}"  # a sync whose turn comes late finds much changed
PROJECT = {
    "mixpanel": projects.MIXPANEL,
    # nothing is sent only to reconcile, so that all that is sent is a change or was in flight when a process died
    "taplytics": projects.adding(projects.TAPLYTICS, "concurrency: 2, reconcile_within: off"),
    "apptimize": projects.adding(projects.MESSAGES, "reconcile_within: off"),
    "apptimize_files": projects.FILES,
    FLAGS: projects.sync("taplytics", TARGET, more=ANY_SIZE),
    MESSAGES: projects.sync("apptimize", TARGET, "recurring", more=ANY_SIZE),
    FILES: projects.sync("apptimize_files", TARGET, "recurring", more=ANY_SIZE),
}
ONE_READING = {"/api/query/engage": 3}
"""A query of Mixpanel's: page 0, and the two others that belong to it."""

Left = Literal["all", "some", "nothing"]


@dataclass(frozen=True)
class Kill:
    """Where a run of the sync ``name`` dies, and what the next one then has to do.

    ``left``: how much of the change the receiver does not have yet. ``sealed``: whether there is a snapshot to keep.
    """

    name: str
    at: Point
    left: Left
    sealed: bool = True

    def __str__(self) -> str:
        return f"{self.name}-{self.at}"


@dataclass(frozen=True)
class Death:
    """What the other sides saw of a run that died, and of the next one in the same window.

    ``before``, ``at_death`` and ``after`` are whom the receiver held then, ``payload`` is whom it should hold in the
    end. ``died`` and ``repaired`` are what it was asked for by each, ``asked`` is what the next one asked of Mixpanel.
    """

    before: set[str]
    at_death: set[str]
    after: set[str]
    payload: set[str]
    died: Counter[Row]
    repaired: Counter[Row]
    asked: Counter[str]

    @property
    def left(self) -> Left:
        if self.at_death == self.before:
            return "all"
        return "nothing" if self.at_death == self.payload else "some"

    @property
    def again(self) -> int:
        """How often the receiver was asked for what it had been asked for already."""
        sent = self.died + self.repaired
        return sent.total() - len(sent)

    @property
    def unchanged(self) -> set[str]:
        """Who was sent though they neither joined nor left."""
        return {user for _, user in self.died + self.repaired} - (self.before ^ self.payload)


@dataclass(frozen=True)
class Mortal:
    """A project whose services are in a process of their own, as is each run that is to die."""

    standins: Addresses
    folder: Path
    package: Path
    syncs: dict[str, ResolvedSync]
    definitions: dg.Definitions

    @property
    def judge(self) -> Checker:
        return Checker(self.folder / "data", self.standins)

    def wired(self, name: str) -> Wired:
        return Wired(name, self.standins, self.folder)

    def churn(self) -> None:
        httpx.post(f"{self.standins.mixpanel_url}/standin/churn", json={"fraction": 0.2}).raise_for_status()

    def run(self, name: str) -> str:
        """Run the sync in this process; return the window's key."""
        sync = self.syncs[name]
        job = self.definitions.resolve_job_def(sync.job)
        job = job.get_subset(asset_selection=set(sync.keys), asset_check_selection=set(sync.inline_checks))
        assert sync.cadence is not None
        key = sync.cadence.window_at(clock.now()).key
        with dg.DagsterInstance.ephemeral() as instance, small_chunks():
            result = job.execute_in_process(instance=instance, partition_key=key, raise_on_error=False)
        assert projects.said(result) == ""
        assert result.asset_materializations_for_node(sync.key("destination_upload").to_python_identifier())
        return key

    def die_and_run_again(self, kill: Kill) -> Death:
        """Let a run of the open window die, and the next one follow when its lease is over."""
        wired = self.wired(kill.name)
        wired.forget_sent()
        before = wired.members
        assert killed.run_in_a_process(self.package, kill.name, kill.at) == -signal.SIGKILL
        at_death, died, asked = wired.members, wired.sent(), self.judge.queried()
        wired.forget_sent()
        with clock.shifted(LEASE_IS_OVER):
            window = self.run(kill.name)
        return Death(
            before=before,
            at_death=at_death,
            after=wired.members,
            payload=self.judge.payload(kill.name, window),
            died=died,
            repaired=wired.sent(),
            asked=self.judge.queried() - asked,
        )


@contextmanager
def opened(folder: Path) -> Iterator[Mortal]:
    with (
        pytest.MonkeyPatch.context() as patch,
        running(Settings(members=120, page_size=50, queries_per_hour=1000)) as standins,
    ):
        environment = {"COHORT_PIPELINES_DATA": str(folder / "data"), "IMPORTS": str(folder / "imports")}
        for name, value in {**standins.environment(), **environment}.items():
            patch.setenv(name, value)
        patch.delenv("COHORT_PIPELINES_LEDGER", raising=False)
        package = projects._write(folder, PROJECT)
        syncs = {sync.name: sync for sync in resolved_syncs(component_tree(package))}
        yield Mortal(standins, folder, package, syncs, project_definitions(package))


@contextmanager
def window(back: int) -> Iterator[None]:
    """Set the clock to the start of the two-hour window that lies ``back`` before the open one."""
    with clock.shifted(projects.opening() + projects.to_the_window_before(back)):
        yield


KILLS = [
    Kill(FLAGS, Point("query", 1, "after"), "all", sealed=False),
    Kill(FLAGS, Point("cohort_snapshot", 1, "before"), "all", sealed=False),
    Kill(FLAGS, Point("commit", 4, "after"), "all"),  # the snapshot is in the ledger
    Kill(FLAGS, Point("plan", 1, "after"), "all"),
    Kill(FLAGS, Point("mark", 1, "before"), "all"),
    Kill(FLAGS, Point("request", 1, "after"), "some"),
    Kill(FLAGS, Point("request", 20, "before"), "some"),
    Kill(FLAGS, Point("membership", 1, "before"), "nothing"),
    Kill(MESSAGES, Point("cohort_snapshot", 1, "after"), "all", sealed=False),  # it has its name, and is in no ledger
    Kill(MESSAGES, Point("commit", 10, "after"), "all"),  # the first intent
    Kill(MESSAGES, Point("request", 1, "after"), "some"),
    Kill(MESSAGES, Point("commit", 27, "before"), "some"),  # between an answer and its record
    Kill(MESSAGES, Point("request", 30, "before"), "some"),  # among the removals
    Kill(MESSAGES, Point("mark", 2, "after"), "nothing"),
    Kill(FILES, Point("commit", 10, "after"), "all"),  # the intent
    Kill(FILES, Point("pointer", 1, "before"), "all"),
    Kill(FILES, Point("pointer", 1, "after"), "nothing"),
]


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    """Return a project whose targets were filled in a window before those of the kills."""
    with opened(tmp_path_factory.mktemp("mortal")) as mortal:
        with window(len(KILLS)):
            for name in mortal.syncs:
                mortal.run(name)
        yield mortal


@pytest.mark.parametrize("kill", KILLS, ids=str)
def test_f01_a_killed_run_of_the_four_assets_is_made_good_by_the_next(mortal: Mortal, kill: Kill) -> None:
    mortal.churn()
    with window(len(KILLS) - 1 - KILLS.index(kill)):
        death = mortal.die_and_run_again(kill)

    assert death.after == death.payload
    assert mortal.judge.damaged() == []
    assert death.payload - death.before  # joiners
    assert death.before - death.payload  # leavers
    assert death.left == kill.left
    assert death.asked == ({} if kill.sealed else ONE_READING)
    assert death.again <= in_flight(mortal.wired(kill.name))
    assert len(death.unchanged) <= in_flight(mortal.wired(kill.name))  # in doubt since the death before


def test_f01_a_killed_first_fill_is_made_good_by_the_next(tmp_path: Path) -> None:
    with opened(tmp_path) as mortal, window(0):
        death = mortal.die_and_run_again(Kill(FLAGS, Point("request", 30, "after"), "some"))

        assert death.before == death.unchanged == set()
        assert death.after == death.payload
        assert death.left == "some"
        assert death.asked == {}
        assert death.again <= in_flight(mortal.wired(FLAGS))


def in_flight(wired: Wired) -> int:
    """Return how many rows can be on their way when a process dies: a chunk for each of its workers."""
    partner = wired.partner()
    return partner.workers * partner.chunk_rows if isinstance(partner, ChangeWire) else 0

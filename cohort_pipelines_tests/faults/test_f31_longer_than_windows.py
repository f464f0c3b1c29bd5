"""F31: a delivery that takes several windows converges, says when, and does not hold up its neighbours."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from itertools import pairwise
from pathlib import Path

import dagster as dg
import httpx
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred
from cohort_pipelines.core.http import AsyncClient, Response, send
from cohort_pipelines.core.process_names import name_of
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.delivery import Receipt
from cohort_pipelines.destinations import exchange
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.faults.projects import Faulty
from cohort_pipelines_tests.faults.wires import Wired
from cohort_pipelines_tests.orchestration.demo_project import Project
from cohort_pipelines_tests.orchestration.test_schedules import NOON, tick, twins

MANY = users(*range(40))
OF_A_REQUEST = timedelta(seconds=10)  # a single jump as long as the lease would mean that the process was stopped
OF_A_WINDOW = timedelta(minutes=2)
A_WINDOW = Cadence.QUARTER_HOUR.value


@pytest.fixture(params=["flags", "messages"])
def wired(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Wired]:
    with in_thread(Settings(members=10)) as standins:
        yield Wired(request.param, standins, tmp_path)


@pytest.fixture
def _slow_receiver() -> Iterator[None]:
    with slow():
        yield


@contextmanager
def slow(target: str = "") -> Iterator[None]:
    """Let each request that names ``target`` take ten seconds, one after another, by the clock that is asked."""
    with ExitStack() as passed, pytest.MonkeyPatch.context() as patch:

        async def send_slowly(http: AsyncClient, request: httpx.Request, *, seconds: float, max_bytes: int) -> Response:
            response = await send(http, request, seconds=seconds, max_bytes=max_bytes)
            if target.encode() in request.content:
                passed.enter_context(clock.shifted(OF_A_REQUEST))
            return response

        patch.setattr(exchange, "send", send_slowly)
        yield


@pytest.mark.usefixtures("_slow_receiver")
def test_f31_a_first_fill_of_several_windows_goes_on_from_membership(wired: Wired) -> None:
    world, receipt = World(wired.folder), None
    deferred: list[DeliveryDeferred] = []
    while receipt is None:
        receipt = deliver_in_a_window(world, wired, deferred)
        world.next_window()
        assert len(deferred) < 8

    assert receipt.state is AttemptState.DELIVERED
    assert wired.members == MANY
    assert len(deferred) >= 2
    assert max(wired.sent().values()) == 1  # nothing was begun anew
    for earlier, later in pairwise(deferred):
        assert later.planned < earlier.planned
        assert later.eta_seconds is not None
        assert earlier.eta_seconds is not None
        assert 0 < later.eta_seconds < earlier.eta_seconds
    assert "more minutes are needed" in str(deferred[0])


def test_f31_who_was_never_delivered_runs_alone_and_its_neighbours_are_not_held_up(project: Project) -> None:
    """Nobody knows how long a first fill takes; while it goes on, the later ticks are its neighbours' alone."""
    definitions, first, second = twins(project)
    at = NOON + timedelta(days=2)

    runs, _ = tick(definitions, "recurring_syncs", at)

    assert [run.asset_selection for run in runs] == [first.keys, second.keys]
    assert len({run.run_key for run in runs}) == 2


def test_f31_a_sync_that_became_slow_runs_alone_in_the_next_window_already(
    project: Faulty, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its earlier deliveries it is still quick, and would hold up who shares its run window after window."""
    monkeypatch.setattr(CohortMessages, "chunk_rows", 1)  # so that its changes take more requests than a window has
    definitions, first, second = twins(project)

    with clock.shifted(-4 * A_WINDOW):
        assert [launched(project, definitions, run) for run in due(definitions)] == [first.keys, second.keys]
    with clock.shifted(-3 * A_WINDOW):
        project.churn(0.3)
        [together] = due(definitions)
        with slow(second.target):
            assert launched(project, definitions, together) == first.keys + second.keys
        assert [project.ledger.windows(sync.name)[0].state for sync in (first, second)] == ["delivered", "deferred"]

    with clock.shifted(-2 * A_WINDOW):
        alone, with_none = due(definitions)
        assert launched(project, definitions, alone) == second.keys
        assert launched(project, definitions, with_none) == first.keys
        assert [project.ledger.windows(sync.name)[0].state for sync in (first, second)] == ["delivered"] * 2
    with clock.shifted(-A_WINDOW):
        [_together_again] = due(definitions)


def test_f31_a_sync_that_is_still_delivering_is_left_out_and_its_neighbour_is_run(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions, first, second = twins(project)
    monkeypatch.setattr(Ledger, "writer", lambda _ledger, sync: name_of() if sync == first.name else None)

    [run], _ = tick(definitions, "recurring_syncs", NOON + timedelta(days=2))

    assert run.asset_selection == second.keys
    [row] = project.ledger.windows(first.name)
    assert (row.state, row.reason) == ("skipped", "the delivery of an earlier window still goes on")


def due(definitions: dg.Definitions) -> list[dg.RunRequest]:
    """Return what the tick of the window that is open asks for."""
    runs, _ = tick(definitions, "recurring_syncs", clock.now())
    return runs


def launched(project: Project, definitions: dg.Definitions, asked: dg.RunRequest) -> Sequence[dg.AssetKey]:
    """Run what a tick asked for, and return its assets."""
    assert asked.asset_selection
    job = definitions.resolve_job_def("recurring_syncs").get_subset(
        asset_selection=set(asked.asset_selection), asset_check_selection=set(asked.asset_check_keys or ())
    )
    ended = job.execute_in_process(instance=project.instance, partition_key=asked.partition_key, tags=dict(asked.tags))
    assert ended.success
    return asked.asset_selection


def deliver_in_a_window(world: World, wired: Wired, deferred: list[DeliveryDeferred]) -> Receipt | None:
    try:
        return world.overwrite(MANY, partner=wired.partner(), deadline=clock.now() + OF_A_WINDOW)
    except DeliveryDeferred as later:
        deferred.append(later)
        return None

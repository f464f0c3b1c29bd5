"""The same deliveries over the real wires: HTTP to a stand-in, and a folder."""

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines.core.errors import DeliveryStopped
from cohort_pipelines.destinations.csv_file import CsvFile
from cohort_pipelines.destinations.taplytics import Taplytics
from cohort_pipelines.devtools.standins.faults import Fault
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.delivery.world import World, users
from cohort_pipelines_tests.event_loops import free_of_the_ledger


@pytest.fixture
def standins() -> Iterator[InThread]:
    with in_thread(Settings(members=10)) as running:
        yield running


def test_per_user_flags_after_a_cut_connection(world: World, standins: InThread) -> None:
    partner = Taplytics(key=standins.credentials.taplytics_key, url=standins.taplytics_url, concurrency=4)
    state = standins.standins.taplytics
    payload, seq = world.seal(users(*range(250)))
    world.deliver(payload, seq, partner=partner)
    assert set(state.members("Beta")) == users(*range(250))

    world.next_window()
    payload, seq = world.seal(users(*range(100, 400)))
    standins.standins.taplytics_faults.add(Fault(kind="status", status=401, after=120, times=None))
    with pytest.raises(DeliveryStopped, match="refused the key"):
        world.deliver(payload, seq, partner=partner)
    standins.standins.taplytics_faults.clear()

    world.next_window()
    payload, seq = world.seal(users(*range(50, 300)))
    receipt = world.deliver(payload, seq, partner=partner)
    assert set(state.members("Beta")) == users(*range(50, 300))
    assert receipt.requests < 250  # the difference, from what is known


def test_a_lease_that_may_be_over_is_looked_up_outside_of_the_event_loop(world: World, standins: InThread) -> None:
    partner = Taplytics(key=standins.credentials.taplytics_key, url=standins.taplytics_url)
    payload, seq = world.seal(users(1, 2, 3))
    with free_of_the_ledger() as blocking:
        world.deliver(payload, seq, partner=partner, lease_seconds=1e-6)
    assert set(standins.standins.taplytics.members("Beta")) == users(1, 2, 3)
    assert blocking == []


def test_a_lost_answer_that_was_asked_for_again_is_delivered_but_in_doubt(world: World, standins: InThread) -> None:
    partner = Taplytics(key=standins.credentials.taplytics_key, url=standins.taplytics_url)
    standins.standins.taplytics_faults.add(Fault(kind="lost_response", contains="user-0002"))
    payload, seq = world.seal(users(1, 2, 3))

    receipt = world.deliver(payload, seq, partner=partner)

    assert (receipt.state, receipt.acknowledged, receipt.in_doubt) == ("delivered", 3, 1)


def test_a_file_of_the_whole_audience(world: World, tmp_path: Path) -> None:
    partner = CsvFile(partner="Apptimize", folder=tmp_path / "imports")
    for audience in (users(1, 2, 3), users(2, 3, 4)):
        payload, seq = world.seal(audience)
        world.deliver(payload, seq, partner=partner)
        world.next_window()

    shutil.rmtree(tmp_path / "imports")
    payload, seq = world.seal(users(2, 3, 4))
    assert world.deliver(payload, seq, partner=partner).planned == 0
    (current,) = (tmp_path / "imports").rglob("current*")
    with current.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["user_id"]
    assert {row[0] for row in rows} == users(2, 3, 4)

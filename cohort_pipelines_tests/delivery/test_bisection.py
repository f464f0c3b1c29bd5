"""A row for which the partner refuses a whole request is found, and holds up nobody else."""

import math
import shutil
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.errors import DeliveryRejected, DeliveryStopped, PartnerRequestRejected
from cohort_pipelines.core.files import Stage
from cohort_pipelines.delivery.chunks import OPENING_ROWS, extra_requests, read_phases
from cohort_pipelines.destinations.wire import Answer
from cohort_pipelines.history import History
from cohort_pipelines.membership.plan import PLAN_SCHEMA, PlanCounts
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Fault, Killed, MemoryPartner, Sent, World, users

pytestmark = pytest.mark.slow

BATCH = 100


@pytest.fixture
def world(world: World) -> World:
    world.partner.chunk_rows = BATCH
    return world


def poisoned_by(*numbers: int) -> Fault:
    """Refuse each request that holds one of some users as a whole, whatever it asks, and take the others."""
    bad = users(*numbers)

    def fault(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        if not bad.isdisjoint(ids):
            raise PartnerRequestRejected(partner.wire, 400)
        partner.apply(Sent(operation, tuple(ids)))
        return Answer(requests=1)

    return fault


def refusing_from(number: int) -> Fault:
    """Take what comes before request ``number``, and refuse that one and all after it."""

    def fault(partner: MemoryPartner, operation: Operation, ids: Sequence[str]) -> Answer:
        if len(partner.requests) >= number:
            raise PartnerRequestRejected(partner.wire, 404)
        partner.apply(Sent(operation, tuple(ids)))
        return Answer(requests=1)

    return fault


def rejected_in(world: World) -> set[str]:
    """Return the ids that the window's newest receipt lists as refused."""
    receipts = world.history.versions(SYNC, Stage.RECEIPT, world.window.key)
    rows = [row for file in receipts for row in next(world.history.batches(file)).to_pylist()]
    return {each["id"] for each in max(rows, key=lambda row: row["attempt"])["rejected_rows"]}


def test_one_bad_row_of_a_batch_is_found_and_the_rest_is_sent(world: World) -> None:
    world.partner.always = poisoned_by(345)
    with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
        world.overwrite(users(*range(1_000)))
    assert world.partner.members == users(*range(1_000)) - users(345)
    assert rejected_in(world) == users(345)
    assert len(world.partner.requests) <= 10 + 2 * math.ceil(math.log2(BATCH))


def test_a_bad_leaver_is_found_too(world: World) -> None:
    world.overwrite(users(*range(300)))
    world.next_window()
    world.partner.always = poisoned_by(7)
    with pytest.raises(DeliveryRejected, match="0 additions and 1 removals"):
        world.overwrite(users(*range(200, 310)))
    assert world.partner.members == users(7, *range(200, 310))


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_bad_rows_in_both_halves_of_a_batch_are_no_sign_of_a_bad_connection(world: World, workers: int) -> None:
    world.partner.workers = workers
    world.partner.always = poisoned_by(110, 190, 310, 390)
    with pytest.raises(DeliveryRejected, match="4 additions"):
        world.overwrite(users(*range(600)))
    assert world.partner.members == users(*range(600)) - users(110, 190, 310, 390)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_both_halves_refused_and_the_next_batch_too_means_the_connection(world: World, workers: int) -> None:
    world.partner.workers = workers
    world.partner.always = refusing_from(4)
    with pytest.raises(DeliveryStopped, match="exists where the partner asks"):
        world.overwrite(users(*range(5_000)))
    assert len(world.partner.requests) <= 3 + 5 + 3 * workers
    assert BATCH <= len(world.partner.members) <= 3 * BATCH  # it refuses what is under way with the fourth, too


def test_both_halves_of_the_last_batch_refused_means_the_connection(world: World) -> None:
    world.partner.workers = 1
    world.partner.always = refusing_from(4)
    with pytest.raises(DeliveryStopped, match="exists where the partner asks"):
        world.overwrite(users(*range(4 * BATCH)))
    assert len(world.partner.requests) == 3 + 3 + 1


def test_a_bad_row_in_each_half_of_the_last_batch_is_told_from_the_connection_by_one_row(world: World) -> None:
    world.partner.workers = 1
    world.partner.always = poisoned_by(310, 390)
    with pytest.raises(DeliveryRejected, match="2 additions"):
        world.overwrite(users(*range(400)))
    assert world.partner.members == users(*range(400)) - users(310, 390)


def test_a_batch_refused_before_anything_was_acknowledged_is_divided_once_something_is(world: World) -> None:
    world.partner.workers = 1
    world.overwrite(users(*range(900, 910)))
    world.next_window()
    world.partner.always = poisoned_by(5)
    with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
        world.overwrite(users(*range(50)))  # the removals are what is acknowledged first
    assert world.partner.members == users(*range(50)) - users(5)


def test_the_budget_bounds_the_search_and_later_windows_end_it(world: World) -> None:
    audience, bad = users(*range(1_000)), {100 * batch + row for batch in range(1, 9) for row in (3, 40, 77)}
    world.partner.always = poisoned_by(*bad)
    left: list[int] = []
    while not left or rejected_in(world) != users(*bad):
        before = len(world.partner.requests)
        world.next_window()
        with pytest.raises(DeliveryRejected):
            world.overwrite(audience)
        left.append(len(rejected_in(world)))
        assert len(world.partner.requests) - before <= 10 + 2 * extra_requests(1_000)
        assert world.partner.members == audience - rejected_in(world)
        assert len(left) < 10, left
    assert left[0] > len(bad)  # else the budget bounded nothing
    assert left == sorted(left, reverse=True)


def test_rows_refused_last_time_go_alone_and_last_and_hold_up_nobody(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    world.partner.always = poisoned_by(10, 11)
    with pytest.raises(DeliveryRejected):
        world.overwrite(users(*range(20)))

    before = len(world.partner.requests)
    world.next_window()
    with pytest.raises(DeliveryRejected, match="2 additions"):
        world.overwrite(users(*range(5, 30)))
    sent = [(each.operation, len(each.ids)) for each in world.partner.requests[before:]]
    assert world.partner.members == users(*range(5, 30)) - users(10, 11)
    assert (Operation.ADD, 1) in sent
    assert [operation for operation, _ in sent] == sorted(operation for operation, _ in sent)


def test_a_target_that_refuses_all_is_not_asked_for_the_rows_it_refused_before(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    world.partner.always = poisoned_by(*range(20, 30))
    with pytest.raises(DeliveryRejected, match="10 additions"):
        world.overwrite(users(*range(150)))

    before = len(world.partner.requests)
    world.next_window()
    world.partner.always = refusing_from(0)
    with pytest.raises(DeliveryStopped, match="exists where the partner asks"):
        world.overwrite(users(*range(1, 151)))
    assert len(world.partner.requests) - before <= 2 * world.partner.workers


def test_one_id_refused_for_many_windows_costs_one_request_each(world: World) -> None:
    world.partner.always = poisoned_by(0)
    world.overwrite(users(1))
    for window in range(2, 12):
        before = len(world.partner.requests)
        world.next_window()
        with pytest.raises(DeliveryRejected, match="1 additions and 0 removals"):
            world.overwrite(users(*range(window)))
        assert world.partner.members == users(*range(1, window))
        if window > 2:
            assert sorted(len(sent.ids) for sent in world.partner.requests[before:]) == [1, 1]

    world.partner.always = None
    world.next_window()
    assert world.overwrite(users(*range(12))).rejected == 0
    world.next_window()
    assert world.overwrite(users(*range(12))).planned == 0


def test_a_partner_that_judges_rows_is_not_asked_again(world: World) -> None:
    world.partner.judges_rows = True
    world.partner.workers = 1
    second = range(OPENING_ROWS, OPENING_ROWS + BATCH)
    world.partner.always = poisoned_by(*second)
    with pytest.raises(DeliveryRejected, match="100 additions"):
        world.overwrite(users(*range(300)))
    assert len(world.partner.requests) == 4
    assert world.partner.members == users(*range(300)) - users(*second)


def test_a_partner_that_judges_rows_and_refuses_batch_after_batch_is_the_connection(world: World) -> None:
    world.partner.judges_rows = True
    world.partner.always = refusing_from(4)
    with pytest.raises(DeliveryStopped, match="exists where the partner asks"):
        world.overwrite(users(*range(5_000)))
    assert len(world.partner.requests) <= 3 + 3 + world.partner.workers


@pytest.mark.slow
def test_killed_at_any_point_while_dividing_the_audience_is_exact(tmp_path: Path) -> None:
    audience, bad = users(*range(8)), users(5)
    World(tmp_path / "template").overwrite(users(30))
    point, alive = 0, True
    while alive:
        point += 1
        folder = tmp_path / str(point)
        shutil.copytree(tmp_path / "template", folder)
        world = World(folder, MemoryPartner(chunk_rows=4, members=users(30), always=poisoned_by(5)))
        world.next_window()
        try:
            world.overwrite(audience, fate=Fate(dies_at=point))
            alive = False
        except DeliveryRejected:
            alive = False
        except Killed:
            with clock.shifted(timedelta(minutes=2)), pytest.raises(DeliveryRejected):
                world.overwrite(audience)
        assert world.partner.members == audience - bad, point
        shutil.rmtree(folder)
    assert point > 40


@pytest.mark.parametrize(
    ("rejected", "rows", "requests"),
    [(0, 0, 0), (1, 1, 1), (64, 1, 64), (65, 2, 33), (10_000, 50, 200), (640_000, 50, 12_800)],
)
def test_rows_refused_last_time_share_requests_where_they_are_many(rejected: int, rows: int, requests: int) -> None:
    assert extra_requests(rejected) >= requests
    assert rejected == 0 or math.ceil(rejected / extra_requests(rejected)) == rows


@pytest.mark.parametrize("turn", [0, 1, 5, 32, 33])
def test_requests_of_refused_rows_take_turns_at_being_the_first(tmp_history: History, turn: int) -> None:
    ids = [f"user-{number:04}" for number in range(75)]
    table = pa.table({"operation": ["add"] * 75, "id": ids, "alone": [False] * 10 + [True] * 65}, schema=PLAN_SCHEMA)
    plan = tmp_history.write(SYNC, Stage.PLAN, "2026-11-22T0000Z", table)
    counts = PlanCounts(adds=75, quarantined_adds=65)
    adds, removals, *reconciles = read_phases(tmp_history, plan, counts, MemoryPartner(chunk_rows=4), turn)

    together, alone = list(adds.chunks), list(adds.alone)
    assert [(chunk.lo, chunk.hi, chunk.alone) for chunk in together] == [(0, 4, False), (4, 8, False), (8, 10, False)]
    assert alone[0].lo == 10 + 2 * (turn % 33)
    assert sorted(row for chunk in alone for row in range(chunk.lo, chunk.hi)) == list(range(10, 75))
    assert all(chunk.alone and list(chunk.ids) == ids[chunk.lo : chunk.hi] for chunk in alone)
    assert [chunk for phase in (removals, *reconciles) for chunk in (*phase.chunks, *phase.alone)] == []

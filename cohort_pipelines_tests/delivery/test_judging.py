from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import select

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryDeferred, DeliveryHeld, DeliveryStopped, PartnerKeyRefused
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.core.windows import Window, one_time_window
from cohort_pipelines.delivery import Gates, Receipt, judging
from cohort_pipelines.ledger import schema
from cohort_pipelines.ledger.approvals import Verdict
from cohort_pipelines.ledger.schema import AttemptState
from cohort_pipelines.ledger.targets import all_targets
from cohort_pipelines.membership.plan import PlanCounts
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import ANY_SIZE, SYNC, World, dropped, users

pytestmark = pytest.mark.slow

STRICT = Gates(max_growth=0.0, max_churn=0.0)
GROWING = Gates(max_shrink=1.0, max_growth=0.5)


def audience(size: int) -> set[str]:
    return users(*range(size))


def gate_rows(world: World) -> dict[str, Verdict]:
    """Return what was recorded for the newest attempt."""
    with world.ledger.read() as connection:
        rows = connection.execute(select(schema.gate).order_by(schema.gate.c.attempt)).all()
    return {row.name: Verdict(row.name, row.value, row.limit, row.held, row.finding) for row in rows}


def held_by(world: World, size: int, gates: Gates) -> str:
    """Return the gate that holds an audience of ``size``; empty if it is delivered."""
    world.next_window()
    try:
        world.overwrite(audience(size), gates=gates)
    except DeliveryHeld as held:
        return held.gate
    return ""


@contextmanager
def ago(world: World, **since: float) -> Iterator[None]:
    """Set the clock and the window back."""
    now = world.window
    with clock.shifted(-timedelta(**since)):
        assert now.opens is not None
        world.window = type(now)(key=(now.opens - timedelta(**since)).strftime("%Y-%m-%dT%H%MZ"))
        yield
    world.window = now


def restored(world: World, size: int) -> Receipt:
    """Put an audience of ``size`` back that was delivered longer than a week ago."""
    with ago(world, days=10):
        world.overwrite(audience(size))
        window = world.window.key
    world.overwrite(audience(10))
    world.next_window()
    return world.restore(window)


def test_every_gate_leaves_a_row_with_its_finding(world: World) -> None:
    world.overwrite(audience(10), gates=Gates())

    rows = gate_rows(world)
    assert set(rows) == set(Gates().names)
    assert (rows["min_users"].value, rows["min_users"].limit, rows["min_users"].held) == (10, 1, False)
    assert rows["min_users"].finding == "the payload has 10 users, at least 1 are wanted"


def test_what_holds_is_in_the_ledger_and_nothing_is_sent(world: World) -> None:
    world.overwrite(audience(10))
    before = len(world.partner.requests)
    world.next_window()
    with pytest.raises(DeliveryHeld, match="4 users after 10"):
        world.overwrite(audience(4), gates=Gates())

    shrink = gate_rows(world)["max_shrink"]
    assert (shrink.value, shrink.limit, shrink.held) == (0.6, 0.5, True)
    assert "a loss of 60%" in shrink.finding
    assert len(world.partner.requests) == before


@pytest.mark.parametrize("every", [timedelta(minutes=15), timedelta(hours=2), timedelta(days=1)])
def test_an_audience_that_loses_a_fifth_in_each_window_is_held_at_the_fourth(world: World, every: timedelta) -> None:
    size, sizes = 100, []
    for number in range(8):
        with clock.shifted(number * every):
            if held_by(world, size, Gates()):
                break
            sizes.append(size)
        size = size * 4 // 5

    assert sizes == [100, 80, 64, 51]
    assert world.partner.members == audience(51)


def test_an_audience_of_as_many_others_is_held(world: World) -> None:
    world.overwrite(audience(10))
    world.next_window()
    with pytest.raises(DeliveryHeld, match="10 of 10 users that the target may hold would be removed"):
        world.overwrite(users(*range(10, 20)), gates=Gates())


def test_what_was_delivered_last_counts_however_long_ago(world: World) -> None:
    with ago(world, days=40):
        world.overwrite(audience(10))

    assert held_by(world, 4, Gates()) == "max_shrink"
    assert held_by(world, 16, GROWING) == "max_growth"
    assert held_by(world, 6, Gates()) == ""


def test_a_shrink_that_got_half_way_is_one_from_what_was_delivered_however_long_ago(world: World) -> None:
    with ago(world, days=40):
        world.overwrite(audience(10))
    world.next_window()
    world.partner.workers = 1
    world.partner.faults[len(world.partner.requests) + 2] = dropped
    with pytest.raises(DeliveryStopped):
        world.overwrite(audience(4))  # three of six leavers are out for certain
    world.next_window()

    with pytest.raises(DeliveryHeld, match="4 users after 10 delivered before"):
        world.overwrite(audience(4), gates=Gates())


def test_growth_is_measured_against_the_least_of_the_last_days(world: World) -> None:
    for number, size in enumerate([100, 120, 144]):
        with clock.shifted(timedelta(days=number)):
            assert held_by(world, size, GROWING) == ""
    with clock.shifted(timedelta(days=3)):
        assert held_by(world, 172, GROWING) == "max_growth"
    with clock.shifted(timedelta(days=8)):
        assert held_by(world, 172, GROWING) == ""


def test_a_restored_audience_is_not_what_the_next_one_is_measured_against(world: World) -> None:
    assert restored(world, 4).state is AttemptState.DELIVERED

    assert held_by(world, 10, GROWING) == ""


def test_a_one_time_export_is_not_what_a_window_is_measured_against(world: World) -> None:
    world.overwrite(audience(10))
    scheduled, world.window = world.window, one_time_window("launch")
    world.overwrite(audience(4))
    world.window = scheduled

    assert held_by(world, 10, GROWING) == ""


def test_one_time_exports_are_measured_against_each_other(world: World) -> None:
    for name, size in [("first", 10), ("second", 8), ("third", 6)]:
        world.window = one_time_window(name)
        world.overwrite(audience(size), gates=Gates())
    world.window = one_time_window("fourth")
    with pytest.raises(DeliveryHeld, match="4 users after 10"):
        world.overwrite(audience(4), gates=Gates())


def test_the_rest_of_a_first_fill_is_let_through_in_later_windows(world: World) -> None:
    world.partner.workers = 1
    for delivered in (9, 18):
        with pytest.raises(DeliveryDeferred):
            overwrite_until(world, 3)
        world.next_window()
        assert len(world.partner.members) == delivered

    receipt = world.overwrite(audience(30), gates=STRICT)

    assert receipt.joiners > 0
    assert world.partner.members == audience(30)
    assert held_by(world, 31, STRICT) == "max_growth"


def overwrite_until(world: World, requests: int) -> None:
    """Deliver until so many requests were made; then the window is over."""
    began, late = len(world.partner.requests), clock.shifted(timedelta(hours=2))
    deadline = clock.now() + timedelta(hours=1)
    world.partner.on_request = lambda number: late.__enter__() if number == began + requests else None
    try:
        world.overwrite(audience(30), gates=STRICT, deadline=deadline)
    finally:
        world.partner.on_request = None
        late.__exit__(None, None, None)


def test_a_first_fill_that_stopped_is_what_may_be_lost_but_not_what_may_grow(world: World) -> None:
    world.partner.faults[5] = dropped
    with pytest.raises(DeliveryStopped):
        world.overwrite(audience(60))

    assert held_by(world, 2, Gates()) == "max_shrink"
    assert held_by(world, 60, STRICT) == ""


def test_an_emptied_target_is_filled_anew(world: World) -> None:
    world.overwrite(audience(10))
    world.next_window()
    world.overwrite(set())

    assert held_by(world, 4, Gates()) == "max_shrink"
    with clock.shifted(timedelta(days=8)):
        assert held_by(world, 4, STRICT) == ""


def test_an_adopted_file_of_initial_members_is_what_may_be_lost_and_what_may_grow(world: World) -> None:
    there = world.folder / "there.csv"
    there.write_text("\n".join(["user_id", *sorted(audience(10))]), encoding="utf-8")
    adopted = Terms(initial_members=str(there))

    with pytest.raises(DeliveryHeld, match="4 users after 10 that the target may hold"):
        world.overwrite(audience(4), gates=Gates(), terms=adopted)
    world.next_window()
    with pytest.raises(DeliveryHeld, match="16 users after 10 that the target may hold"):
        world.overwrite(audience(16), gates=GROWING, terms=adopted)
    world.next_window()
    assert world.overwrite(audience(9), gates=Gates(), terms=adopted).leavers == 1


def test_shares_come_from_the_snapshot_and_its_identified_users(world: World) -> None:
    payload, seq = sealed(world, members=1000, identified=500, size=4)
    with pytest.raises(DeliveryHeld, match=r"4 of 500 identified users have a partner id, 0\.8%"):
        world.deliver(payload, seq, gates=Gates())
    with pytest.raises(DeliveryHeld, match="500 of 1,000 members are identified, 50%"):
        world.deliver(payload, seq, gates=Gates(min_identified_share=0.6))

    assert world.deliver(payload, seq, gates=Gates(min_mapped_share=0.005)).users == 4


def sealed(world: World, *, members: int, identified: int, size: int) -> tuple[StoredFile, int]:
    """Seal a payload of ``size`` as what is left of a cohort of ``members``."""
    payload, _ = world.seal(audience(size))
    seq = world.ledger.record_snapshot(
        SYNC, world.window.key, payload, clock.now(), members, members, project=1, cohort_id=2
    )
    for rows in (0, identified):  # the newest record counts
        file = StoredFile(SYNC, Stage.IDENTIFIED_USERS, world.window.key, payload.checksum, rows, 1)
        world.ledger.record_identified(seq, file)
    return payload, seq


def test_a_preview_finds_what_the_delivery_would_and_records_nothing(world: World) -> None:
    world.overwrite(audience(10), gates=STRICT)
    before = gate_rows(world)
    counts = PlanCounts(adds=0, removals=6, joiners=0, leavers=6)
    window = world.next_window()

    previewed = preview(world, window, users=4, counts=counts, held=10)

    assert gate_rows(world) == before
    assert held_by(world, 4, STRICT) == "max_shrink"
    assert [(each.name, each.held) for each in previewed] == [
        ("min_users", False),
        ("max_shrink", True),
        ("max_growth", False),
        ("max_churn", True),
        ("min_identified_share", False),
        ("min_mapped_share", False),
    ]
    assert {each.name: each.finding for each in previewed} == {
        name: each.finding for name, each in gate_rows(world).items()
    }


def preview(world: World, window: Window, *, users: int, counts: PlanCounts, held: int) -> list[Verdict]:
    with world.ledger.read() as connection:
        target = connection.execute(select(schema.target.c.id)).scalar_one()
    return judging.preview(
        world.ledger,
        STRICT,
        target_id=target,
        window=window.key,
        users=users,
        counts=counts,
        held=held,
        adopted=False,
        members=users,
        identified=None,
    )


@pytest.mark.parametrize(("held", "gates"), [(0, []), (10, ["max_growth", "max_churn"])])
def test_a_preview_of_a_first_delivery_needs_no_ledger(held: int, gates: list[str]) -> None:
    found = judging.preview(
        None,
        STRICT,
        target_id=None,
        window="2026-11-22T1200Z",
        users=20,
        counts=PlanCounts(adds=10, joiners=10),
        held=held,
        adopted=held > 0,
        members=None,
        identified=None,
    )

    assert [each.name for each in found if each.held] == gates


def test_what_was_found_is_there_for_the_run_that_delivered(world: World) -> None:
    world.overwrite(audience(10), gates=Gates(), run_id="first")
    world.next_window()
    with pytest.raises(DeliveryHeld):
        world.overwrite(set(), gates=Gates(), run_id="second")

    first, second = (judging.judged(world.ledger, SYNC, run)[0] for run in ("first", "second"))
    assert [each.name for each in first if each.held] == []
    assert [each.name for each in second if each.held] == ["max_shrink", "min_users"]
    assert judging.judged(world.ledger, SYNC, "third") == ([], None)
    assert judging.judged(world.ledger, "another", "first") == ([], None)


def test_gates_are_on_for_what_is_restored(world: World) -> None:
    window = world.window.key
    world.overwrite(audience(4))
    world.next_window()
    world.overwrite(audience(10))
    world.next_window()
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.restore(window, gates=Gates())

    assert world.partner.members == audience(10)
    assert world.restore(window, gates=ANY_SIZE).users == 4


def test_a_file_of_initial_members_that_a_gate_held_is_read_anew(world: World) -> None:
    there = world.folder / "there.csv"
    there.write_text("\n".join(["user_id", *sorted(users(*range(500, 520)))]), encoding="utf-8")  # the wrong file
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.overwrite(audience(3), gates=Gates(), terms=Terms(initial_members=str(there)))
    assert not any(target.written for target in all_targets(world.ledger))

    there.write_text("\n".join(["user_id", *sorted(audience(4))]), encoding="utf-8")
    world.next_window()
    receipt = world.overwrite(audience(3), gates=Gates(), terms=Terms(initial_members=str(there)))
    assert (receipt.initial_members, receipt.joiners, receipt.leavers) == ("adopted", 0, 1)


def test_a_file_of_initial_members_is_adopted_as_long_as_nothing_was_ever_sent(world: World) -> None:
    def key_refused(*_: object) -> None:
        raise PartnerKeyRefused(world.partner.wire, 401)

    world.partner.on_establish = key_refused
    with pytest.raises(DeliveryStopped):
        world.overwrite(audience(3))
    world.partner.on_establish = None

    there = world.folder / "there.csv"
    there.write_text("\n".join(["user_id", *sorted(audience(4))]), encoding="utf-8")
    world.partner.members = audience(4)
    world.next_window()
    receipt = world.overwrite(audience(3), terms=Terms(initial_members=str(there)))
    assert (receipt.initial_members, receipt.leavers) == ("adopted", 1)
    assert world.partner.members == audience(3)

    world.next_window()
    again = world.overwrite(audience(3), terms=Terms(initial_members="unknown"))  # from now on it stands
    assert (again.initial_members, again.planned) == ("adopted", 0)

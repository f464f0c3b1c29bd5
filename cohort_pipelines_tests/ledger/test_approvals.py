from datetime import timedelta

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import ApprovalIncomplete, DeliveryHeld, DeliverySuperseded, NothingHeld
from cohort_pipelines.delivery import Gates
from cohort_pipelines.ledger import approvals
from cohort_pipelines.ledger.approvals import Approval
from cohort_pipelines_tests.delivery.world import SYNC, World, users

NAMED = {"who": "ada", "why": "half the beta has ended"}


@pytest.fixture
def holding(world: World) -> World:
    """Return a world where ten users are delivered and a payload of four is held."""
    world.overwrite(users(*range(10)))
    world.next_window()
    hold(world, 4)
    return world


def hold(world: World, size: int) -> None:
    with pytest.raises(DeliveryHeld):
        world.overwrite(users(*range(size)), gates=Gates())


def approve(world: World, **bound: object) -> Approval:
    return approvals.approve(world.ledger, SYNC, **(NAMED | bound))  # type: ignore[arg-type]


def test_what_is_held_can_be_looked_at(holding: World) -> None:
    held = approvals.held(holding.ledger, SYNC)

    assert held is not None
    assert (held.window, held.users) == (holding.window.key, 4)
    assert (held.kind, held.restored_from) == ("overwrite", None)
    assert [each.name for each in held.verdicts if each.held] == ["max_shrink"]
    assert "4 users after 10" in next(each.finding for each in held.verdicts if each.held)
    assert approvals.held(holding.ledger, "another") is None


def test_an_approved_payload_is_delivered_and_the_receipt_says_by_whose_word(holding: World) -> None:
    approve(holding)
    receipt = holding.overwrite(users(*range(4)), gates=Gates())

    assert holding.partner.members == users(*range(4))
    assert receipt.approved is not None
    assert receipt.approved.startswith("ada at 20")
    assert receipt.approved.endswith("UTC: half the beta has ended")


def test_an_approval_is_for_every_attempt_on_that_payload_and_for_no_other(holding: World) -> None:
    payload, seq = holding.seal(users(*range(4)))
    with pytest.raises(DeliveryHeld):
        holding.deliver(payload, seq, gates=Gates())
    approve(holding)
    with pytest.raises(DeliveryHeld):
        holding.overwrite(users(0, 1, 2, 4), gates=Gates())
    with pytest.raises(DeliverySuperseded):  # an older snapshot, approved or not
        holding.deliver(payload, seq, gates=Gates())
    for _ in range(2):
        assert holding.overwrite(users(*range(4)), gates=Gates(min_users=5)).approved


def test_what_no_gate_holds_needs_no_approval(holding: World) -> None:
    approve(holding)

    assert holding.overwrite(users(*range(4)), gates=Gates(max_shrink=0.9)).approved is None


def test_after_an_approved_delivery_the_comparison_begins_anew(holding: World) -> None:
    approve(holding)
    holding.overwrite(users(*range(4)), gates=Gates())
    holding.next_window()
    assert holding.overwrite(users(*range(3)), gates=Gates()).approved is None
    holding.next_window()
    hold(holding, 1)
    assert holding.overwrite(users(*range(6)), gates=Gates(max_growth=1.0)).approved is None


def test_an_approval_that_was_not_used_changes_no_comparison(holding: World) -> None:
    approve(holding)
    holding.next_window()
    assert holding.overwrite(users(*range(8)), gates=Gates()).approved is None
    holding.next_window()
    hold(holding, 3)


def test_sizes_are_approved_until_a_moment(holding: World) -> None:
    approve(holding, min_users=3, max_users=4, until=clock.now() + timedelta(hours=6))
    hold(holding, 2)
    with clock.shifted(timedelta(hours=6)):
        hold(holding, 4)
        hold(holding, 3)
    assert holding.overwrite(users(0, 1, 2, 5), gates=Gates()).approved


@pytest.mark.parametrize(("bound", "let_go"), [({"min_users": 3}, 4), ({"max_users": 3}, 2), ({"max_users": 0}, 0)])
def test_a_range_may_be_open(holding: World, bound: dict[str, int], let_go: int) -> None:
    approve(holding, **bound, until=clock.now() + timedelta(hours=6))

    assert holding.overwrite(users(*range(let_go)), gates=Gates()).approved


def test_an_approval_of_one_payload_ends_by_itself(holding: World) -> None:
    hold(holding, 0)
    approve(holding)
    with clock.shifted(approvals.LASTS + timedelta(minutes=1)):
        hold(holding, 0)
    assert holding.overwrite(set(), gates=Gates()).approved


def test_an_approval_is_for_one_sync(holding: World) -> None:
    until = clock.now() + timedelta(hours=1)
    approvals.approve(holding.ledger, "another", who="ada", why="theirs", max_users=4, until=until)

    hold(holding, 4)


def test_an_earlier_held_payload_can_be_named(holding: World) -> None:
    held = approvals.held(holding.ledger, SYNC)
    assert held is not None
    hold(holding, 3)
    approve(holding, payload_checksum=held.payload_checksum)

    hold(holding, 3)
    assert holding.overwrite(users(*range(4)), gates=Gates()).approved


def test_nothing_is_held_once_a_later_payload_came_through(holding: World) -> None:
    holding.next_window()
    holding.overwrite(users(*range(9)), gates=Gates())

    assert approvals.held(holding.ledger, SYNC) is None
    with pytest.raises(NothingHeld):
        approve(holding)
    with pytest.raises(NothingHeld):
        approve(holding, payload_checksum="0" * 64)


def test_a_superseded_attempt_leaves_what_is_held(world: World) -> None:
    old = world.seal(users(*range(9)))
    world.overwrite(users(*range(10)))
    hold(world, 4)
    with pytest.raises(DeliverySuperseded):
        world.deliver(*old, gates=Gates())

    held = approvals.held(world.ledger, SYNC)
    assert held is not None
    assert held.users == 4


@pytest.mark.parametrize(
    ("bound", "says"),
    [
        ({"why": "  "}, "it has to say why"),
        ({"min_users": 1}, "needs a moment until which it holds"),
        ({"until": clock.now() - timedelta(hours=1)}, "is over"),
        ({"min_users": 1, "payload_checksum": "0" * 64, "until": clock.now() + timedelta(hours=1)}, "not to both"),
        ({"min_users": 5, "max_users": 4, "until": clock.now() + timedelta(hours=1)}, "at least 5 and at most 4"),
    ],
)
def test_an_approval_says_why_what_and_until_when(holding: World, bound: dict[str, object], says: str) -> None:
    with pytest.raises(ApprovalIncomplete, match=says):
        approve(holding, **bound)

    hold(holding, 4)


def test_whatever_holds_is_let_go_at_once(world: World) -> None:
    world.overwrite(users(*range(10)))
    world.next_window()
    gates = Gates(min_users=5, max_churn=0.1)
    with pytest.raises(DeliveryHeld):
        world.overwrite(users(20, 21), gates=gates)
    approve(world)

    assert world.overwrite(users(20, 21), gates=gates).approved
    assert world.partner.members == users(20, 21)


def test_a_restore_that_is_held_is_told_from_a_window_and_let_go_by_the_same_word(world: World) -> None:
    world.overwrite(users(*range(3)))
    small = world.window.key
    world.next_window()
    world.overwrite(users(*range(10)))
    with pytest.raises(DeliveryHeld, match="start the same again"):
        world.restore(small, gates=Gates())

    held = approvals.held(world.ledger, SYNC)
    assert held is not None
    assert (held.kind, held.restored_from, held.window) == ("restore", small, world.window.key)
    approve(world)
    assert world.restore(small, gates=Gates()).approved
    assert world.partner.members == users(*range(3))

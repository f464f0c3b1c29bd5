from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import (
    DeliveryHeld,
    DeliveryStopped,
    SyncPaused,
    TargetBusy,
    TargetInDoubt,
    TargetMoved,
    TargetNotKnown,
    TargetOwnedByAnother,
)
from cohort_pipelines.delivery import Gates
from cohort_pipelines.destinations.taplytics import Taplytics
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.ledger import pauses, schema, targets
from cohort_pipelines.ledger.ledger import Target
from cohort_pipelines.membership.terms import Terms
from cohort_pipelines_tests.delivery.world import SYNC, Fate, Killed, MemoryPartner, World, late, users
from cohort_pipelines_tests.devtools.test_dev import free_port
from cohort_pipelines_tests.faults.projects import without_waiting
from cohort_pipelines_tests.faults.wires import Wired


def target_of(partner: MemoryPartner, name: str = "Beta") -> Target:
    return Target(partner.wire, partner.host, partner.account, name)


def test_a_sync_that_is_declared_for_another_target_is_told_to_retarget(world: World) -> None:
    world.overwrite(users(1, 2))
    world.next_window()
    elsewhere = MemoryPartner(account="other")
    payload, seq = world.seal(users(1, 2))
    with pytest.raises(TargetMoved, match=f"cohort-pipelines retarget {SYNC}"):
        world.deliver(payload, seq, partner=elsewhere)
    assert elsewhere.requests == []
    assert [each.target for each in targets.owned_elsewhere(world.ledger, SYNC, target_of(elsewhere))] == [
        target_of(world.partner)
    ]

    world.retire()
    assert world.partner.members == set()
    world.next_window()
    payload, seq = world.seal(users(1, 2))
    world.deliver(payload, seq, partner=elsewhere)
    assert elsewhere.members == users(1, 2)


def test_a_retired_target_is_nobodys_and_what_is_known_of_it_stays(world: World) -> None:
    world.overwrite(users(1, 2))
    world.retire()
    [known] = targets.all_targets(world.ledger)
    assert (known.held, known.owner) == (0, SYNC)
    assert known.retired is not None
    assert targets.orphans(world.ledger, []) == []
    world.next_window()
    payload, seq = world.seal(users(2))
    world.deliver(payload, seq, sync="another")
    assert world.partner.members == users(2)
    assert targets.all_targets(world.ledger)[0].owner == "another"


def test_whom_a_target_held_before_it_was_given_up_is_nothing_that_its_next_owner_can_lose(world: World) -> None:
    world.overwrite(users(*range(100)))
    world.retire()
    for held in (10, 12):  # by the default gates
        world.next_window()
        payload, seq = world.seal(users(*range(held)))
        world.deliver(payload, seq, sync="another", gates=Gates())
        assert world.partner.members == users(*range(held))
    world.next_window()
    payload, seq = world.seal(users(1))
    with pytest.raises(DeliveryHeld, match="max_shrink"):
        world.deliver(payload, seq, sync="another", gates=Gates())


def test_a_retirement_that_dies_leaves_the_target_with_its_owner(world: World) -> None:
    world.overwrite(users(*range(6)))
    fate = Fate()
    world.partner.on_request = lambda _: setattr(fate, "dead", True)
    world.partner.fate = fate
    with pytest.raises(Killed):
        world.retire()
    assert targets.all_targets(world.ledger)[0].retired is None
    world.partner.on_request, world.partner.fate = None, Fate()
    with clock.shifted(timedelta(minutes=2)), pytest.raises(TargetInDoubt):
        world.retire()
    assert world.partner.members == set()
    with clock.shifted(timedelta(minutes=20)):
        world.retire()
    assert targets.all_targets(world.ledger)[0].retired is not None


def test_what_was_never_delivered_to_cannot_be_retired(world: World) -> None:
    with pytest.raises(TargetNotKnown):
        world.retire()


def test_a_renamed_sync_takes_its_target_over_and_nobody_is_lost(world: World) -> None:
    world.overwrite(users(1, 2, 3))
    world.next_window()
    payload, seq = world.seal(users(2, 3, 4))
    with pytest.raises(TargetOwnedByAnother, match="retarget"):
        world.deliver(payload, seq, sync="renamed")
    sent = len(world.partner.requests)
    assert targets.hand_over(world.ledger, target_of(world.partner), "renamed", declared=[]) == SYNC
    payload, seq = world.seal(users(2, 3, 4))
    world.deliver(payload, seq, sync="renamed")
    assert world.partner.members == users(2, 3, 4)
    assert sum(len(request.ids) for request in world.partner.requests[sent:]) == 2  # one came, one left


def test_a_target_is_not_taken_from_a_sync_that_is_declared(world: World) -> None:
    world.overwrite(users(1))
    here, gamma = target_of(world.partner), target_of(world.partner, "Gamma")
    with pytest.raises(TargetNotKnown, match=SYNC):
        targets.hand_over(world.ledger, here, "thief", declared=[("thief", here), (SYNC, here)])
    with pytest.raises(TargetNotKnown, match="nothing was ever delivered"):
        targets.hand_over(world.ledger, gamma, "thief", declared=[("thief", gamma)])
    assert targets.hand_over(world.ledger, here, "another", declared=[("another", here), (SYNC, gamma)]) == SYNC


def test_a_target_is_not_taken_from_a_writer_at_work(world: World) -> None:
    world.overwrite(users(1))
    world.next_window()
    fate = Fate()
    world.partner.on_request = lambda _: setattr(fate, "dead", True)
    payload, seq = world.seal(users(2))
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=fate)
    with pytest.raises(TargetBusy):
        targets.hand_over(world.ledger, target_of(world.partner), "renamed", declared=[])


def test_orphans_are_written_targets_that_nobody_is_declared_for(world: World) -> None:
    world.overwrite(users(1))
    here = target_of(world.partner)
    assert targets.orphans(world.ledger, [(SYNC, here)]) == []
    for declared in ([], [("renamed", here)], [(SYNC, replace(here, name="Gamma"))]):
        assert [each.target for each in targets.orphans(world.ledger, declared)] == [here]
    targets.forget(world.ledger, here)
    assert targets.orphans(world.ledger, []) == []
    assert world.partner.members == users(1)


def test_a_declaration_that_is_mended_before_anything_was_sent_is_no_move(world: World) -> None:
    with pytest.raises(DeliveryHeld):
        world.overwrite(set(), gates=Gates())
    world.next_window()
    elsewhere = MemoryPartner(account="other")
    payload, seq = world.seal(users(1))
    world.deliver(payload, seq, partner=elsewhere)
    assert elsewhere.members == users(1)


def hold(world: World) -> None:
    """Let the first delivery be held: the target is claimed, and never written."""
    with pytest.raises(DeliveryHeld):
        world.overwrite(users(1), gates=Gates(min_users=5))


def die_while_planned(world: World) -> None:
    """Let the first delivery die after its claim, before it had a plan."""
    payload, seq = world.seal(users(1))
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=Fate(dies_at=2))  # after the claim's commit
    assert targets.all_targets(world.ledger)[0].owner == SYNC


@pytest.mark.parametrize("ends", [hold, die_while_planned])
def test_a_target_that_was_claimed_and_never_written_is_whoevers_comes_next(
    world: World, ends: Callable[[World], None]
) -> None:
    ends(world)
    here = target_of(world.partner)
    assert not targets.all_targets(world.ledger)[0].written
    assert targets.owned_elsewhere(world.ledger, SYNC, target_of(world.partner, "Gamma")) == []
    world.next_window()
    with clock.shifted(timedelta(minutes=2)):  # the lease of who died is over
        payload, seq = world.seal(users(2))
        world.deliver(payload, seq, sync="another")
        assert world.partner.members == users(2)
        assert targets.all_targets(world.ledger)[0].owner == "another"
        elsewhere = MemoryPartner(account="other")
        payload, seq = world.seal(users(3))
        world.deliver(payload, seq, partner=elsewhere)
    assert elsewhere.members == users(3)
    assert [each.target for each in targets.owned_elsewhere(world.ledger, "another", target_of(elsewhere))] == [here]


def test_a_target_that_was_never_written_is_handed_over_whoever_owns_it(world: World) -> None:
    hold(world)
    here = target_of(world.partner)
    assert targets.hand_over(world.ledger, here, "another", declared=[(SYNC, here), ("another", here)]) == SYNC


@pytest.mark.parametrize("initial_members", ["file", "unknown", "empty"])
def test_whoever_takes_a_retired_target_may_say_who_was_put_there_since(
    world: World, tmp_path: Path, initial_members: str
) -> None:
    world.overwrite(users(1, 2, 3))
    world.retire()
    world.partner.members.update(users(2, 3, 50))
    there = tmp_path / "there.csv"
    there.write_text("user_id\nuser-0002\nuser-0003\nuser-0050\n", encoding="utf-8")
    terms = Terms(initial_members=str(there) if initial_members == "file" else initial_members)
    world.next_window()
    payload, seq = world.seal(users(3, 4))

    receipt = world.deliver(payload, seq, sync="another", terms=terms)

    named = initial_members == "file"
    assert receipt.initial_members == ("adopted" if named else initial_members)
    assert world.partner.members == (users(3, 4) if named else users(2, 3, 4, 50))
    world.next_window()
    payload, seq = world.seal(users(3, 4))
    assert world.deliver(payload, seq, sync="another", terms=terms).planned == 0


@pytest.mark.parametrize("initial_members", ["file", "unknown", "empty"])
def test_whoever_takes_a_target_that_was_forgotten_relies_on_nothing_that_was_known(
    world: World, tmp_path: Path, initial_members: str
) -> None:
    world.overwrite(users(1, 2, 3))
    targets.forget(world.ledger, target_of(world.partner))
    world.partner.members.clear()  # looked after at the partner, as whoever forgets is told to
    world.partner.members.update(users(50))
    there = tmp_path / "there.csv"
    there.write_text("user_id\nuser-0050\n", encoding="utf-8")
    terms = Terms(initial_members=str(there) if initial_members == "file" else initial_members)
    world.next_window()
    payload, seq = world.seal(users(2, 3, 4))

    world.deliver(payload, seq, sync="another", terms=terms)

    assert world.partner.members - users(50) == users(2, 3, 4)
    assert (users(50) <= world.partner.members) == (initial_members != "file")
    world.next_window()
    payload, seq = world.seal(users(2, 3, 4))
    assert world.deliver(payload, seq, sync="another", terms=terms).planned == 0


def test_a_target_that_was_given_up_is_not_handed_over_since_whoever_comes_next_takes_it(world: World) -> None:
    world.overwrite(users(1))
    world.retire()
    with pytest.raises(TargetNotKnown, match="given up"):
        targets.hand_over(world.ledger, target_of(world.partner), "another", declared=())
    world.next_window()
    payload, seq = world.seal(users(2))
    world.deliver(payload, seq, sync="another")
    assert targets.all_targets(world.ledger)[0].owner == "another"


def test_a_target_into_which_somebody_may_still_be_put_back_is_not_given_up(world: World) -> None:
    world.partner.faults = {1: late}
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(1))
    with pytest.raises(TargetInDoubt, match="'Beta' was emptied, but 1 users may still be put back"):
        world.retire()
    world.partner.land_late_requests()
    assert world.partner.members == users(1)
    assert targets.all_targets(world.ledger)[0].retired is None
    assert [each.owner for each in targets.orphans(world.ledger, declared=())] == [SYNC]

    with clock.shifted(timedelta(minutes=17)):
        world.retire()
    assert world.partner.members == set()
    assert targets.all_targets(world.ledger)[0].retired is not None


def test_a_file_of_initial_members_can_be_mended_as_long_as_nobody_was_reached(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_waiting(monkeypatch)
    nowhere = Taplytics(key="k", url=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(1), partner=nowhere)
    assert targets.all_targets(world.ledger)[0].initial_members == "unknown"
    there = tmp_path / "there.csv"
    there.write_text("user_id\nuser-0050\n", encoding="utf-8")
    world.next_window()
    with pytest.raises(DeliveryStopped):
        world.overwrite(users(1), partner=nowhere, terms=Terms(initial_members=str(there)))
    [target] = targets.all_targets(world.ledger)
    assert (target.initial_members, target.held) == ("adopted", 1)


def test_a_file_of_initial_members_that_needed_nothing_is_adopted_once(world: World, tmp_path: Path) -> None:
    there = tmp_path / "there.csv"
    there.write_text("\n".join(["user_id", *users(1, 2)]), encoding="utf-8")
    with in_thread(Settings(members=10)) as standins:
        flags = Wired("flags", standins, tmp_path)
        flags.hold(users(1, 2))
        terms = Terms(initial_members=str(there))
        assert world.overwrite(users(1, 2), partner=flags.partner(), terms=terms).requests == 0
        there.unlink()
        world.next_window()
        world.overwrite(users(1), partner=flags.partner(), terms=terms)
        assert flags.members == users(1)


def test_a_target_that_is_being_claimed_blocks_another_sync(world: World) -> None:
    die_while_planned(world)  # its lease is live
    payload, seq = world.seal(users(2))
    with pytest.raises(TargetOwnedByAnother):
        world.deliver(payload, seq, sync="another")
    assert world.partner.requests == []


def test_a_target_that_a_plan_was_begun_for_counts_as_written_wherever_it_is_asked(world: World) -> None:
    payload, seq = world.seal(users(1))
    fate = Fate()
    world.partner.on_request = lambda _: setattr(fate, "dead", True)
    with pytest.raises(Killed):
        world.deliver(payload, seq, fate=fate)
    with world.ledger.write() as connection:  # as it died between its plan and its first request
        connection.execute(update(schema.target).values(established=False, membership_checksum=None))
    assert targets.all_targets(world.ledger)[0].written
    elsewhere = target_of(world.partner, "Gamma")
    assert [each.owner for each in targets.owned_elsewhere(world.ledger, SYNC, elsewhere)] == [SYNC]
    with clock.shifted(timedelta(minutes=2)):
        payload, seq = world.seal(users(2))
        with pytest.raises(TargetOwnedByAnother):
            world.deliver(payload, seq, sync="another")
        with pytest.raises(TargetMoved):
            world.deliver(payload, seq, partner=MemoryPartner(account="other"))


def test_a_target_is_not_forgotten_while_it_is_written(world: World) -> None:
    die_while_planned(world)
    here = target_of(world.partner)
    with pytest.raises(TargetBusy):
        targets.forget(world.ledger, here)
    assert targets.all_targets(world.ledger)[0].retired is None
    with clock.shifted(timedelta(minutes=2)):
        targets.forget(world.ledger, here)
    assert targets.all_targets(world.ledger)[0].retired is not None


def test_a_pause_is_not_lost_by_a_renaming(world: World) -> None:
    world.overwrite(users(1))
    pauses.pause(world.ledger, SYNC, who="mia", why="holidays")
    here = target_of(world.partner)
    targets.hand_over(world.ledger, here, "renamed", declared=[("renamed", here)])
    world.next_window()
    payload, seq = world.seal(users(2))
    with pytest.raises(SyncPaused, match="mia: holidays"):
        world.deliver(payload, seq, sync="renamed")
    assert world.partner.members == users(1)

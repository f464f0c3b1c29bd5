"""A receiver may tell its groups by the id of the cohort that each message names, or by their names."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import update

from cohort_pipelines.core import clock
from cohort_pipelines.core.changes import NamedCohort
from cohort_pipelines.core.errors import (
    CohortDeliveredTwice,
    CohortMoved,
    DeliveryHeld,
    DeliveryStopped,
    DeliverySuperseded,
    PayloadOfAnotherCohort,
    TargetInDoubt,
)
from cohort_pipelines.delivery import Gates, Receipt, deliver
from cohort_pipelines.delivery.overwrite import Overwrite
from cohort_pipelines.ledger import schema, targets
from cohort_pipelines.ledger.ledger import Target
from cohort_pipelines.ledger.targets import TargetRecord
from cohort_pipelines.recovery import pairing
from cohort_pipelines.recovery.rebuilding import rebuild
from cohort_pipelines.reporting.listing import entries
from cohort_pipelines_tests.delivery.world import (
    ANY_SIZE,
    SYNC,
    Fate,
    Killed,
    MemoryPartner,
    MortalHistory,
    MortalLedger,
    World,
    late,
    users,
)

ONE, OTHER = (1, 2), (1, 3)


def sent(
    world: World,
    partner: MemoryPartner,
    ids: set[str],
    *,
    of: NamedCohort | None = None,
    name: str = "Beta",
    sync: str = SYNC,
    gates: Gates = ANY_SIZE,
    fate: Fate | None = None,
) -> Receipt:
    """Deliver the audience ``of`` a cohort, that of ``partner`` if it is not said, in the name of the latter."""
    payload, _ = world.seal(ids)
    project, cohort_id = of or partner.cohort or ONE
    seq = world.ledger.record_snapshot(
        SYNC, world.window.key, payload, clock.now(), len(ids), len(ids), project=project, cohort_id=cohort_id
    )
    partner.fate = fate or Fate()
    return deliver(
        ledger=MortalLedger(world.ledger, partner.fate),
        history=MortalHistory(world.folder / "history", partner.fate),
        partner=partner,
        target=Target(partner.wire, partner.host, partner.account, name),
        sync=sync,
        window=world.window,
        payload=payload,
        snapshot_seq=seq,
        gates=gates,
        run_id="run",
        deadline=clock.now() + timedelta(hours=1),
    )


def only_target(world: World) -> TargetRecord:
    [target] = targets.all_targets(world.ledger)
    return target


def test_another_cohort_is_sent_to_a_target_only_after_the_first_has_left_it(world: World) -> None:
    one, other = MemoryPartner(cohort=ONE), MemoryPartner(cohort=OTHER)
    sent(world, one, users(1, 2))
    world.next_window()
    with pytest.raises(CohortMoved, match=f"filled in the name of the cohort 2.*cohort-pipelines retarget {SYNC}"):
        sent(world, other, users(2, 3))
    assert other.requests == []
    [left] = targets.owned_elsewhere(world.ledger, SYNC, only_target(world).target, OTHER)
    assert left.cohort == ONE

    world.retire(one)
    assert one.members == set()
    assert targets.owned_elsewhere(world.ledger, SYNC, only_target(world).target, OTHER) == []
    world.next_window()
    sent(world, other, users(2, 3))
    assert (other.established, other.members) == (1, users(2, 3))
    assert only_target(world).cohort == OTHER
    world.next_window()
    assert sent(world, other, users(2, 3)).requests == 0


def test_a_target_of_another_cohort_is_made_where_the_first_delivery_dies(world: World) -> None:
    one, other = MemoryPartner(cohort=ONE), MemoryPartner(cohort=OTHER)
    sent(world, one, users(1))
    world.retire(one)
    world.next_window()

    def broken() -> None:
        raise ZeroDivisionError

    other.on_establish = broken
    with pytest.raises(Exception, match="ZeroDivisionError"):
        sent(world, other, users(2))
    other.on_establish = None
    world.next_window()
    sent(world, other, users(2))
    assert (other.established, other.members) == (2, users(2))


def test_an_audience_is_not_sent_in_the_name_of_another_cohort(world: World) -> None:
    partner = MemoryPartner(cohort=OTHER)
    with pytest.raises(PayloadOfAnotherCohort, match="is that of the cohort 2, and beta_users is declared for"):
        sent(world, partner, users(1), of=ONE)
    assert partner.requests == []


def test_one_cohort_has_one_target_at_a_receiver(world: World) -> None:
    sent(world, MemoryPartner(cohort=ONE), users(1))
    second = MemoryPartner(cohort=ONE)
    with pytest.raises(CohortDeliveredTwice, match=f"'Beta', of the sync '{SYNC}'.*cohort-pipelines retire {SYNC}\\."):
        sent(world, second, users(1), name="Gamma", sync="second")
    assert second.requests == []
    sent(world, MemoryPartner(cohort=ONE, account="labelled"), users(1), name="Gamma", sync="second")


@pytest.mark.slow
def test_a_first_fill_that_died_counts_as_one_wherever_it_did(tmp_path: Path) -> None:
    for point in range(1, 99):
        one, other, wanted = MemoryPartner(cohort=ONE), MemoryPartner(cohort=OTHER), users(2, 9)
        world = World(tmp_path / str(point))
        try:
            sent(world, one, users(1, 2, 3), fate=Fate(dies_at=point))
        except Killed:
            pass
        else:
            break
        with clock.shifted(timedelta(minutes=20)):
            one.land_late_requests()
            world.next_window()
            try:
                sent(world, other, wanted)
            except CohortMoved:
                [left] = targets.owned_elsewhere(world.ledger, SYNC, only_target(world).target, OTHER)
                assert left.filled, point
                world.retire(one)
                world.next_window()
                sent(world, other, wanted)
        assert (one.members, other.members) == (set(), wanted), point
    assert point > 20


@pytest.mark.parametrize("by_name", [True, False])
def test_a_target_that_was_given_up_as_it_is_is_sent_anew_in_another_name(world: World, by_name: bool) -> None:
    one = MemoryPartner(cohort=ONE)
    sent(world, one, users(1, 2))
    targets.forget(world.ledger, only_target(world).target)
    other = MemoryPartner(cohort=OTHER, members=one.members if by_name else set())
    world.next_window()
    with pytest.raises(DeliveryHeld):  # which may come to nothing at first
        sent(world, other, set(), gates=Gates())
    world.next_window()
    other.on_request = lambda _: setattr(other.fate, "dead", True)
    with pytest.raises(Killed):  # what was begun is remembered
        sent(world, other, users(2, 3))
    other.on_request = None
    with clock.shifted(timedelta(minutes=12)):
        other.land_late_requests()
        world.next_window()
        sent(world, other, users(2, 3))
    assert other.members == users(2, 3)
    assert one.members == (users(2, 3) if by_name else users(1, 2))


def test_whoever_shared_a_group_that_was_emptied_is_sent_anew(world: World) -> None:
    """Two targets in one name are refused by now, and a ledger may have them from before."""
    group = MemoryPartner(cohort=ONE)
    sent(world, group, users(1, 2))
    unnamed = MemoryPartner(members=group.members)
    sent(world, unnamed, users(1, 2), name="Gamma", sync="second")
    with world.ledger.write() as connection:
        connection.execute(update(schema.target).values(project=ONE[0], cohort_id=ONE[1]))

    world.retire(group)
    assert group.members == set()
    world.next_window()
    second = MemoryPartner(cohort=ONE, members=group.members)
    sent(world, second, users(1, 2), name="Gamma", sync="second")
    assert (second.established, second.members) == (1, users(1, 2))
    world.next_window()
    assert sent(world, second, users(1, 2), name="Gamma", sync="second").requests == 0


def test_two_that_claim_in_one_name_at_once_are_not_both_sent(world: World) -> None:
    """The one that is slower to plan finds the other's target when it begins."""
    slow, quick = MemoryPartner(cohort=ONE), MemoryPartner(cohort=ONE)

    def overtaken(*_: object, **__: object) -> None:
        patched.undo()
        sent(world, quick, users(1), name="Gamma", sync="second")

    patched = pytest.MonkeyPatch()
    patched.setattr(Overwrite, "recover_crashed_attempts", overtaken)
    with pytest.raises(CohortDeliveredTwice, match="'Gamma'"):
        sent(world, slow, users(1, 2))
    assert (slow.requests, quick.members) == ([], users(1))
    [entry] = [each for each in entries(world.ledger, SYNC) if each.state == "stopped"]
    assert "already has 'Gamma'" in entry.reason


def test_an_older_audience_of_another_cohort_can_be_put_back_by_name(world: World) -> None:
    one, other = MemoryPartner(cohort=ONE), MemoryPartner(cohort=OTHER)
    first = world.window.key
    sent(world, one, users(1, 2))
    world.retire(one)
    world.next_window()
    sent(world, other, users(3))
    world.next_window()
    world.restore(first, partner=other)
    assert other.members == users(1, 2)
    assert only_target(world).cohort == OTHER


def test_a_group_into_which_somebody_may_still_be_put_is_not_left_for_another_cohorts(world: World) -> None:
    one, other = MemoryPartner(cohort=ONE), MemoryPartner(cohort=OTHER)
    one.faults[1] = late
    with pytest.raises(DeliveryStopped):
        sent(world, one, users(1, 2))
    one.faults.clear()
    world.next_window()
    with pytest.raises(TargetInDoubt):
        world.retire(one)
    world.next_window()
    with pytest.raises(CohortMoved):
        sent(world, other, users(2, 3))
    [left] = targets.owned_elsewhere(world.ledger, SYNC, only_target(world).target, OTHER)
    assert left.filled

    one.land_late_requests()
    with clock.shifted(timedelta(minutes=20)):
        world.retire(one)
        assert one.members == set()
        sent(world, other, users(2, 3))
    assert other.members == users(2, 3)


def test_an_old_window_is_superseded_after_a_change_of_cohort_too(world: World) -> None:
    one, other = MemoryPartner(cohort=ONE), MemoryPartner(cohort=OTHER)
    payload, seq = world.seal(users(1))
    sent(world, one, users(1, 2))
    world.retire(one)
    with pytest.raises(DeliverySuperseded):
        world.deliver(payload, seq, partner=other)


def test_a_wire_that_names_no_cohort_goes_by_the_target_alone(world: World) -> None:
    partner = MemoryPartner()
    sent(world, partner, users(1), of=ONE)
    world.next_window()
    assert sent(world, partner, users(1, 2), of=OTHER).requests == 1


def test_nothing_is_known_of_a_cohort_in_whose_name_nothing_was_sent(world: World) -> None:
    partner = MemoryPartner(cohort=ONE)
    with pytest.raises(DeliveryHeld):
        sent(world, partner, set(), gates=Gates())
    assert only_target(world).cohort is None


def test_a_rebuilt_ledger_knows_in_whose_name_a_target_was_filled(world: World) -> None:
    sent(world, MemoryPartner(cohort=ONE), users(1, 2))
    fresh = World(world.folder, url=f"sqlite:///{world.folder}/fresh.sqlite")
    rebuild(fresh.ledger, fresh.history)
    pairing.require_paired(fresh.ledger, fresh.history)
    assert only_target(fresh).cohort == ONE
    with pytest.raises(CohortMoved):
        sent(fresh, MemoryPartner(cohort=OTHER), users(1))


def test_a_rebuilding_goes_by_what_was_sent_and_leaves_what_the_ledger_knows(world: World) -> None:
    one, other = MemoryPartner(cohort=ONE), MemoryPartner(cohort=OTHER)
    sent(world, one, users(1, 2))
    world.retire(one)
    world.next_window()
    with pytest.raises(DeliveryHeld):
        sent(world, other, set(), gates=Gates())
    fresh = World(world.folder, url=f"sqlite:///{world.folder}/fresh.sqlite")
    rebuild(fresh.ledger, fresh.history)
    assert only_target(fresh).cohort == ONE

    fresh.next_window()
    other.on_request = lambda _: setattr(other.fate, "dead", True)
    with clock.shifted(timedelta(minutes=20)):
        fresh.retire(one)  # since rebuilding, who was sent counts as somebody who may be put back
        fresh.next_window()
        with pytest.raises(Killed):
            sent(fresh, other, users(3))
    with clock.shifted(timedelta(minutes=22)):
        rebuild(fresh.ledger, fresh.history)
    assert only_target(fresh).cohort == OTHER

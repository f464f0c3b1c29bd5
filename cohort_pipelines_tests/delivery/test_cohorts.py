"""A receiver may tell its groups by the id of the cohort that each message names, or by their names."""

from datetime import timedelta

import pytest

from cohort_pipelines import clock
from cohort_pipelines.delivery import Gates, Receipt, Target, deliver, pairing, retire, targets
from cohort_pipelines.delivery.rebuilding import rebuild
from cohort_pipelines.delivery.targets import TargetRecord
from cohort_pipelines.errors import CohortDeliveredTwice, CohortMoved, DeliveryHeld, PayloadOfAnotherCohort
from cohort_pipelines.partners.wire import NamedCohort
from cohort_pipelines_tests.delivery.world import ANY_SIZE, SYNC, MemoryPartner, World, users

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
) -> Receipt:
    """Deliver the audience ``of`` a cohort, that of ``partner`` if it is not said, in the name of the latter."""
    payload, _ = world.seal(ids)
    project, cohort_id = of or partner.cohort or ONE
    seq = world.ledger.record_snapshot(
        SYNC, world.window.key, payload, clock.now(), len(ids), len(ids), project=project, cohort_id=cohort_id
    )
    return deliver(
        ledger=world.ledger,
        history=world.history,
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


def emptied(world: World, partner: MemoryPartner) -> None:
    retire(
        ledger=world.ledger,
        history=world.history,
        partner=partner,
        target=Target(partner.wire, partner.host, partner.account, "Beta"),
        sync=SYNC,
        window=world.window,
        run_id="retire",
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

    emptied(world, one)
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
    emptied(world, one)
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
    with pytest.raises(CohortDeliveredTwice, match=f"'Beta', of the sync '{SYNC}'.*cohort-pipelines retire {SYNC}"):
        sent(world, second, users(1), name="Gamma", sync="second")
    assert second.requests == []
    sent(world, MemoryPartner(cohort=ONE, account="labelled"), users(1), name="Gamma", sync="second")


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

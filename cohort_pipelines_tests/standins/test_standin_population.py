from collections import Counter
from typing import Any

import pytest

from cohort_pipelines.devtools.standins.population import PARTNER_ID, IdMerge, Kind, Population

BOTH: list[IdMerge] = ["original", "simplified"]


@pytest.mark.parametrize("id_merge", BOTH)
def test_every_id_is_unique_and_leads_back_to_its_user(id_merge: IdMerge) -> None:
    population = Population(4000, id_merge)
    ids = [population.distinct_id(number) for number in range(population.size)]
    assert len(set(ids)) == population.size == 5000
    assert [population.number_of(one) for one in ids] == list(range(population.size))


@pytest.mark.parametrize("unknown", ["", "nobody", "user-00000000", "user-zzzzzzzz", "$device:"])
def test_an_id_of_nobody_leads_nowhere(unknown: str) -> None:
    assert Population(100).number_of(unknown) is None


def test_the_seed_decides_everything() -> None:
    def people(seed: int) -> list[tuple[str, Any]]:
        population = Population(500, seed=seed)
        return [(population.distinct_id(number), population.profile(number)) for number in range(population.size)]

    assert people(1) == people(1)
    assert people(1) != people(2)


def test_the_kinds_have_their_shares() -> None:
    population = Population(1000)
    kinds = Counter(population.kind(number) for number in range(population.members))
    assert kinds[Kind.ANONYMOUS] == 80
    assert kinds[Kind.NO_PARTNER_ID] == 40
    assert kinds[Kind.MALFORMED_PARTNER_ID] == 10
    assert kinds[Kind.DUPLICATE_PARTNER_ID] == 5
    assert Kind.DEVICE_PROFILE not in kinds


@pytest.mark.parametrize("id_merge", BOTH)
def test_only_anonymous_users_have_no_profile(id_merge: IdMerge) -> None:
    population = Population(1000, id_merge)
    flags = population.with_profile()
    assert len(flags) == population.size
    for number in range(population.size):
        assert bool(population.profile(number)) is bool(flags[number]) is (population.kind(number) != Kind.ANONYMOUS)


def test_original_partner_ids_carry_a_prefix_unless_malformed() -> None:
    population = Population(1000)
    for number in range(population.size):
        partner_id: Any = population.profile(number).get(PARTNER_ID)
        match population.kind(number):
            case Kind.ANONYMOUS | Kind.NO_PARTNER_ID:
                assert partner_id is None
            case Kind.MALFORMED_PARTNER_ID:
                assert isinstance(partner_id, int) or partner_id.startswith("user-")
            case _:
                assert partner_id[:2] in {"i_", "a_"}
                assert population.number_of(partner_id) is not None


def test_some_partner_ids_are_shared_by_two_members() -> None:
    population = Population(1000)
    ids = Counter(population.profile(number).get(PARTNER_ID) for number in range(1000))
    del ids[None]
    assert Counter(ids.values()) == {1: 870, 2: 5}


def test_simplified_ids_are_user_ids_or_of_a_device() -> None:
    population = Population(1000, "simplified")
    kinds: dict[Kind, list[tuple[str, Any]]] = {}
    for number in range(1000):
        profile = population.profile(number)
        kinds.setdefault(population.kind(number), []).append((population.distinct_id(number), profile.get(PARTNER_ID)))
    for kind in (Kind.ANONYMOUS, Kind.DEVICE_PROFILE):
        assert all(distinct_id.startswith("$device:") and partner is None for distinct_id, partner in kinds[kind])
    assert all(distinct_id == partner for distinct_id, partner in kinds[Kind.REGULAR])
    assert all(distinct_id != partner for distinct_id, partner in kinds[Kind.DIFFERING_PARTNER_ID])


def test_some_ids_are_odd_but_valid() -> None:
    population = Population(4000)
    odd = [population.distinct_id(number) for number in range(4000) if population.kind(number) == Kind.ODD_ID]
    assert {one[0] for one in odd} == set("Z李u=🦊a@p")

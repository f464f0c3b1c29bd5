import pytest

from cohort_pipelines.devtools.standins.population import IdMerge, Kind, Population
from cohort_pipelines.devtools.standins.project import BETA_USERS, LAPSED_USERS, Project


@pytest.fixture
def project() -> Project:
    return Project(Population(1000))


def members(project: Project) -> set[str]:
    numbers = project.members(project.cohorts[BETA_USERS], only_with_profile=False)
    return {project.distinct_id(number) for number in numbers}


def a(project: Project, kind: Kind) -> str:
    numbers = range(project.population.members)
    return project.distinct_id(next(number for number in numbers if project.population.kind(number) == kind))


def test_the_cohort_begins_with_its_members(project: Project) -> None:
    assert members(project) == {project.distinct_id(number) for number in range(1000)}


def test_the_second_cohort_overlaps_a_little(project: Project) -> None:
    lapsed = set(project.members(project.cohorts[LAPSED_USERS], only_with_profile=False))
    assert 10 < len(lapsed) < 50
    assert lapsed & set(range(1000))
    assert lapsed - set(range(1000))


def test_the_property_decides_who_is_in(project: Project) -> None:
    regular = a(project, Kind.REGULAR)
    project.set(regular, {"plan": "free"})
    assert regular not in members(project)
    project.set(regular, {"plan": "beta"})
    assert regular in members(project)
    project.set(regular, {"plan": None})
    assert regular not in members(project)


def test_a_deleted_profile_leaves_a_user_who_looks_anonymous(project: Project) -> None:
    regular = a(project, Kind.REGULAR)
    number = project.find(regular)
    assert number is not None
    project.delete(regular)
    assert project.profile(number) == {}
    assert regular not in members(project)
    assert not project.with_profile[number]


def test_an_anonymous_member_stays_through_profile_changes(project: Project) -> None:
    anonymous = a(project, Kind.ANONYMOUS)
    project.set(anonymous, {"$email": "late@example.com"})
    assert anonymous in members(project)
    assert anonymous in {
        project.distinct_id(number) for number in project.members(project.cohorts[BETA_USERS], only_with_profile=True)
    }


def test_somebody_new_can_join(project: Project) -> None:
    project.set("somebody new", {"plan": "beta"})
    assert "somebody new" in members(project)
    assert len(members(project)) == 1001


@pytest.mark.parametrize(("id_merge", "aliased"), [("original", True), ("simplified", False)])
def test_setting_the_partner_id_makes_an_alias_with_original_id_merge(id_merge: IdMerge, aliased: bool) -> None:
    project = Project(Population(100, id_merge))
    project.set("somebody new", {"$apptimize_user_id": "i_42"})
    assert (project.find("i_42") == project.find("somebody new")) is aliased
    project.set("i_42", {"plan": "beta"})
    assert ("somebody new" in members(project)) is aliased


def test_churn_is_counted_and_repeatable(project: Project) -> None:
    before = members(project)
    assert project.churn(0.05) == (50, 50)
    after = members(project)
    assert (len(after - before), len(before - after)) == (50, 50)
    again = Project(Population(1000))
    again.churn(0.05)
    assert members(again) == after


def test_churn_ends_where_nobody_is_left(project: Project) -> None:
    assert project.churn(1.0) == (sum(project.with_profile[1000:]), sum(project.with_profile[:1000]))


def test_what_changed_can_be_kept(project: Project) -> None:
    project.churn(0.1)
    project.set("somebody new", {"plan": "beta", "$apptimize_user_id": "i_42"})
    project.delete(a(project, Kind.REGULAR))
    again = Project(Population(1000))
    again.load(project.dump())
    assert members(again) == members(project)
    assert [again.profile(number) for number in range(again.size)] == [
        project.profile(number) for number in range(project.size)
    ]
    assert again.find("i_42") == project.find("i_42")

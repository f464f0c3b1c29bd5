"""F10: answers that break off, trickle, lie about their length or are no answers: unknown, and asserted again."""

from collections import Counter
from collections.abc import Callable, Mapping

import pyarrow.parquet as pq
import pytest

from cohort_pipelines import history
from cohort_pipelines.core import clock
from cohort_pipelines.destinations import exchange
from cohort_pipelines.mixpanel import client
from cohort_pipelines_tests.faults.projects import BETA_USERS, Faulty, said, to_the_window_before, without_waiting
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

PARTNERS = {TAPLYTICS: ("taplytics", "/v2/users"), APPTIMIZE: ("apptimize", "/cohorts")}
BROKEN: Mapping[str, Mapping[str, object]] = {
    "500": {"kind": "status", "status": 500},
    "502 with a page": {"kind": "status", "status": 502, "body": "<html>Bad gateway</html>"},
    "a page with 200": {"kind": "html"},
    "cut": {"kind": "cut"},
    "cut after it took effect": {"kind": "lost_response"},
    "half a body": {"kind": "half_body"},
    "a wrong length": {"kind": "wrong_length"},
    "slow-loris": {"kind": "slow_loris", "seconds": 0.2},
}
JOINERS = [f"joiner-{number}" for number in range(9)]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waiting(monkeypatch)
    monkeypatch.setattr(exchange, "REQUEST_SECONDS", 1.0)
    monkeypatch.setattr(client, "REQUEST_SECONDS", 2.0)


@pytest.fixture
def cross(project: Faulty) -> Callable[[bool], None]:
    """Return what lets nine join and nine leave Beta Users, and what takes both back."""
    mixpanel = project.standins.standins.mixpanel.project
    members = mixpanel.members(mixpanel.cohorts[BETA_USERS], only_with_profile=True)
    leavers = [mixpanel.distinct_id(number) for number in members[:9]]

    def cross(over: bool) -> None:
        joined = {user: {"plan": "beta" if over else "free", "$apptimize_user_id": f"i_{user}"} for user in JOINERS}
        project.profiles(joined | {user: {"plan": "free" if over else "beta"} for user in leavers})

    return cross


def newest_receipt(name: str) -> Mapping[str, object]:
    return {str(column): value for column, value in history.receipts(name).iloc[-1].items()}


@pytest.mark.parametrize("name", PARTNERS)
def test_f10_what_a_broken_answer_left_open_is_put_right_by_the_next_window(
    project: Faulty, cross: Callable[[bool], None], name: str
) -> None:
    service, path = PARTNERS[name]
    with clock.shifted(to_the_window_before(2 * len(BROKEN) + 1)):
        assert project.run(name).success
    before = project.held(name)
    for number, (how, what) in enumerate(BROKEN.items()):
        cross(True)
        project.fault(service, match=path, times=None, **what)
        with clock.shifted(to_the_window_before(2 * (len(BROKEN) - number))):
            result = project.run(name)
            assert "got no clear answer" in said(result), how
            assert project.ledger.windows(name)[0].state == "failed", how
        assert int(str(newest_receipt(name)["in_doubt"])) > 0, how
        assert project.held(name) >= before - project_leavers(before, project, name), how

        project.mend()
        cross(False)  # whoever was being added is to be out again, and whoever was being removed is back
        with clock.shifted(to_the_window_before(2 * (len(BROKEN) - number) - 1)):
            assert project.run(name).success, how
            wanted = project.judge.payload(name, project.window(name))
        assert project.held(name) == wanted == before, how


def project_leavers(before: set[str], project: Faulty, name: str) -> set[str]:
    """Return whom the sealed payload of the newest window leaves out."""
    newest = max(project.judge.files(name, "partner_payload"), key=lambda file: file.stat().st_mtime_ns)
    return before - set(pq.read_table(newest).column("partner_user_id").to_pylist())


@pytest.mark.parametrize("name", PARTNERS)
def test_f10_a_burst_that_passes_is_made_up_for_and_asserted_again_once_it_has_settled(
    project: Faulty, cross: Callable[[bool], None], name: str
) -> None:
    service, path = PARTNERS[name]
    with clock.shifted(to_the_window_before(2)):
        assert project.run(name).success
    cross(True)
    for status in (500, 503, 504):
        project.fault(service, kind="status", status=status, match=path, times=1)

    with clock.shifted(to_the_window_before()):
        assert project.run(name).success
        assert project.held(name) == project.judge.payload(name, project.window(name))
    in_doubt = int(str(newest_receipt(name)["in_doubt"]))
    assert in_doubt > 0  # a try that failed may still land

    assert project.run(name).success
    settled = newest_receipt(name)
    assert (settled["repeated"], settled["in_doubt"]) == (in_doubt, 0)
    assert project.held(name) == project.judge.payload(name, project.window(name))


def test_f10_a_snapshot_is_read_whole_through_answers_of_mixpanel_that_break(project: Faulty) -> None:
    mixpanel = project.standins.standins.mixpanel.project
    for back, (how, what) in enumerate(BROKEN.items()):
        project.churn(0.05)
        for page in ("page=1", "page=2"):
            project.fault("mixpanel", match="/api/query/engage", contains=page, times=1, **what)

        with clock.shifted(to_the_window_before(len(BROKEN) - back)):
            assert project.run(TAPLYTICS).success, how
            window = project.window(TAPLYTICS)

        [snapshot] = project.judge.files(TAPLYTICS, "cohort_snapshot", window)
        read = Counter(pq.read_table(snapshot, columns=["distinct_id"]).column(0).to_pylist())
        members = mixpanel.members(mixpanel.cohorts[BETA_USERS], only_with_profile=False)
        assert read == Counter(mixpanel.distinct_id(number) for number in members), how
        assert project.judge.segment() == project.judge.payload(TAPLYTICS, window), how
        project.mend()

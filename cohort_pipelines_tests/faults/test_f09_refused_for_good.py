"""F9: a key or a whole target is refused; the delivery stops at once, is red, and the next window ends exact."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cohort_pipelines.core import clock
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.faults.projects import Faulty, opened, said, to_the_window_before
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS

STATUSES = (401, 403, 400, 404, 422)
PARTNERS = {TAPLYTICS: ("taplytics", "/v2/users"), APPTIMIZE: ("apptimize", "/cohorts")}
KEY_REFUSED = {TAPLYTICS: 3 * 32, APPTIMIZE: 3}  # what all workers have begun before one knows of the first answer
REQUEST_REFUSED = {TAPLYTICS: 2 * 32, APPTIMIZE: 4}  # by an addition, and a removal or what is left of the addition


@pytest.fixture
def large(tmp_path: Path, at_an_opening: None) -> Iterator[Faulty]:  # noqa: ARG001  the clock is set first
    """Return the demo's project with an audience of several chunks."""
    with opened(tmp_path, settings=Settings(members=1500, page_size=500)) as project:
        yield project


def refuse(project: Faulty, name: str, status: int, after: int = 0) -> None:
    service, path = PARTNERS[name]
    project.fault(service, kind="status", status=status, match=path, times=None, after=after)


def runs_red(project: Faulty, name: str) -> str:
    """Run a sync that must not succeed, nor have its upload materialized; return what it said."""
    result = project.run(name)
    assert not result.success
    uploaded = project.syncs[name].key("destination_upload")
    assert uploaded not in [event.asset_key for event in result.get_asset_materialization_events()]
    assert project.ledger.windows(name)[0].state == "failed"
    return said(result)


@pytest.mark.parametrize("name", PARTNERS)
@pytest.mark.parametrize("filled", [False, True], ids=["empty", "filled"])
def test_f09_a_refusal_from_the_first_request_on_stops_at_once(large: Faulty, name: str, *, filled: bool) -> None:
    if filled:
        with clock.shifted(to_the_window_before(len(STATUSES) + 1)):
            assert large.run(name).success
        large.churn(0.4)
    before = large.held(name)
    for back, status in enumerate(STATUSES):
        refuse(large, name, status)
        asked = large.judge.asked().total()

        with clock.shifted(to_the_window_before(len(STATUSES) - back)):
            sentence = runs_red(large, name)

        asked_for_it = filled and name == APPTIMIZE and status == 404
        assert ("does not know the target" if asked_for_it else "refused") in sentence, status
        assert f"({status})" in sentence
        assert "stopped after 0 of" in sentence
        limit = KEY_REFUSED[name] if status in {401, 403} else REQUEST_REFUSED[name]
        assert 1 <= large.judge.asked().total() - asked <= limit, status
        assert large.held(name) == before, status
        large.mend()

    mended = large.run(name)
    assert mended.success, said(mended)
    assert large.held(name) == large.judge.payload(name, large.window(name)) != before


@pytest.mark.parametrize("name", PARTNERS)
def test_f09_a_key_that_is_revoked_in_mid_upload_stops_at_once(
    large: Faulty, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CohortMessages, "chunk_rows", 20)
    with clock.shifted(to_the_window_before(2)):
        assert large.run(name).success
    before = large.held(name)
    large.churn(0.2)
    refuse(large, name, 401, after=9)
    asked = large.judge.asked().total()

    with clock.shifted(to_the_window_before()):
        sentence = runs_red(large, name)

    wanted = large.judge.payload(name, large.window(name, back=1 if name == TAPLYTICS else 8))
    assert "refused the key (401)" in sentence
    assert large.judge.asked().total() - asked <= 9 + KEY_REFUSED[name]
    assert before & wanted <= large.held(name) <= before | wanted
    assert large.held(name) not in (before, wanted)

    large.mend()
    large.churn(0.05)
    mended = large.run(name)
    assert mended.success, said(mended)
    assert large.held(name) == large.judge.payload(name, large.window(name))

"""The ledger is opened by one function for all that write, and by one for all that look: both know whose it is."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from fsspec.implementations.local import LocalFileSystem

from cohort_pipelines.core import settings
from cohort_pipelines.core.errors import HistoryNotReadable, LedgerUnpaired, LedgerUnusable
from cohort_pipelines.core.files import Stage
from cohort_pipelines.history import History
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.orchestration.resources import Records, fitting_ledger, own_ledger
from cohort_pipelines.recovery import pairing
from cohort_pipelines_tests.databases import KINDS
from cohort_pipelines_tests.faults.disks import denied
from cohort_pipelines_tests.faults.ledgers import place
from cohort_pipelines_tests.orchestration.demo_project import TAPLYTICS, Project, failure
from cohort_pipelines_tests.orchestration.operating import operate


@pytest.fixture(params=KINDS)
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An empty place for a ledger, in either kind of database, and a history beside it; both are the environment's."""
    monkeypatch.setenv(settings.DATA, str(tmp_path / "data"))
    with place(request.param, tmp_path / "data") as url:
        monkeypatch.setenv(settings.LEDGER, url)
        yield url


def history() -> History:
    return History(settings.history_root())


def has_tables(url: str) -> bool:
    try:
        Ledger(url, create=False)
    except LedgerUnusable:
        return False
    return True


def test_at_first_use_a_ledger_is_made_by_who_writes_and_the_history_is_left_alone(url: str, tmp_path: Path) -> None:
    assert fitting_ledger() is None
    assert list(tmp_path.iterdir()) == []
    made = own_ledger()

    looked = fitting_ledger()
    assert looked is not None
    assert looked.ledger_id == made.ledger_id == Records().ledger().ledger_id == Ledger(url).ledger_id
    assert not Path(settings.history_root()).exists()


@pytest.mark.parametrize("marked", [True, False])
def test_where_something_was_delivered_a_ledger_that_is_gone_is_not_made_again(url: str, *, marked: bool) -> None:
    if marked:
        pairing.mark(history(), "the lost one", 1)
    else:
        history().write("beta", Stage.RECEIPT, "w", pa.table({"state": ["delivered"]}))

    for ask in (own_ledger, fitting_ledger, Records().ledger):
        with pytest.raises(LedgerUnpaired, match="it is gone, and the history tells of deliveries") as refused:
            ask()
        assert "ledger rebuild" in str(refused.value)
    assert not has_tables(url)


def test_a_ledger_of_another_history_is_refused(url: str) -> None:
    Ledger(url)
    pairing.mark(history(), "another", 1)

    for ask in (own_ledger, fitting_ledger, Records().ledger):
        with pytest.raises(LedgerUnpaired, match="another ledger's"):
            ask()


def test_a_history_that_cannot_be_read_is_named_and_no_ledger_is_made_beside_it(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalFileSystem, "ls", denied)

    for ask in (own_ledger, fitting_ledger, Records().ledger):
        with pytest.raises(HistoryNotReadable, match=f"{settings.history_root()}/?: Permission denied"):
            ask()
    assert not has_tables(url)
    Ledger(url)
    for ask in (own_ledger, fitting_ledger, Records().ledger):
        with pytest.raises(HistoryNotReadable, match=f"{settings.history_root()}/.ledger: Permission denied"):
            ask()


@pytest.mark.parametrize(
    ("job", "config"),
    [("restore", {"window": "2026-01-01T0000Z"}), ("retarget", {}), ("retire", {}), ("retire", {"forget": True})],
)
def test_a_job_that_is_launched_in_the_ui_is_red_where_the_ledger_is_gone(
    project: Project, job: str, config: dict[str, object]
) -> None:
    pairing.mark(project.history, "the lost one", 1)

    assert "cohort-pipelines ledger rebuild" in failure(operate(project, job, sync=TAPLYTICS, **config))
    assert not Path(settings.data_root(), "ledger.sqlite").exists()


def test_freshness_says_that_the_ledger_is_gone(project: Project) -> None:
    pairing.mark(project.history, "the lost one", 1)

    result = project.definitions.resolve_job_def("freshness").execute_in_process(instance=project.instance)

    found = result.get_asset_check_evaluations()
    assert [check.passed for check in found] == [False, False]
    assert all("it is gone, and the history tells of deliveries" in (check.description or "") for check in found)


def test_freshness_says_that_the_history_cannot_be_read(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalFileSystem, "ls", denied)

    result = project.definitions.resolve_job_def("freshness").execute_in_process(instance=project.instance)

    found = result.get_asset_check_evaluations()
    assert [check.passed for check in found] == [False, False]
    assert all("The history could not be read at " in (check.description or "") for check in found)

import pytest

from cohort_pipelines import settings
from cohort_pipelines.errors import LedgerUnusable


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(settings.DATA, raising=False)
    monkeypatch.delenv(settings.LEDGER, raising=False)


def test_everything_lies_under_data_unless_said_otherwise() -> None:
    assert settings.data_root() == "data"
    assert settings.history_root() == "data/history"
    assert settings.ledger_url() == "sqlite:///data/ledger.sqlite"


@pytest.mark.parametrize(
    ("data", "history", "ledger"),
    [
        ("/srv/cohorts/", "/srv/cohorts/history", "sqlite:////srv/cohorts/ledger.sqlite"),
        ("file:///srv/cohorts", "file:///srv/cohorts/history", "sqlite:////srv/cohorts/ledger.sqlite"),
        ("", "data/history", "sqlite:///data/ledger.sqlite"),
    ],
)
def test_history_and_ledger_follow_the_data_root(
    monkeypatch: pytest.MonkeyPatch, data: str, history: str, ledger: str
) -> None:
    monkeypatch.setenv(settings.DATA, data)

    assert (settings.history_root(), settings.ledger_url()) == (history, ledger)


@pytest.mark.parametrize("data", ["s3://bucket/cohorts", "sftp://deploy:hunter2@host/cohorts"])
@pytest.mark.parametrize("ledger", ["", "sqlite:////srv/ledger.sqlite"])
def test_a_remote_history_refuses_a_ledger_of_one_host(monkeypatch: pytest.MonkeyPatch, data: str, ledger: str) -> None:
    monkeypatch.setenv(settings.DATA, data)
    monkeypatch.setenv(settings.LEDGER, ledger)

    assert settings.history_root() == f"{data}/history"
    with pytest.raises(LedgerUnusable, match="set COHORT_PIPELINES_LEDGER to a PostgreSQL database") as refused:
        settings.ledger_url()
    assert settings.DATA in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_remote_history_goes_with_a_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.DATA, "s3://bucket/cohorts")
    monkeypatch.setenv(settings.LEDGER, "postgresql://db/ledger")

    assert settings.ledger_url() == "postgresql://db/ledger"

from pathlib import Path

import pytest

from cohort_pipelines.core import environment, settings
from cohort_pipelines.core.errors import EnvironmentFileInvalid, LedgerUnusable, PathInvalid, ProjectFolderInvalid


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in (settings.DATA, settings.LEDGER, settings.HOME):
        monkeypatch.setenv(name, "")  # so that what a .env sets is undone
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", "/home/op")
    monkeypatch.setattr(settings, "_entered", [Path("/srv/p")])
    return tmp_path


@pytest.fixture
def _nothing_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "_entered", [])


def test_everything_lies_in_the_projects_data_unless_said_otherwise() -> None:
    assert settings.data_root() == "/srv/p/data"
    assert settings.history_root() == "/srv/p/data/history"
    assert settings.ledger_url() == "sqlite:////srv/p/data/ledger.sqlite"


@pytest.mark.parametrize(
    ("data", "history", "ledger"),
    [
        ("/srv/cohorts/", "/srv/cohorts/history", "sqlite:////srv/cohorts/ledger.sqlite"),
        ("file:///srv/cohorts", "file:///srv/cohorts/history", "sqlite:////srv/cohorts/ledger.sqlite"),
        ("", "/srv/p/data/history", "sqlite:////srv/p/data/ledger.sqlite"),
        (" \n", "/srv/p/data/history", "sqlite:////srv/p/data/ledger.sqlite"),
        (" kept/here\n", "/srv/p/kept/here/history", "sqlite:////srv/p/kept/here/ledger.sqlite"),
        ("~/x", "/home/op/x/history", "sqlite:////home/op/x/ledger.sqlite"),
        ("~", "/home/op/history", "sqlite:////home/op/ledger.sqlite"),
    ],
)
def test_history_and_ledger_follow_the_data_root(
    monkeypatch: pytest.MonkeyPatch, data: str, history: str, ledger: str
) -> None:
    monkeypatch.setenv(settings.DATA, data)

    assert (settings.history_root(), settings.ledger_url()) == (history, ledger)


@pytest.mark.parametrize(
    ("named", "ledger"),
    [
        ("sqlite:///x.sqlite", "sqlite:////srv/p/x.sqlite"),
        (" sqlite:///~/x.sqlite\n", "sqlite:////home/op/x.sqlite"),
        ("sqlite+pysqlite:////srv/x.sqlite?timeout=5", "sqlite+pysqlite:////srv/x.sqlite?timeout=5"),
        ("postgresql://db/ledger\n", "postgresql://db/ledger"),
    ],
)
def test_a_ledgers_file_lies_in_the_project_or_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, named: str, ledger: str
) -> None:
    monkeypatch.setenv(settings.LEDGER, named)

    assert settings.ledger_url() == ledger


def test_a_place_that_no_url_or_no_user_has_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(settings.DATA, "/srv/what?/data")
    with pytest.raises(LedgerUnusable, match="question mark"):
        settings.ledger_url()

    monkeypatch.setenv(settings.DATA, "~no-such-user/data")
    with pytest.raises(PathInvalid, match="~no-such-user/data cannot be used: there is no such home folder"):
        settings.data_root()


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


@pytest.mark.usefixtures("_nothing_loaded")
@pytest.mark.parametrize(
    ("name", "content"),
    [("dagster.yaml", ""), ("pyproject.toml", '[tool.dg.project]\nroot_module = "syncs"\n')],
)
def test_the_project_is_the_nearest_around_its_package(
    project: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: str
) -> None:
    (project / name).write_text(content, encoding="utf-8")
    (project / "inner").mkdir()
    (project / "inner" / "pyproject.toml").write_text("[project]\n", encoding="utf-8")
    monkeypatch.setenv(settings.HOME, "/var/dagster")

    settings.adopt(project / "inner" / "src" / "syncs")

    assert settings.project_folder() == project.resolve()


@pytest.mark.usefixtures("_nothing_loaded")
def test_without_a_project_the_folder_is_dagsters_home_else_the_current_one(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    assert settings.project_folder() == project

    monkeypatch.setenv(settings.HOME, " ~/dagster\n")
    assert settings.project_folder() == Path("/home/op/dagster")
    settings.adopt(project / "syncs")
    assert settings.project_folder() == Path("/home/op/dagster")


@pytest.mark.usefixtures("_nothing_loaded")
def test_a_project_that_was_chosen_stays_until_it_is_left(project: Path) -> None:
    (project / "dagster.yaml").touch()
    with settings.in_project(Path("/srv/chosen")):
        settings.adopt(project / "syncs")
        assert settings.project_folder() == Path("/srv/chosen")

    settings.adopt(project / "syncs")
    assert settings.project_folder() == project.resolve()


@pytest.mark.usefixtures("_nothing_loaded")
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", r"its pyproject\.toml cannot be read as TOML"),
        (b"tool = 5", r"tool\.dg\.project in its pyproject\.toml is no table"),
        (b'[tool.dg]\nproject = "x"', r"tool\.dg\.project in its pyproject\.toml is no table"),
    ],
)
def test_a_pyproject_that_cannot_be_used_is_named(project: Path, content: bytes, problem: str) -> None:
    (project / "pyproject.toml").write_bytes(content)

    with pytest.raises(ProjectFolderInvalid, match=problem):
        settings.adopt(project / "syncs")


def test_the_projects_env_file_wins_and_the_names_that_differ_are_told(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"A": "old", "B": "same", "C": "", "D": "kept"}.items():
        monkeypatch.setenv(name, value)
    (project / ".env").write_text("\ufeffA=new\nB=same\nexport C='set'\n# D=no\nE\n", encoding="utf-8")

    with settings.in_project(project) as differing:
        assert differing == ["A"]
        assert [environment.resolve(f"{{{{ env.{name} }}}}", wanted_for="it") for name in "ABCD"] == [
            "new",
            "same",
            "set",
            "kept",
        ]


@pytest.mark.parametrize("content", ["A=é".encode("latin-1"), "A=b".encode("utf-16"), "A=b".encode("utf-16-le")])
def test_an_env_file_in_another_encoding_is_refused_by_name(project: Path, content: bytes) -> None:
    (project / ".env").write_bytes(content)

    refused = pytest.raises(EnvironmentFileInvalid, match=r"/\.env is not text in UTF-8\. Nothing was sent")
    with refused, settings.in_project(project):
        pytest.fail("it was read")

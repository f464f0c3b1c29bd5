import re
import shutil
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

import cohort_pipelines
from cohort_pipelines.cli import main
from cohort_pipelines.core import clock, settings
from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.server import InThread, in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines_tests.command_line import LAUNCH_LIST, PROJECT, Ended, Run


@pytest.fixture(autouse=True)
def _clock_is_put_back() -> Iterator[None]:
    """Fail the test that leaves the clock moved, rather than the ones after it."""
    before = clock.offset()
    yield
    assert clock.offset() == before


@pytest.fixture(autouse=True)
def _the_project_is_where_the_test_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let settings be those of the current folder, not of the project that was first loaded in this process."""
    monkeypatch.setattr(settings, "_entered", [Path()])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Return what runs the command line in this process: the same code as the console script, without its start-up."""

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["cohort-pipelines", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        captured = capfd.readouterr()
        assert isinstance(ended.value.code, int)
        return Ended(ended.value.code, captured.out, captured.err)

    return run


@pytest.fixture(scope="module")
def served() -> Iterator[InThread]:
    with in_thread(Settings(members=300, page_size=100)) as standins:
        yield standins


@pytest.fixture
def standins(served: InThread, monkeypatch: pytest.MonkeyPatch) -> Iterator[InThread]:
    """Return the module's stand-ins in perfect health, with the environment that leads to them and to nothing else."""
    for name in ("COHORT_PIPELINES_DATA", "COHORT_PIPELINES_LEDGER", "DAGSTER_HOME"):
        monkeypatch.setenv(name, "")  # so that what a command sets is undone
        monkeypatch.delenv(name)
    for name, value in served.environment().items():
        monkeypatch.setenv(name, value)
    yield served
    for faults in (served.standins.mixpanel_faults, served.standins.taplytics_faults, served.standins.apptimize_faults):
        faults.clear()
    served.standins.mixpanel.budget.reset()
    served.standins.mixpanel.role = "admin"


@pytest.fixture
def demo_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which holds nothing but a dagster.yaml: it runs the demo's declarations."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def export_project(tmp_path: Path, standins: InThread, request: pytest.FixtureRequest) -> Path:
    """Return a project with one sync, of type one_time, to the stand-in of Taplytics; it is not the current folder."""
    assert standins.credentials.cohort_id == BETA_USERS
    module = "exporting_" + re.sub(r"\W", "_", request.node.name)  # Python imports each name once
    folder = tmp_path / "project"
    package = folder / module
    for name in (PROJECT, "taplytics"):
        shutil.copytree(Path(cohort_pipelines.__file__).parent / "defs" / name, package / "defs" / name)
    (package / "defs" / "launch_list").mkdir()
    (package / "defs" / "launch_list" / "defs.yaml").write_text(LAUNCH_LIST, encoding="utf-8")
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text(f'[tool.dg.project]\nroot_module = "{module}"\n', encoding="utf-8")
    shutil.copy(Path(cohort_pipelines.__file__).parent / "devtools" / "templates" / "project" / "dagster.yaml", folder)
    return folder


@pytest.fixture
def at_opening() -> Iterator[None]:
    """Set the clock to the start of the two-hour window that is open, so that no test meets a window's end."""
    now = clock.now()
    since = timedelta(hours=now.hour % 2, minutes=now.minute, seconds=now.second, microseconds=now.microsecond)
    with clock.shifted(timedelta(seconds=1) - since):
        yield

import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cohort_pipelines import __version__
from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import ProjectFolderInvalid
from cohort_pipelines.devtools.scaffold import init_project, write_instance_files

FILES = {
    ".env.example",
    ".gitignore",
    "README.md",
    "dagster.yaml",
    "my_audiences/__init__.py",
    "my_audiences/definitions.py",
    "my_audiences/defs/__init__.py",
    "my_audiences/defs/apptimize/defs.yaml",
    "my_audiences/defs/beta_users_apptimize/defs.yaml",
    "my_audiences/defs/beta_users_taplytics/defs.yaml",
    "my_audiences/defs/launch_list_apptimize/defs.yaml",
    "my_audiences/defs/main_project/defs.yaml",
    "my_audiences/defs/taplytics/defs.yaml",
    "pyproject.toml",
    "workspace.yaml",
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "My-Audiences"
    init_project(folder)
    return folder


def declarations(project: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text(encoding="utf-8") for path in project.rglob("defs.yaml")}


def test_a_new_folder_gets_a_whole_project(tmp_path: Path) -> None:
    folder = tmp_path / "somewhere" / "My-Audiences"

    written = init_project(folder)

    assert {path.relative_to(folder).as_posix() for path in written} == FILES
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == FILES


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "syncs_of_ours").mkdir()
    assert len(init_project(tmp_path / "syncs_of_ours")) == len(FILES)


def test_the_module_is_named_after_the_folder_everywhere(project: Path) -> None:
    packaging = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))

    assert packaging["project"]["name"] == "My-Audiences"
    assert packaging["project"]["dependencies"] == [f"cohort-pipelines=={__version__}"]
    assert packaging["tool"]["dg"]["project"] == {
        "root_module": "my_audiences",
        "code_location_target_module": "my_audiences.definitions",
        "defs_module": "my_audiences.defs",
    }
    assert "module_name: my_audiences.definitions" in (project / "workspace.yaml").read_text(encoding="utf-8")
    assert not any("${" in path.read_text(encoding="utf-8") for path in project.rglob("*") if path.is_file())


def test_one_sync_of_each_type_and_each_to_its_own_target(project: Path) -> None:
    syncs = {name: text for name, text in declarations(project).items() if ".CohortSync" in text}

    types = {name: re.findall(r"^  type: (\w+)$", text, re.MULTILINE) for name, text in syncs.items()}
    assert types == {
        "launch_list_apptimize": ["one_time"],
        "beta_users_taplytics": ["dynamic"],
        "beta_users_apptimize": ["recurring"],
    }
    targets = [line for text in syncs.values() for line in re.findall(r"^  target: .*$", text, re.MULTILINE)]
    assert len(set(targets)) == 3


def test_scheduled_syncs_begin_today(tmp_path: Path) -> None:
    with clock.shifted(datetime(2027, 3, 1, 12, tzinfo=UTC) - clock.now()):
        init_project(tmp_path / "later")

    sinces = [re.findall(r"since: (.*)", text) for text in declarations(tmp_path / "later").values()]
    assert sorted(sinces) == [[], [], [], [], ["2027-03-01"], ["2027-03-01"]]


def test_every_variable_that_a_declaration_refers_to_is_explained(project: Path) -> None:
    referred = {name for text in declarations(project).values() for name in re.findall(r"{{ env\.(\w+) }}", text)}
    example = (project / ".env.example").read_text(encoding="utf-8")

    assert referred == set(re.findall(r"^(\w+)=", example, re.MULTILINE))
    assert len(referred) == 5


def test_no_secret_is_written_as_a_value(project: Path) -> None:
    text = "\n".join(declarations(project).values())
    values = re.findall(r"^  (?:secret|token|api_key|service_account): (.*)$", text, re.MULTILINE)
    assert len(values) == 4
    assert all(re.fullmatch(r'"{{ env\.\w+ }}"', value) for value in values)


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()

    with pytest.raises(ProjectFolderInvalid, match="not an empty folder"):
        init_project(tmp_path / "mine")

    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    with pytest.raises(ProjectFolderInvalid, match="not an empty folder"):
        init_project(tmp_path / "mine")


@pytest.mark.parametrize("name", ["2027-syncs", "my syncs", "class", "späti", "a.b", "_hidden"])
def test_a_name_that_python_cannot_import_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectFolderInvalid, match="cannot be that of a Python module"):
        init_project(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cohort-pipelines", "dagster", "json", "data"])
def test_a_name_that_would_hide_another_module_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectFolderInvalid, match="taken by another Python module"):
        init_project(tmp_path / name)


def test_an_empty_folder_of_the_same_name_in_reach_takes_no_name(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    code = (
        "from pathlib import Path; from cohort_pipelines.devtools.scaffold import init_project; "
        "init_project(Path('mine'))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert (tmp_path / "mine" / "mine" / "definitions.py").is_file()


def test_instance_files_are_written_where_they_are_missing(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text("nux: {enabled: false}\n", encoding="utf-8")

    assert write_instance_files(tmp_path) == [tmp_path / "workspace.yaml"]

    assert (tmp_path / "dagster.yaml").read_text(encoding="utf-8") == "nux: {enabled: false}\n"
    assert "module_name: cohort_pipelines.definitions" in (tmp_path / "workspace.yaml").read_text(encoding="utf-8")

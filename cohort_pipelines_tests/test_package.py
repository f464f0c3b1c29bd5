import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef

from cohort_pipelines.devtools.scaffold import INSTANCE_FILES, write_instance_files

ROOT = Path(__file__).parents[1]


def test_constraints_are_pins_and_nothing_else() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)] == []


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    pinned = {_normal(line.split("==")[0]) for line in lines}
    assert {_normal(re.split(r"[<>=!~;\[ ]", one)[0]) for one in wanted} <= pinned


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("name", INSTANCE_FILES)
def test_the_repository_is_a_project_like_those_that_init_writes(tmp_path: Path, name: str) -> None:
    write_instance_files(tmp_path)
    assert (ROOT / name).read_text(encoding="utf-8") == (tmp_path / name).read_text(encoding="utf-8")


def test_dagster_keeps_everything_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_instance_files(tmp_path)
    monkeypatch.chdir(tmp_path)

    with DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path))) as instance:
        instance.add_dynamic_partitions("exports", ["today"])
        assert not instance.telemetry_enabled
        assert not instance.nux_enabled
        assert instance.run_monitoring_max_runtime_seconds < 2 * 60 * 60
        assert instance.run_monitoring_start_timeout_seconds <= 60  # what a worker that dies before it starts holds up

    assert {path.name for path in tmp_path.iterdir()} == {*INSTANCE_FILES, "data"}
    assert {path.name for path in (tmp_path / "data").iterdir()} == {"dagster"}


@pytest.mark.slow
def test_the_wheel_holds_templates_declarations_and_types(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path, ROOT],
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    package = Path(str(files("cohort_pipelines")))
    sources = {
        path.relative_to(package.parent).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names
    assert "cohort_pipelines/py.typed" in names
    assert "cohort_pipelines/devtools/templates/project/env.example" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert not any(name.startswith("cohort_pipelines_tests") for name in names)

"""F25: ten million members to a file, a million changes by message: memory stays flat, far below a gibibyte.

The sizes of a usual run are smaller, and are compared with a tenth of them: what grows with the audience would show.
`COHORT_PIPELINES_TEST_MEMBERS=10000000 COHORT_PIPELINES_TEST_CHANGES=1000000` are the whole sizes.
"""

import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from cohort_pipelines.standins.server import running
from cohort_pipelines.standins.settings import Settings
from cohort_pipelines_tests.faults.checker import Checker, ids_in
from cohort_pipelines_tests.faults.projects import FILES, MESSAGES, MIXPANEL, sync

MEMBERS = int(os.environ.get("COHORT_PIPELINES_TEST_MEMBERS", "500000"))
CHANGES = int(os.environ.get("COHORT_PIPELINES_TEST_CHANGES", "100000"))
GIBIBYTE = 1024.0
BY_FILE, BY_MESSAGE = "by_file", "by_message"
DECLARED = {
    "mixpanel": MIXPANEL,
    "files": FILES,
    "messages": MESSAGES,
}


@dataclass(frozen=True)
class Exported:
    """What an export took; ``peak`` in megabytes."""

    users: int
    peak: float
    seconds: float


def export(folder: Path, name: str, members: int) -> Exported:
    """Export a cohort of that size in a process of its own, and see what arrived."""
    package = folder / "heavy"
    kinds = {BY_FILE: "files", BY_MESSAGE: "messages"}
    for each, text in {**DECLARED, name: one_time(kinds[name])}.items():
        (package / "defs" / each).mkdir(parents=True)
        (package / "defs" / each / "defs.yaml").write_text(text, encoding="utf-8")
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "heavy"\n', encoding="utf-8")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")
    with running(Settings(members=members)) as standins:
        places = {"COHORT_PIPELINES_DATA": str(folder / "data"), "IMPORTS": str(folder / "imports")}
        environment = {**os.environ, **standins.environment(), **places}
        environment.pop("DAGSTER_HOME", None)
        command = [sys.executable, "-m", "cohort_pipelines_tests.faults.heavy_export", str(folder), name]
        ended = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
        told = json.loads(ended.stdout.splitlines()[-1])
        assert told["error"] == ""
        judge = Checker(folder / "data", standins)
        [payload] = judge.files(name, "partner_payload")
        if name == BY_FILE:
            assert holds_exactly(folder / "imports", payload)
        else:
            assert judge.group("Beta") == ids_in(payload)
        return Exported(pq.read_metadata(payload).num_rows, told["peak"], told["seconds"])


def one_time(destination: str) -> str:
    return sync(destination, "Beta", "one_time").replace(", since: 2025-01-01", "")


def holds_exactly(imports: Path, payload: Path) -> bool:
    """Say whether the file that lies ready has the ids of the payload in their order, holding few of them at once."""
    [current] = imports.rglob("current.csv")
    with current.open(encoding="utf-8", newline="") as file, pq.ParquetFile(payload, pre_buffer=False) as sealed:
        rows = csv.reader(file)
        assert next(rows) == ["user_id"]
        wanted = (user for batch in sealed.iter_batches() for user in batch.column(0).to_pylist())
        return all(row == [user] for row, user in zip(rows, wanted, strict=True))


@pytest.mark.parametrize(("name", "size", "growth"), [(BY_FILE, MEMBERS, 200.0), (BY_MESSAGE, CHANGES, 150.0)])
def test_f25_an_audience_ten_times_as_large_takes_hardly_more_memory(
    tmp_path: Path, name: str, size: int, growth: float
) -> None:
    few = export(tmp_path / "few", name, size // 10)
    many = export(tmp_path / "many", name, size)

    for exported, members in ((few, size // 10), (many, size)):
        assert exported.users > members * 0.8
    print(f"{name}: {few}, {many}")  # noqa: T201  the numbers, for whoever runs it by hand
    assert many.peak < GIBIBYTE
    assert many.peak - few.peak < growth

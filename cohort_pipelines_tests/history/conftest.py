import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from cohort_pipelines.history import History


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


@pytest.fixture
def object_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[History]:
    """A history on a remote root; fsspec's memory file system is one, as far as the history can tell."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = f"/{uuid.uuid4().hex}"
    yield History(f"memory:/{root}")
    if MemoryFileSystem().exists(root):
        MemoryFileSystem().rm(root, recursive=True)


@pytest.fixture(params=["local", "object_store"])
def any_history(request: pytest.FixtureRequest) -> History:
    name = "history" if request.param == "local" else "object_store"
    found: History = request.getfixturevalue(name)
    return found

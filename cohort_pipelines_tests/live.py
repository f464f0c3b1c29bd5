"""A Dagster that really runs, for tests of it: `cohort-pipelines dev` over a folder, and its GraphQL."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx

from cohort_pipelines.devtools.processes import HOST
from cohort_pipelines_tests.devtools.test_dev import environment_of, free_port

Found = TypeVar("Found")

_POLL_SECONDS = 0.25
_START_SECONDS = 120.0


def until(found: Callable[[], Found | None], what: str, seconds: float = 120.0) -> Found:
    """Ask ``found`` until what it returns is true, and return that."""
    give_up = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < give_up, f"not within {seconds:.0f} s: {what}"
        time.sleep(_POLL_SECONDS)
    return answer


@dataclass(frozen=True)
class Live:
    """Everything that one `cohort-pipelines dev` has started over ``folder``."""

    process: subprocess.Popen[bytes]
    folder: Path
    port: int
    log: Path

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def ask(self, query: str, **variables: object) -> Any:  # noqa: ANN401  GraphQL's answer, whatever was asked for
        """Return what the one field of ``query`` holds."""
        sent = {"query": query, "variables": variables}
        answer = httpx.post(f"{self.url}/graphql", json=sent, timeout=60).raise_for_status().json()
        assert "errors" not in answer, answer["errors"]
        [field] = answer["data"].values()
        return field

    def kill_everything(self) -> None:
        """End every process at once and without a warning, as a machine that goes down does."""
        self.process.kill()
        self.process.wait()
        while living := self._processes():
            for process in living:
                _kill(process)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(timeout=60)

    def _processes(self) -> list[int]:
        mark = f"DAGSTER_HOME={self.folder}".encode()
        return [int(each.name) for each in Path("/proc").glob("[0-9]*") if mark in environment_of(each)]

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.output
        return "Dagster answers" in self.output


@contextmanager
def serving(folder: Path, environment: Mapping[str, str], *options: str) -> Iterator[Live]:
    """Run `cohort-pipelines dev` over ``folder`` as a shell would, and stop all of it at the end."""
    port = free_port()
    log = folder.parent / f"{folder.name}-{port}.log"
    command = [sys.executable, "-m", "cohort_pipelines", "dev", "--project", str(folder), "--port", str(port), *options]
    with (
        log.open("wb") as output,
        subprocess.Popen(command, env={**os.environ, **environment}, stdout=output, stderr=output) as process,
    ):
        live = Live(process, folder, port, log)
        try:
            until(live._answers, f"Dagster answers; it said: {log}", _START_SECONDS)
            yield live
        finally:
            live.stop()
            assert live._processes() == []


def _kill(process: int) -> None:
    try:
        os.kill(process, signal.SIGKILL)
    except ProcessLookupError:
        return

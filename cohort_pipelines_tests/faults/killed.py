"""The four assets of a sync in a process of their own, which kills itself at one of its points."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any, Literal

import dagster as dg
import pytest

from cohort_pipelines.core import clock, http
from cohort_pipelines.core.files import Stage
from cohort_pipelines.destinations import exchange
from cohort_pipelines.history import History
from cohort_pipelines.ledger.database import Database
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines_tests.faults.wires import small_chunks

# forks of a process that has imported this and done nothing else: the imports take longer than a run
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Point:
    """Before or after which of its doings a process dies, counted from 1.

    A kind is ``query`` (a request to Mixpanel), ``request`` (one to the partner), ``commit``, ``mark``, ``pointer`` (a
    published file's) or a stage of the history: a file of it.
    """

    kind: str
    number: int
    moment: Literal["before", "after"]

    def __str__(self) -> str:
        return f"{self.kind}-{self.number}-{self.moment}"


class _Countdown:
    """Kills this process, and nothing of it goes on, when the last of so many points is reached."""

    def __init__(self, at: Point) -> None:
        self._left = at.number
        self._moment = at.moment

    @contextmanager
    def around(self) -> Iterator[None]:
        self._left -= 1
        last = self._left == 0
        if last and self._moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        yield
        if last:
            os.kill(os.getpid(), signal.SIGKILL)


def _dying(call: Callable[..., Any], countdown: _Countdown, *, of: str = "") -> Callable[..., Any]:
    @wraps(call)
    def dying(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  whatever the call takes
        if of not in str(arguments[-1]):
            return call(*arguments, **options)
        with countdown.around():
            return call(*arguments, **options)

    return dying


def kill_at(patch: pytest.MonkeyPatch, at: Point) -> None:
    """Let this process die there."""
    send, write, countdown = http.send, Database.write, _Countdown(at)

    async def dying_send(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  whatever the call takes
        with countdown.around():
            return await send(*arguments, **options)

    @contextmanager
    def dying_write(database: Database) -> Iterator[Any]:
        with countdown.around(), write(database) as connection:
            yield connection

    match at.kind:
        case "query":
            patch.setattr(http, "send", dying_send)  # partners are asked by a name of their own for it
        case "request":
            patch.setattr(exchange, "send", dying_send)
        case "commit":
            patch.setattr(Database, "write", dying_write)
        case "mark":
            patch.setattr(History, "write_mark", _dying(History.write_mark, countdown))
        case "pointer":
            patch.setattr(Path, "replace", _dying(Path.replace, countdown, of="/current.csv"))
        case stage:
            patch.setattr(Path, "replace", _dying(Path.replace, countdown, of=f"/stage={Stage(stage)}/"))


def main(environment: Mapping[str, str], package: Path, name: str, shift: timedelta, at: Point) -> None:
    """Run the sync's assets in the window that is open."""
    with pytest.MonkeyPatch.context() as patch, clock.shifted(shift), small_chunks():
        for variable, value in environment.items():
            patch.setenv(variable, value)
        sync = next(sync for sync in resolved_syncs(component_tree(package)) if sync.name == name)
        job = project_definitions(package).resolve_job_def(sync.job)
        job = job.get_subset(asset_selection=set(sync.keys), asset_check_selection=set(sync.inline_checks))
        assert sync.cadence is not None
        window = sync.cadence.window_at(clock.now())
        kill_at(patch, at)
        with dg.DagsterInstance.ephemeral() as instance:
            job.execute_in_process(instance=instance, partition_key=window.key, raise_on_error=False)


def run_in_a_process(package: Path, name: str, at: Point) -> int:
    """Let a process run the sync by this one's clock and environment, and die; return its exit code."""
    process = _processes.Process(target=main, args=(dict(os.environ), package, name, clock.offset(), at))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode

"""The four assets of a sync in a process of their own, which kills itself at one of its points.

Run as `python -m cohort_pipelines_tests.faults.killed PACKAGE SYNC SHIFT KIND NUMBER before|after`; ``SHIFT`` is in
seconds, and the environment says where the services and the data are.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import wraps
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from cohort_pipelines import clock
from cohort_pipelines.delivery.database import Database
from cohort_pipelines.history import History
from cohort_pipelines.http import send
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines.partners import exchange


class _Countdown:
    """Kills this process, and nothing of it goes on, when the last of so many points is reached."""

    def __init__(self, number: int, moment: str) -> None:
        self._left = number
        self._moment = moment

    @contextmanager
    def around(self) -> Iterator[None]:
        self._left -= 1
        last = self._left == 0
        if last and self._moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        yield
        if last:
            os.kill(os.getpid(), signal.SIGKILL)


def _dying(call: Callable[..., Any], countdown: _Countdown, *, ends_in: str = "") -> Callable[..., Any]:
    @wraps(call)
    def dying(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  whatever the call takes
        if not str(arguments[-1]).endswith(ends_in):
            return call(*arguments, **options)
        with countdown.around():
            return call(*arguments, **options)

    return dying


def kill_at(patch: pytest.MonkeyPatch, kind: str, countdown: _Countdown) -> None:
    """Let this process die at points of that kind."""
    write = Database.write

    async def dying_send(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401  whatever the call takes
        with countdown.around():
            return await send(*arguments, **options)

    @contextmanager
    def dying_write(database: Database) -> Iterator[Any]:
        with countdown.around(), write(database) as connection:
            yield connection

    match kind:
        case "request":
            patch.setattr(exchange, "send", dying_send)
        case "commit":
            patch.setattr(Database, "write", dying_write)
        case "file":
            patch.setattr(Path, "replace", _dying(Path.replace, countdown, ends_in=".parquet"))
        case "mark":
            patch.setattr(History, "write_mark", _dying(History.write_mark, countdown))
        case "pointer":
            patch.setattr(Path, "replace", _dying(Path.replace, countdown, ends_in="current.csv"))


def main(package: Path, name: str, shift: timedelta, kind: str, countdown: _Countdown) -> None:
    """Run the sync's assets in the window that is open."""
    with pytest.MonkeyPatch.context() as patch, clock.shifted(shift):
        sync = next(sync for sync in resolved_syncs(component_tree(package)) if sync.name == name)
        job = project_definitions(package).resolve_job_def(sync.job)
        job = job.get_subset(asset_selection=set(sync.keys), asset_check_selection=set(sync.inline_checks))
        assert sync.cadence is not None
        window = sync.cadence.window_at(clock.now())
        kill_at(patch, kind, countdown)
        with dg.DagsterInstance.ephemeral() as instance:
            job.execute_in_process(instance=instance, partition_key=window.key, raise_on_error=False)


if __name__ == "__main__":
    _, in_package, of_sync, by_seconds, at_kind, at_number, at_moment = sys.argv
    deadly = _Countdown(int(at_number), at_moment)
    main(Path(in_package), of_sync, timedelta(seconds=float(by_seconds)), at_kind, deadly)

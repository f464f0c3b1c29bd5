"""A process of its own that delivers an audience, for those tests in which two of them meet.

Run as `python -m cohort_pipelines_tests.faults.writer JSON`; it prints what came of it as JSON.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch

import msgspec
from sqlalchemy import Connection

from cohort_pipelines.core import clock
from cohort_pipelines.core.errors import DeliveryError
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines.delivery import chunks
from cohort_pipelines.devtools.standins.settings import Addresses
from cohort_pipelines_tests.delivery.world import World
from cohort_pipelines_tests.faults.ledgers import is_locked
from cohort_pipelines_tests.faults.wires import Wired

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to deliver, where.

    ``seconds``: how long until the deadline; ``stops_at``: the record of progress, from 1, within whose transaction it
    stops itself as by SIGSTOP; 0: none; ``apply_delay``: as the target's terms have it, in seconds.
    """

    folder: str
    url: str
    kind: str
    standins: Addresses
    window: str
    ids: list[str]
    run_id: str
    lease_seconds: float = 60.0
    seconds: float = 120.0
    stops_at: int = 0
    apply_delay: float = 0.0


@contextmanager
def writing(
    world: World, wired: Wired, ids: Iterable[str], run_id: str, *, stops_at: int = 0, **how: float
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a process that delivers ``ids`` in the world's window; kill what is left of it at the end."""
    task = Task(
        folder=str(world.folder),
        url=world.url,
        kind=wired.kind,
        standins=Addresses(
            mixpanel_url=wired.standins.mixpanel_url,
            taplytics_url=wired.standins.taplytics_url,
            apptimize_url=wired.standins.apptimize_url,
        ),
        window=world.window.key,
        ids=sorted(ids),
        run_id=run_id,
        stops_at=stops_at,
        apply_delay=wired.apply_delay.total_seconds(),
        **how,
    )
    command = [sys.executable, "-m", "cohort_pipelines_tests.faults.writer", json.dumps(asdict(task))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as process:
        try:
            yield process
        finally:
            process.kill()


def await_stopped(process: subprocess.Popen[bytes]) -> None:
    """Wait until a writer is stopped, which it is a moment after it was told to."""
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)


def stop_between_transactions(process: subprocess.Popen[bytes], url: str) -> None:
    """Stop a writer, wherever it is but within a transaction on the ledger at ``url``."""
    while True:
        process.send_signal(signal.SIGSTOP)
        await_stopped(process)
        if not is_locked(url):
            return
        process.send_signal(signal.SIGCONT)


def outcome(process: subprocess.Popen[bytes]) -> dict[str, Any]:
    """Wait for the end of a writer, and return its receipt, or the name of the error that it ended with."""
    out, _ = process.communicate(timeout=120)
    told: dict[str, Any] = json.loads(out)
    return told


@contextmanager
def _stopping(at: int) -> Iterator[None]:
    record, calls = chunks.record, count(1)

    def record_and_stop(connection: Connection, attempt: int, ended: Sequence[chunks.Ended]) -> None:
        record(connection, attempt, ended)
        if next(calls) == at:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # it stops all threads, this one at once

    with patch.object(chunks, "record", record_and_stop):
        yield


def main(task: Task) -> None:
    """Deliver, and print what came of it."""
    with _stopping(task.stops_at):
        _deliver(task)


def _deliver(task: Task) -> None:
    world = World(Path(task.folder), url=task.url)
    world.window = Cadence.QUARTER_HOUR.window_named(task.window)
    wired = Wired(task.kind, task.standins, world.folder, timedelta(seconds=task.apply_delay))
    try:
        receipt = world.overwrite(
            task.ids,
            partner=wired.partner(),
            terms=wired.terms,
            run_id=task.run_id,
            lease_seconds=task.lease_seconds,
            deadline=clock.now() + timedelta(seconds=task.seconds),
        )
    except DeliveryError as error:
        told: dict[str, object] = {"error": type(error).__name__, "message": str(error)}
    else:
        told = {"error": "", "state": receipt.state, "requests": receipt.requests, "in_doubt": receipt.in_doubt}
    sys.stdout.write(json.dumps(told))


if __name__ == "__main__":
    main(msgspec.json.decode(sys.argv[1], type=Task))

"""Overwrite the partners' stand-ins, which run in a process of their own: a first fill, and then a change of 1 %.

How much of a delivery goes into recording its progress in the ledger is a share of the same run's seconds:
python -m benchmarks.deliver --users 100000
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

from benchmarks.measuring import measured
from cohort_pipelines import destinations
from cohort_pipelines.core import clock
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import one_time_window
from cohort_pipelines.delivery import Gates, deliver
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.chunks import Ended, Rows
from cohort_pipelines.destinations.wire import ChangeWire
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.history import History
from cohort_pipelines.ledger.ledger import Ledger, Target

SYNC = "benchmark"


def main() -> None:
    """Measure the wires that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--wire", choices=("taplytics", "messages"), nargs="+", default=["taplytics", "messages"])
    arguments = parser.parse_args()
    with running(Settings(members=100)) as standins:
        wires: dict[str, ChangeWire] = {
            "taplytics": destinations.Taplytics(key=standins.credentials.taplytics_key, url=standins.taplytics_url),
            "messages": destinations.apptimize_http(
                url=standins.apptimize_url, token=standins.credentials.apptimize_token, region="eu"
            ),
        }
        for name in arguments.wire:
            print(f"{name}, {arguments.users:,} users")
            with tempfile.TemporaryDirectory() as folder:
                _measure(wires[name], arguments.users, Path(folder))


def _measure(wire: ChangeWire, users: int, folder: Path) -> None:
    change = users // 200  # so many leave, and as many join
    fill = _overwrite(wire, range(users), "first", folder)
    churn = _overwrite(wire, range(change, users + change), "second", folder)
    print(f"  a change of 1 % takes {churn / fill:.1%} of the first fill's seconds")


def _overwrite(wire: ChangeWire, numbers: Iterable[int], window: str, folder: Path) -> float:
    history, ledger = History(folder / "history"), Ledger(f"sqlite:///{folder}/ledger.sqlite")
    ids = pa.table({"partner_user_id": pa.array([f"user-{number:09}" for number in numbers], pa.string())})
    payload = history.write(SYNC, Stage.PARTNER_PAYLOAD, window, ids)
    rows = payload.rows
    seq = ledger.record_snapshot(SYNC, window, payload, clock.now(), rows, rows, project=1, cohort_id=2)
    with _recording_timed() as recordings, measured() as cost:
        receipt = deliver(
            ledger=ledger,
            history=history,
            partner=wire,
            target=Target(wire.wire, wire.host, wire.account, "Benchmark"),
            sync=SYNC,
            window=one_time_window(window),
            payload=payload,
            snapshot_seq=seq,
            gates=Gates(),
            run_id="benchmark",
            deadline=clock.now() + timedelta(days=1),
        )
    print(f"  {window + ' overwrite':<17} {cost}")
    print(
        f"    {receipt.joiners:,} joiners and {receipt.leavers:,} leavers in {receipt.requests:,} requests, "
        f"{receipt.requests / cost.seconds:,.0f} a second"
    )
    spent = sum(recordings)
    print(
        f"    {len(recordings):,} transactions for progress, {1000 * spent / len(recordings):.1f} ms each: "
        f"{spent / cost.seconds:.1%} of the delivery"
    )
    return cost.seconds


@contextmanager
def _recording_timed() -> Iterator[list[float]]:
    """Collect the seconds of each transaction that records what a chunk is about to do and what became of one."""
    seconds: list[float] = []
    record = Attempt.record

    def timed(attempt: Attempt, ended: Sequence[Ended], begun: Sequence[Rows]) -> datetime:
        began = time.perf_counter()
        try:
            return record(attempt, ended, begun)
        finally:
            seconds.append(time.perf_counter() - began)

    with patch.object(Attempt, "record", timed):
        yield seconds


if __name__ == "__main__":
    main()

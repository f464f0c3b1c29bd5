"""What recording progress in the ledger costs: deliveries with it, in turns with deliveries for which it is free.

Where it is free, it is done in memory and written in one go at the end. The partners' stand-ins run in a process of
their own and answer as fast as they can, then a few milliseconds later:
python -m benchmarks.record_progress --messages 300000 --requests 8000 --delays 0 0.005 0.02
"""

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from unittest.mock import patch
from urllib.parse import urljoin

import httpx
import pyarrow as pa

from benchmarks.measuring import Cost, measured
from cohort_pipelines import destinations
from cohort_pipelines.core import clock
from cohort_pipelines.core.files import Stage
from cohort_pipelines.core.windows import one_time_window
from cohort_pipelines.delivery import Gates, deliver, sending
from cohort_pipelines.delivery.attempt import Attempt
from cohort_pipelines.delivery.chunks import Ended, Rows
from cohort_pipelines.delivery.recording import Record, Recorded, Recorder
from cohort_pipelines.destinations.wire import ChangeWire
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.history import History
from cohort_pipelines.ledger.ledger import Ledger, Target

SYNC = "benchmark"


def main() -> None:
    """Measure both wires, with partners that take more and more time to answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=300_000, help="changes by cohort messages; 0: leave them out")
    parser.add_argument("--requests", type=int, default=8_000, help="changes by a request each; 0: leave them out")
    parser.add_argument(
        "--delays", type=float, nargs="+", default=[0.0, 0.005, 0.02], help="seconds by which answers come later"
    )
    parser.add_argument("--runs", type=int, default=5, help="pairs of deliveries")
    arguments = parser.parse_args()
    for delay in arguments.delays:
        for name, changes in (("messages", arguments.messages), ("taplytics", arguments.requests)):
            if changes:
                _compare(name, changes, delay, arguments.runs)


def _compare(name: str, changes: int, delay: float, runs: int) -> None:
    pairs = [
        (_fill(name, changes, delay, recording_is_free=False), _fill(name, changes, delay, recording_is_free=True))
        for _ in range(runs)
    ]
    shares = sorted(1 - free.seconds / real.seconds for real, free in pairs)
    cpu = statistics.median(1 - free.cpu / real.cpu for real, free in pairs)
    print(f"{name}, {changes:,} changes, {1000 * delay:.0f} ms an answer, {runs} pairs of deliveries")
    print(f"  with recording    {statistics.median(real.seconds for real, _ in pairs):8.2f} s at the median")
    print(f"  without           {statistics.median(free.seconds for _, free in pairs):8.2f} s")
    print(
        f"  recording takes   {statistics.median(shares):8.1%} of a delivery's seconds "
        f"(from {shares[0]:.1%} to {shares[-1]:.1%}), {cpu:.1%} of its CPU",
        flush=True,
    )


def _fill(name: str, changes: int, delay: float, *, recording_is_free: bool) -> Cost:
    """Fill an empty target, and return what that cost."""
    with running(Settings(members=100)) as standins, tempfile.TemporaryDirectory() as folder:
        history, ledger = History(Path(folder) / "history"), Ledger(f"sqlite:///{folder}/ledger.sqlite")
        ids = pa.table({"partner_user_id": pa.array([f"user-{number:09}" for number in range(changes)], pa.string())})
        window, wire = one_time_window("benchmark"), _wire(name, standins)
        payload = history.write(SYNC, Stage.PARTNER_PAYLOAD, window.key, ids)
        seq = ledger.record_snapshot(SYNC, window.key, payload, clock.now(), changes, changes, project=1, cohort_id=2)
        if delay:
            fault = {"kind": "delay", "seconds": delay, "times": None}
            for url in (standins.taplytics_url, standins.apptimize_url):
                httpx.post(urljoin(url, "/standin/faults"), json=fault).raise_for_status()
        with _free() if recording_is_free else nullcontext(), measured() as cost:
            receipt = deliver(
                ledger=ledger,
                history=history,
                partner=wire,
                target=Target(wire.wire, wire.host, wire.account, "Benchmark"),
                sync=SYNC,
                window=window,
                payload=payload,
                snapshot_seq=seq,
                gates=Gates(),
                run_id="benchmark",
                deadline=clock.now() + timedelta(days=1),
            )
    if receipt.acknowledged != changes:
        message = f"only {receipt.acknowledged:,} of {changes:,} changes were acknowledged"
        raise RuntimeError(message)
    return cost


def _wire(name: str, standins: Addresses) -> ChangeWire:
    if name == "taplytics":
        return destinations.Taplytics(key=standins.credentials.taplytics_key, url=standins.taplytics_url)
    return destinations.apptimize_http(
        url=standins.apptimize_url, token=standins.credentials.apptimize_token, region="eu"
    )


@contextmanager
def _free() -> Iterator[None]:
    """Keep in memory what is to be recorded while it is sent."""
    kept: list[Ended] = []
    mark_sent = Attempt.mark_sent

    class Free(Recorder):
        def __init__(self, _record: Record) -> None:
            pass

        async def record(self, ended: Sequence[Ended], begun: Rows | None) -> Recorded:  # noqa: ARG002
            kept.extend(ended)
            return Recorded(clock.now(), clock.monotonic())

    def write_and_mark_sent(attempt: Attempt) -> None:
        attempt.record(kept, ())
        mark_sent(attempt)

    with patch.object(sending, "Recorder", Free), patch.object(Attempt, "mark_sent", write_and_mark_sent):
        yield


if __name__ == "__main__":
    main()

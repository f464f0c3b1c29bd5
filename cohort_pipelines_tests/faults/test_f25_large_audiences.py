"""F25: ten million members to a file, a million changes by message: memory stays flat, far below a gibibyte.

One process exports half of an audience, all of it, and all of it once more after a fifth has left and as many others
have joined. It is killed at a gibibyte, and what Python and Arrow hold at most is still from the half on: a list of the
ids would be an object and some 80 bytes for each user more, of those who left a fifth of that.
`COHORT_PIPELINES_TEST_MEMBERS=10000000 COHORT_PIPELINES_TEST_CHANGES=1000000` are the whole sizes.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cohort_pipelines.core.engine import MEMORY_LIMIT
from cohort_pipelines.core.errors import HistoryNotWritable, MemoryLimitReached
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Addresses, Settings
from cohort_pipelines.history import History
from cohort_pipelines.identity.mapping import IdRule
from cohort_pipelines.mixpanel import snapshot_schema
from cohort_pipelines.snapshots import deriving
from cohort_pipelines_tests.delivery.world import SYNC, World
from cohort_pipelines_tests.faults.checker import Checker, ids_in
from cohort_pipelines_tests.faults.heavy_export import peak
from cohort_pipelines_tests.faults.projects import FILES, MESSAGES, MIXPANEL, adding, sync

MEMBERS = int(os.environ.get("COHORT_PIPELINES_TEST_MEMBERS", "320000"))
CHANGES = int(os.environ.get("COHORT_PIPELINES_TEST_CHANGES", "320000"))
BY_FILE, BY_MESSAGE = "by_file", "by_message"
PARTNERS = {BY_FILE: FILES, BY_MESSAGE: MESSAGES}

GIBIBYTE = 1024.0
OBJECTS, ARROW_BYTES = 0.1, 16.0  # for each user more; two row groups, of 65,536, are the most that is held
UNTIL_IT_SPILLS = 256.0  # megabytes that DuckDB may take, as it does from some 1,400,000 users on, and nobody else


@dataclass(frozen=True)
class Exported:
    """How many users an export had, and the most that its process has taken so far; ``peak`` in megabytes."""

    users: int
    seconds: float
    peak: float
    arrow: int
    objects: int


@dataclass(frozen=True)
class Exporting:
    """A process that exports audiences of several sizes, each from a Mixpanel project of its own, to one partner."""

    wire: str
    folder: Path
    standins: Mapping[int, Addresses]
    process: subprocess.Popen[str]
    numbers: Iterator[int] = field(default_factory=count)

    def export(self, size: int) -> Exported:
        """Export the audience of that size, and see that all of it arrived."""
        assert self.process.stdin
        assert self.process.stdout
        name = f"of_{size}"
        print(f"{name} number-{next(self.numbers)}", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer, f"{size} {self.wire}: killed for more than a gibibyte, or broken"
        told = json.loads(answer)
        assert told.pop("error") == ""
        payload = max(self._judge.files(name, "partner_payload"), key=lambda file: file.stat().st_mtime_ns)
        if self.wire == BY_FILE:
            assert holds_exactly(self.folder / "imports" / name / "current.csv", payload)
        else:
            assert self._judge.group(name) == ids_in(payload)
        return Exported(pq.read_metadata(payload).num_rows, **told)

    def churn(self, size: int) -> int:
        """Let a fifth of an audience leave, and as many others join; return how many left."""
        url = f"{self.standins[size].mixpanel_url}/standin/churn"
        answer = httpx.post(url, json={"fraction": 0.2}, timeout=600).raise_for_status()
        return int(answer.json()["left"])

    @property
    def _judge(self) -> Checker:
        return Checker(self.folder / "data", self.standins[min(self.standins)])


@contextmanager
def exporting(folder: Path, wire: str, sizes: Sequence[int]) -> Iterator[Exporting]:
    """Start a process that exports audiences of these sizes, and is killed once it has taken a gibibyte."""
    places = {"COHORT_PIPELINES_DATA": folder / "data", "IMPORTS": folder / "imports", "DAGSTER_HOME": folder}
    declare(folder, wire, sizes)
    with ExitStack() as served:
        standins = {size: served.enter_context(running(Settings(members=size))) for size in sizes}
        environment = {**os.environ, **standins[min(sizes)].environment()}
        environment |= {name: str(place) for name, place in places.items()}
        environment |= {f"MIXPANEL_{size}": each.mixpanel_url for size, each in standins.items()}
        command = [sys.executable, "-m", "cohort_pipelines_tests.faults.heavy_export", str(folder)]
        with capped(command, environment) as process:
            yield Exporting(wire, folder, standins, process)


def declare(folder: Path, wire: str, sizes: Sequence[int]) -> None:
    """Write a project with a one-time sync for each size."""
    declared = {}
    for size in sizes:
        source, partner, name = f"mixpanel_{size}", f"partner_{size}", f"of_{size}"
        declared[source] = MIXPANEL.replace("MIXPANEL_API_URL", f"MIXPANEL_{size}")
        declared[partner] = adding(PARTNERS[wire], f"account: {name}")
        declared[name] = sync(partner, name, "one_time").replace("source: mixpanel", f"source: {source}")
    for name, text in declared.items():
        (folder / "heavy" / "defs" / name).mkdir(parents=True)
        (folder / "heavy" / "defs" / name / "defs.yaml").write_text(text, encoding="utf-8")
    (folder / "heavy" / "__init__.py").touch()
    (folder / "heavy" / "defs" / "__init__.py").touch()
    (folder / "pyproject.toml").write_text('[tool.dg.project]\nroot_module = "heavy"\n', encoding="utf-8")
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n", encoding="utf-8")


@contextmanager
def capped(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run a process that is killed once it has taken a gibibyte, and in any case at the end.

    A limit of the system's would count what DuckDB and Arrow reserve as well: of one that holds 0.4 GB, 2.6 GB are
    addresses (RLIMIT_AS) and 1.4 GB data (RLIMIT_DATA).
    """
    over = threading.Event()
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:

        def watch() -> None:
            while not over.wait(0.05):
                if peak(process.pid) > GIBIBYTE:
                    process.kill()
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            yield process
        finally:
            over.set()
            watcher.join()
            process.kill()


def holds_exactly(current: Path, payload: Path) -> bool:
    """Say whether the file that lies ready has the ids of the payload in their order, holding few of them at once."""
    with current.open(encoding="utf-8", newline="") as file, pq.ParquetFile(payload, pre_buffer=False) as sealed:
        rows = csv.reader(file)
        assert next(rows) == ["user_id"]
        wanted = (user for batch in sealed.iter_batches() for user in batch.column(0).to_pylist())
        return all(row == [user] for row, user in zip(rows, wanted, strict=True))


def test_f25_who_takes_more_than_a_gibibyte_is_killed() -> None:
    takes = "import time; held = b'x' * (1100 << 20); time.sleep(60)"
    with capped([sys.executable, "-c", takes]) as process:
        assert process.wait(timeout=50) == -signal.SIGKILL


@pytest.mark.parametrize(("wire", "size"), [(BY_FILE, MEMBERS), (BY_MESSAGE, CHANGES)])
def test_f25_memory_does_not_grow_with_the_audience(tmp_path: Path, wire: str, size: int) -> None:
    half = size // 2
    with exporting(tmp_path, wire, (half, size)) as process:
        first, whole = process.export(half), process.export(size)
        left = process.churn(size)
        changed = process.export(size)

    print(wire, first, whole, changed, sep="\n")  # noqa: T201  the numbers, for whoever runs it by hand
    assert whole.users > size * 0.8
    assert left > size * 0.15
    more = whole.users - first.users
    assert changed.objects - first.objects < more * OBJECTS
    assert changed.arrow - first.arrow < more * ARROW_BYTES
    assert changed.peak - first.peak < UNTIL_IT_SPILLS
    assert changed.peak < GIBIBYTE


def long_ids(size: int, length: int, first: int = 0) -> list[str]:
    """Return ids in no order, of so many characters each."""
    return [f"{number * 2_654_435_761 % 2**32:0{length}}" for number in range(first, first + size)]


def snapshot_of(history: History, ids: list[str]) -> StoredFile:
    columns = [ids, [True] * len(ids), pa.array([0] * len(ids), pa.int32())]
    return history.write(SYNC, Stage.COHORT_SNAPSHOT, "w", pa.table(columns, schema=snapshot_schema(())))


@pytest.mark.parametrize(("size", "length"), [(100_000, 1_000), (300_000, 400), (1_000_000, 200)])
def test_f25_long_ids_are_mapped_planned_sent_and_remembered(tmp_path: Path, size: int, length: int) -> None:
    world = World(tmp_path)
    world.partner.chunk_rows = 1_000
    snapshot = snapshot_of(world.history, long_ids(size, length))
    identified = deriving.filter_identified(world.history, snapshot)

    payload = deriving.build_payload(world.history, snapshot, identified.file, IdRule())
    world.overwrite(long_ids(size, length))
    receipt = world.overwrite(long_ids(size, length, first=size // 100))

    assert payload.users == size
    assert world.partner.members == set(long_ids(size, length, first=size // 100))
    assert (receipt.joiners, receipt.leavers) == (size // 100, size // 100)


def test_f25_work_that_takes_more_memory_than_allowed_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    history = History(tmp_path)
    snapshot = snapshot_of(history, long_ids(100_000, 4_000))
    identified = deriving.filter_identified(history, snapshot)

    with pytest.raises(MemoryLimitReached, match=f"more than {MEMORY_LIMIT} of memory") as refused:
        deriving.build_payload(history, snapshot, identified.file, IdRule())
    assert not isinstance(refused.value, HistoryNotWritable)
    assert history.versions(SYNC, Stage.PARTNER_PAYLOAD, "w") == []

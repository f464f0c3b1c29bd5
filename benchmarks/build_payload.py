"""Work a snapshot out into a payload and excluded, for the id rules of both partners.

The same snapshot is also read and written back, so that what the work costs on top of the files is a ratio within one
run: python -m benchmarks.build_payload --members 100000
"""

import argparse
import tempfile
from collections.abc import Iterator
from itertools import islice

import pyarrow as pa

from benchmarks.measuring import measured
from cohort_pipelines.core.files import Stage, StoredFile
from cohort_pipelines.devtools.standins.population import PARTNER_ID, Population
from cohort_pipelines.history import History
from cohort_pipelines.identity.mapping import IdRule
from cohort_pipelines.mixpanel.pages import snapshot_schema
from cohort_pipelines.snapshots import deriving

RULES = {"Taplytics": IdRule(), "Apptimize": IdRule(source=PARTNER_ID, prefixes=("i_", "a_"))}
PAGE = 1_000


def main() -> None:
    """Measure each size that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, nargs="+", default=[100_000])
    for members in parser.parse_args().members:
        with tempfile.TemporaryDirectory() as folder:
            _measure(History(folder), members)


def _measure(history: History, members: int) -> None:
    snapshot = _file(history, "made", _pages(members))
    print(f"{members:,} members, {snapshot.size / 1e6:,.1f} MB of Parquet")
    with measured() as copy:
        _file(history, "copied", history.batches(snapshot))
    print(f"  copy                     {copy}")
    with measured() as filtering:
        identified = deriving.filter_identified(history, snapshot)
    print(f"  identified users         {filtering}")
    for name, rule in RULES.items():
        with measured() as building:
            payload = deriving.build_payload(history, snapshot, identified.file, rule)
        print(f"  payload for {name:<12} {building}")
        print(
            f"    {payload.users:,} users, {sum(payload.excluded_by_reason.values()):,} excluded; "
            f"{building.seconds / copy.seconds:.1f} copies; {members / building.seconds:,.0f} members a second"
        )


def _file(history: History, window: str, batches: Iterator[pa.RecordBatch]) -> StoredFile:
    with history.writer("benchmark", Stage.COHORT_SNAPSHOT, window, snapshot_schema([PARTNER_ID])) as writer:
        for batch in batches:
            writer.write(batch)
    return writer.stored


def _pages(members: int) -> Iterator[pa.RecordBatch]:
    """Yield the stand-in's members as Mixpanel's pages become batches."""
    population = Population(members)
    numbers, schema = iter(range(members)), snapshot_schema([PARTNER_ID])
    for page in range(-(-members // PAGE)):
        wanted = list(islice(numbers, PAGE))
        profiles = [population.profile(number) for number in wanted]
        ids = [profile.get(PARTNER_ID) for profile in profiles]
        columns = {
            "distinct_id": [population.distinct_id(number) for number in wanted],
            "has_profile": [bool(profile) for profile in profiles],
            "page": [page] * len(wanted),
            PARTNER_ID: [each if each is None else str(each) for each in ids],
        }
        yield pa.RecordBatch.from_pydict(columns, schema=schema)


if __name__ == "__main__":
    main()

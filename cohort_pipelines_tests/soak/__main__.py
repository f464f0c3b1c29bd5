"""Play random sequences of windows and mishaps, and say how many there were and what did not hold.

`python -m cohort_pipelines_tests.soak SEEDS [FIRST]` plays so many, from that seed on, in a process for each core.
"""

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import reduce

from hypothesis import HealthCheck, Phase, given, seed, settings

from cohort_pipelines_tests.soak.bench import bench
from cohort_pipelines_tests.soak.model import Step, Tally, Violation, play, sequences

BATCH = 100
_SHOWN = 3


def run_batch(first: int, count: int) -> Tally:
    """Play ``count`` sequences that grow from the seed ``first``."""
    tally = Tally()
    with bench() as place:

        @seed(first)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(history=sequences)
        def one(history: Sequence[Step]) -> None:
            try:
                play(history, tally, place)
            except Violation as violation:
                tally.violations.append(f"{violation}: {list(history)!r}")

        one()
    return tally


def added(one: Tally, other: Tally) -> Tally:
    """Return both together."""
    return Tally(**{each.name: getattr(one, each.name) + getattr(other, each.name) for each in fields(Tally)})


def main(count: int, first: int) -> int:
    """Play, print, and return 1 where something did not hold."""
    batches = [(first + start, min(BATCH, count - start)) for start in range(0, count, BATCH)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tally = reduce(added, pool.map(run_batch, *zip(*batches, strict=True)), Tally())
    print(  # noqa: T201  it is what the command is for
        f"{tally.sequences:,} sequences, {tally.deliveries:,} deliveries ({tally.green:,} green, {tally.held:,} held, "
        f"{tally.restores:,} restores), {tally.crashes:,} crashes, {len(tally.violations):,} violations"
    )
    for violation in tally.violations[:_SHOWN]:
        print(violation)  # noqa: T201
    return 1 if tally.violations else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))

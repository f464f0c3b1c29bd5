"""Play random sequences of windows and mishaps, and say how many there were and what did not hold.

`python -m cohort_pipelines_tests.soak SEEDS [FIRST]` plays so many, from that seed on, in a process for each core.
"""

import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import fields
from functools import reduce

from cohort_pipelines_tests.soak.bench import Bench, bench
from cohort_pipelines_tests.soak.model import Tally, play
from cohort_pipelines_tests.soak.plain import plain_difference
from cohort_pipelines_tests.soak.promises import Violation
from cohort_pipelines_tests.soak.story import Story, shrunk, story_of

BATCH = 100
BITES_WITHIN = 60
_SHOWN = 3


def run_batch(first: int, count: int) -> Tally:
    """Play ``count`` sequences, one of each seed from ``first`` on."""
    tally = Tally()
    with bench() as place:
        for number in range(first, first + count):
            if broken := broken_by(story_of(number), tally, place):
                tally.violations.append((number, broken))
    return tally


def broken_by(story: Story, tally: Tally, place: Bench) -> str:
    """Return what did not hold in a story; empty where all did."""
    try:
        play(story, tally, place)
    except Violation as violation:
        return str(violation)
    except Exception as error:  # noqa: BLE001  which nobody promises either
        return type(error).__name__
    return ""


def first_broken(first: int = 0, count: int = BITES_WITHIN) -> tuple[int, str]:
    """Return the first of ``count`` seeds whose story does not hold, and what did not; -1: all did."""
    with bench() as place:
        seeds = range(first, first + count)
        return next(
            ((seed, broken) for seed in seeds if (broken := broken_by(story_of(seed), Tally(), place))), (-1, "")
        )


def added(one: Tally, other: Tally) -> Tally:
    """Return both together."""
    return Tally(**{each.name: getattr(one, each.name) + getattr(other, each.name) for each in fields(Tally)})


def shortest(number: int, broken: str) -> str:
    """Return the line that says what did not hold in the story of a seed, and the least that has to happen for it."""
    with bench() as place:
        least = shrunk(story_of(number), lambda each: broken_by(each, Tally(), place) == broken)
    return f"seed {number}: {broken}: {least!r}"


def main(count: int, first: int) -> int:
    """Play, print, and return 1 where something did not hold."""
    batches = [(first + start, min(BATCH, count - start)) for start in range(0, count, BATCH)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        tally = reduce(added, pool.map(run_batch, *zip(*batches, strict=True)), Tally())
    print(  # noqa: T201  it is what the command is for
        f"{tally.sequences:,} sequences, {tally.deliveries:,} deliveries ({tally.green:,} green, {tally.held:,} held, "
        f"{tally.approved:,} approvals, {tally.restores:,} restores, {tally.overtaken:,} overtaken), "
        f"{tally.deleted:,} deleted targets, {tally.crashes:,} crashes, {tally.strangers:,} strangers left alone, "
        f"{len(tally.violations):,} violations"
    )
    for number, broken in tally.violations[:_SHOWN]:
        print(shortest(number, broken))  # noqa: T201
    with plain_difference():
        bitten, broken = first_broken(first)
    print(  # noqa: T201
        f"with the plain difference in place of membership, seed {bitten} is found: {broken}"
        if broken
        else "and not even the plain difference in place of membership was found wrong: these sequences show nothing"
    )
    return 1 if tally.violations or not broken else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 1))

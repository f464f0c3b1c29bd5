"""One-time exports in a process of its own, which says after each how much memory it has taken at most so far.

`python -m cohort_pipelines_tests.faults.heavy_export FOLDER` reads lines of a sync's name and an export's, makes that
export, and answers each with a line of JSON.
"""

import gc
import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from cohort_pipelines.orchestration import launch

_LOOKS_EVERY = 0.02  # a list of so many ids takes longer to be made


def peak(process: int | str = "self") -> float:
    """Return the most megabytes that a program has held, 0 of one that has ended.

    That of getrusage would count those of who started it, too.
    """
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8").splitlines()
    return sum(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


class Objects:
    """Counts the most objects that Python has held at once."""

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()

    @contextmanager
    def counted(self) -> Iterator["Objects"]:
        """Count in a thread until the end."""
        thread = threading.Thread(target=self._look)
        thread.start()
        try:
            yield self
        finally:
            self._over.set()
            thread.join()

    def _look(self) -> None:
        while not self._over.wait(_LOOKS_EVERY):
            self.most = max(self.most, sys.getallocatedblocks())


def main() -> None:
    with launch.opened(Path(sys.argv[1])) as project, Objects().counted() as objects:
        for line in sys.stdin:
            began = time.monotonic()
            gc.collect()
            outcome = launch.export(project, *line.split())
            told = {
                "error": outcome.error,
                "seconds": time.monotonic() - began,
                "peak": peak(),
                "arrow": pa.default_memory_pool().max_memory(),
                "objects": objects.most,
            }
            print(json.dumps(told), flush=True)  # noqa: T201  what the test reads


if __name__ == "__main__":
    main()

"""A one-time export in a process of its own, which says at its end how much memory it took at most.

`python -m cohort_pipelines_tests.faults.heavy_export FOLDER SYNC` prints one line of JSON.
"""

import json
import sys
import time
from pathlib import Path

from cohort_pipelines.orchestration import launch


def peak() -> float:
    """Return the most megabytes that this program has held; getrusage would count those of who started it, too."""
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    [line] = [line for line in status if line.startswith("VmHWM:")]
    return int(line.split()[1]) / 1024


def main() -> None:
    folder, name = Path(sys.argv[1]), sys.argv[2]
    began = time.monotonic()
    with launch.opened(folder) as project:
        outcome = launch.export(project, name, "heavy")
    told = {"error": outcome.error, "peak": peak(), "seconds": time.monotonic() - began}
    print(json.dumps(told))  # noqa: T201  what the test reads


if __name__ == "__main__":
    main()

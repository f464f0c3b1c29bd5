"""What a piece of work costs this process: seconds, CPU seconds and the highest memory meanwhile. Linux only."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(slots=True)
class Cost:
    """The price of a piece of work, once it is done; memory in MB, at its peak and before the work began."""

    seconds: float = 0.0
    cpu: float = 0.0
    peak: float = 0.0
    before: float = 0.0

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.seconds:8.2f} s   {self.cpu:7.2f} s CPU   "
            f"{self.peak:6.0f} MB at its peak ({self.peak - self.before:+.0f})"
        )


@contextmanager
def measured() -> Iterator[Cost]:
    """Measure what is done in the block."""
    cost = Cost(before=_memory("VmRSS"))
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    wall, cpu = time.perf_counter(), _cpu()
    yield cost
    cost.seconds, cost.cpu, cost.peak = time.perf_counter() - wall, _cpu() - cpu, _memory("VmHWM")


def _cpu() -> float:
    times = os.times()
    return times.user + times.system


def _memory(name: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024

"""A partner whose state survives the process that writes to it, and a process that kills itself on the way.

Run as `python -m cohort_pipelines_tests.delivery.journal FOLDER REQUEST before|after WINDOW ID...`.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from cohort_pipelines.core.changes import Operation
from cohort_pipelines.core.windows import Cadence
from cohort_pipelines_tests.delivery.world import MemoryPartner, Sent, World


@dataclass
class JournaledPartner(MemoryPartner):
    """Writes down each request that takes effect, and knows at the start all that took effect before."""

    journal: Path = Path()
    dies_at: int | None = None
    dies_before: bool = False

    def __post_init__(self) -> None:
        if self.journal.exists():
            for line in self.journal.read_text(encoding="utf-8").splitlines():
                operation, *ids = json.loads(line)
                self.requests.append(Sent(Operation(operation), tuple(ids)))
                super().apply(self.requests[-1])

    def apply(self, sent: Sent) -> None:
        dies = self.dies_at is not None and len(self.requests) >= self.dies_at
        if dies and self.dies_before:
            os.kill(os.getpid(), signal.SIGKILL)
        super().apply(sent)
        with self.journal.open("a", encoding="utf-8") as journal:
            journal.write(json.dumps([sent.operation, *sent.ids]) + "\n")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)


def main(folder: Path, request: int, moment: str, window: str, ids: list[str]) -> None:
    """Deliver ``ids`` and die at a request of this delivery."""
    partner = JournaledPartner(journal=folder / "partner.jsonl", dies_before=moment == "before")
    partner.dies_at = len(partner.requests) + request
    world = World(folder, partner)
    world.window = Cadence.QUARTER_HOUR.window_named(window)
    world.overwrite(ids)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4], sys.argv[5:])

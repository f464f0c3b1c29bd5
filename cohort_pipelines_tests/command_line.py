"""What the tests of the command line share."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.orchestration import launch

TAPLYTICS, APPTIMIZE, PROJECT = "beta_users_taplytics", "beta_users_apptimize", "demo_project"
LAUNCH_LIST = """
type: cohort_pipelines.orchestration.CohortSync
attributes:
  source: demo_project
  cohort_id: 1478097
  destination: taplytics
  target: Launch List
  type: one_time
"""


@dataclass(frozen=True)
class Ended:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str

    @property
    def findings(self) -> dict[str, str]:
        """What `check` says, by name."""
        return dict(line.split(": ", 1) for line in self.out.splitlines())


Run = Callable[..., Ended]


def process(*arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> Ended:
    """Run the command line in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "cohort_pipelines", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


def deliver(folder: Path, sync: str, *, back: int = 0) -> launch.Outcome:
    """Run a sync of the project in ``folder`` in the open window, or ``back`` windows ago by a clock set back."""
    with launch.opened(folder) as project:
        cadence = project.sync(sync).cadence
        assert cadence is not None
        with clock.shifted(-back * cadence.value):
            return launch.run_sync(project, sync, cadence.window_at(clock.now()).key)


def footprint(folder: Path) -> dict[str, str]:
    """Return every path below ``folder``, each file with the SHA-256 of its bytes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "a folder"
        for path in sorted(folder.rglob("*"))
    }


@contextmanager
def few_members(standins: InThread, keep: int = 0) -> Iterator[None]:
    """Let all but the first ``keep`` users leave the cohort for a while."""
    flags = standins.standins.mixpanel.project.cohorts[BETA_USERS].flags
    everybody = flags[:]
    for number in [number for number, member in enumerate(flags) if member][keep:]:
        flags[number] = 0
    try:
        yield
    finally:
        flags[:] = everybody

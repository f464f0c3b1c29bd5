"""Projects for the fault tests: the demo's two syncs, or any declarations, against stand-ins of their own."""

import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import dagster as dg
import httpx
import pytest
import tenacity
from dagster._core.definitions.job_base import InMemoryJob
from dagster._core.execution.api import execute_run

from cohort_pipelines.core import clock
from cohort_pipelines.devtools.standins.server import in_thread
from cohort_pipelines.devtools.standins.settings import Settings
from cohort_pipelines.mixpanel import patience
from cohort_pipelines.orchestration import project_definitions
from cohort_pipelines.orchestration.project import component_tree, resolved_syncs
from cohort_pipelines_tests.faults.checker import Checker
from cohort_pipelines_tests.orchestration.demo_project import PACKAGE, Project

MIXPANEL = """
type: cohort_pipelines.orchestration.MixpanelProject
attributes:
  project_id: 2529987
  id_merge: original
  api_url: "{{ env.MIXPANEL_API_URL }}"
  service_account: "{{ env.MIXPANEL_SERVICE_ACCOUNT }}"
  secret: "{{ env.MIXPANEL_SECRET }}"
"""
TAPLYTICS = """
type: cohort_pipelines.orchestration.TaplyticsDestination
attributes: {api_key: "{{ env.TAPLYTICS_API_KEY }}", url: "{{ env.TAPLYTICS_URL }}"}
"""
MESSAGES = """
type: cohort_pipelines.orchestration.ApptimizeDestination
attributes: {region: eu, delivery: http, url: "{{ env.APPTIMIZE_URL }}", token: "{{ env.APPTIMIZE_TOKEN }}"}
"""
FILES = """
type: cohort_pipelines.orchestration.ApptimizeDestination
attributes: {region: eu, delivery: file, folder: "{{ env.IMPORTS }}", prefix: keep}
"""
BETA_USERS = 1_478_097
LAPSED_USERS = 1_478_098


@dataclass(frozen=True)
class Faulty(Project):
    """A project whose services can be told what to do wrong, with the judge of what came of it."""

    judge: Checker

    def held(self, name: str) -> set[str]:
        """Return who is in the target of a sync, at its partner."""
        sync = self.syncs[name]
        return (self.judge.segment if sync.partner_kind == "taplytics" else self.judge.group)(sync.target)

    def all_held(self) -> dict[str, set[str]]:
        """Return the same for each sync by its name."""
        return {name: self.held(name) for name in self.syncs}

    def queue(self, name: str) -> dg.DagsterRun:
        """Ask for a run of the window that is open, which waits."""
        sync = self.syncs[name]
        return self.instance.create_run_for_job(
            self.definitions.resolve_job_def(sync.job), tags={"dagster/partition": self.window(name)}
        )

    def begin(self, run: dg.DagsterRun) -> bool:
        """Let a run that waited go on to its end, and say whether it succeeded."""
        job = InMemoryJob(self.definitions.resolve_job_def(run.job_name))
        return execute_run(job, run, self.instance, raise_on_error=False).success

    def fault(self, service: str, **what: object) -> None:
        """Switch a fault of ``mixpanel``, ``taplytics`` or ``apptimize`` on."""
        self._tell(service, "faults", what)

    def mend(self) -> None:
        """Switch all faults off."""
        for service in ("mixpanel", "taplytics", "apptimize"):
            httpx.delete(self._url(service, "faults")).raise_for_status()

    def behave(self, partner: str, **behaviour: object) -> None:
        """Change how ``taplytics`` or ``apptimize`` behaves."""
        self._tell(partner, "behaviour", behaviour)

    def edit(self, partner: str, target: str, **who: object) -> None:
        """Change a partner's target by hand: ``add`` and ``remove`` ids."""
        self._tell(partner, "edit", {"target": target, **who})

    def churn(self, fraction: float) -> None:
        self._tell("mixpanel", "churn", {"fraction": fraction})

    def profiles(self, changes: Mapping[str, Mapping[str, object]]) -> None:
        """Set properties of profiles in Mixpanel, by distinct_id; one that is not there yet is made."""
        token = self.standins.credentials.project_token
        body = [{"$token": token, "$distinct_id": user, "$set": dict(each)} for user, each in changes.items()]
        httpx.post(self._url("mixpanel", "", "/engage"), json=body).raise_for_status()

    def leave(self, users: Iterable[str]) -> None:
        """Let these leave Beta Users."""
        self.profiles({user: {"plan": "free"} for user in users})

    def _tell(self, service: str, what: str, body: object) -> None:
        httpx.post(self._url(service, what), json=body).raise_for_status()

    def _url(self, service: str, what: str, path: str = "/standin/") -> httpx.URL:
        return httpx.URL(getattr(self.standins, f"{service}_url")).copy_with(path=f"{path}{what}")


@contextmanager
def opened(
    folder: Path, declared: Mapping[str, str] | None = None, settings: Settings | None = None
) -> Iterator[Faulty]:
    """Open a project whose data lies in ``folder``/data; ``declared``: its documents by name, else the demo's."""
    with (
        pytest.MonkeyPatch.context() as patch,
        in_thread(settings or Settings(members=400, page_size=100)) as standins,
        dg.DagsterInstance.ephemeral() as instance,
    ):
        patch.setenv("COHORT_PIPELINES_DATA", str(folder / "data"))
        patch.delenv("COHORT_PIPELINES_LEDGER", raising=False)
        for name, value in standins.environment().items():
            patch.setenv(name, value)
        package = PACKAGE if declared is None else _write(folder, declared)
        syncs = {sync.name: sync for sync in resolved_syncs(component_tree(package))}
        judge = Checker(folder / "data", standins)
        yield Faulty(standins, project_definitions(package), instance, syncs, judge)


def redeclared(project: Faulty, folder: Path, declared: Mapping[str, str]) -> Faulty:
    """Return the project as it is once its declarations are these."""
    package = _write(folder, declared)
    syncs = {sync.name: sync for sync in resolved_syncs(component_tree(package))}
    return replace(project, definitions=project_definitions(package), syncs=syncs)


def sync(destination: str, target: str, kind: str = "dynamic", cohort: int = BETA_USERS, more: str = "") -> str:
    """Return the declaration of a sync; ``more``: further attributes, each behind a comma."""
    since = "" if kind == "one_time" else ", since: 2025-01-01"
    return (
        "type: cohort_pipelines.orchestration.CohortSync\n"
        f"attributes: {{source: mixpanel, cohort_id: {cohort}, destination: {destination}, "
        f'target: "{target}", type: {kind}{since}{more}}}\n'
    )


def adding(destination: str, attributes: str) -> str:
    """Return the declaration of a destination with further attributes."""
    return f"{destination.rstrip().removesuffix('}')}, {attributes}}}\n"


def without_waiting(patch: pytest.MonkeyPatch) -> None:
    """Let what is tried again be tried at once, unless the other side names a time."""
    patch.setattr(tenacity, "wait_exponential_jitter", lambda **_: tenacity.wait_none())
    patch.setattr(patience, "FIRST_WAIT", 0.0)


def to_the_window_before(back: int = 1) -> timedelta:
    """Return by how much to shift the clock so that it is in the two hours that lie ``back`` before these."""
    return timedelta(hours=-2 * back)


def said(result: dg.ExecuteInProcessResult) -> str:
    """Return what was said when the steps of a run failed, empty when none did; an error that is not ours, as such."""
    failures = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
    return "\n".join(
        each.user_failure_data.description or "" if each.user_failure_data else f"NOT OURS: {each.error_display_string}"
        for each in failures
    )


def opening() -> timedelta:
    """Return by how much to shift the clock to the start of the two-hour window that is open."""
    now = clock.now()
    since = timedelta(hours=now.hour % 2, minutes=now.minute, seconds=now.second, microseconds=now.microsecond)
    return timedelta(seconds=1) - since


def _write(folder: Path, declared: Mapping[str, str]) -> Path:
    package = folder / f"faulty_{uuid.uuid4().hex}"  # a module of that name is imported
    (package / "defs").mkdir(parents=True)
    for name, text in declared.items():
        (package / "defs" / name).mkdir()
        (package / "defs" / name / "defs.yaml").write_text(text, encoding="utf-8")
    (package / "__init__.py").touch()
    (package / "defs" / "__init__.py").touch()
    return package

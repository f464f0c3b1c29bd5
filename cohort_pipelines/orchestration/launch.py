"""A project opened from Python, as the command line does: its syncs, its checks, and runs in this process."""

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
from dotenv import load_dotenv

from cohort_pipelines import clock
from cohort_pipelines.errors import ProjectFolderInvalid, SyncUnknown
from cohort_pipelines.orchestration.connected import Finding, check_all
from cohort_pipelines.orchestration.limits import runtime_tags
from cohort_pipelines.orchestration.project import component_tree, project_definitions, resolved_syncs
from cohort_pipelines.orchestration.resolved import ResolvedSync

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class OpenProject:
    """A project's syncs by name, its definitions and the instance that records its runs."""

    syncs: Mapping[str, ResolvedSync]
    definitions: dg.Definitions
    instance: dg.DagsterInstance

    def sync(self, name: str) -> ResolvedSync:
        """Return the sync called ``name``.

        Raises:
            SyncUnknown: the project declares no such sync.
        """
        if name not in self.syncs:
            raise SyncUnknown(name, tuple(self.syncs))
        return self.syncs[name]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``error`` is the first failed step's sentence, ``uploaded`` whether an overwrite came of it."""

    run_id: str
    error: str
    uploaded: bool


@contextmanager
def opened(project: Path) -> Iterator[OpenProject]:
    """Open the project in ``project``: its code, its .env, and its instance (DAGSTER_HOME, else the folder itself).

    Raises:
        ProjectFolderInvalid: there is no project.
    """
    package = _package_of(project)
    load_dotenv(project / ".env")
    home = os.environ.setdefault("DAGSTER_HOME", str(project.resolve()))
    syncs = resolved_syncs(component_tree(package))
    with dg.DagsterInstance.from_config(home) as instance:
        yield OpenProject({sync.name: sync for sync in syncs}, project_definitions(package), instance)


def check(project: Path) -> Iterator[Finding]:
    """Check every connection and sync of the project in ``project``."""
    tree = component_tree(_package_of(project))
    load_dotenv(project / ".env")
    yield from check_all(tree, resolved_syncs(tree))


def run_sync(project: OpenProject, name: str, partition_key: str) -> Outcome:
    """Run the four assets of a sync for one partition in this process, and wait for the end.

    Raises:
        SyncUnknown: the project declares no such sync.
    """
    sync = project.sync(name)
    job = project.definitions.resolve_job_def(sync.job).get_subset(
        asset_selection=set(sync.keys), asset_check_selection=set(sync.inline_checks)
    )
    result = job.execute_in_process(
        instance=project.instance,
        partition_key=partition_key,
        run_config=_QUIET,
        tags=runtime_tags(sync.cadence),
        raise_on_error=False,
    )
    failures = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
    errors = [
        failure.user_failure_data.description if failure.user_failure_data else failure.error_display_string
        for failure in failures
    ]
    uploaded = bool(result.asset_materializations_for_node(sync.key("destination_upload").to_python_identifier()))
    return Outcome(result.run_id, (errors or [""])[0] or "", uploaded)


def export(project: OpenProject, name: str, export_name: str | None) -> Outcome:
    """Make a one-time export in this process, recorded as a partition; by default it is named by the moment.

    Raises:
        SyncUnknown: the project declares no one-time sync of that name.
    """
    partitions = project.sync(name).partitions_def
    if not isinstance(partitions, dg.DynamicPartitionsDefinition):
        one_time = tuple(sync.name for sync in project.syncs.values() if sync.cadence is None)
        raise SyncUnknown(name, one_time, kind="one-time sync")
    key = export_name or f"{clock.now():%Y-%m-%dT%H%M%SZ}"
    project.instance.add_dynamic_partitions(str(partitions.name), [key])
    return run_sync(project, name, key)


def _package_of(project: Path) -> Path:
    """Return the package that the folder's pyproject.toml names; a bare folder with a dagster.yaml runs the demo's."""
    declared = project / "pyproject.toml"
    if declared.is_file():
        settings = tomllib.loads(declared.read_text(encoding="utf-8")).get("tool", {}).get("dg", {}).get("project", {})
        if module := settings.get("root_module"):
            return project / str(module)
    if (project / "dagster.yaml").is_file():
        return Path(__file__).parents[1]
    raise ProjectFolderInvalid(
        project.resolve(), "is no project", "Change into your project, or make one: cohort-pipelines init FOLDER"
    )

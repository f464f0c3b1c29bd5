"""A project opened from Python, as the command line does: its syncs, its checks, and runs in this process."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import dagster as dg

from cohort_pipelines.core import clock, settings
from cohort_pipelines.core.disk import make_private
from cohort_pipelines.core.errors import CohortPipelinesError, ProjectFolderInvalid, SyncUnknown
from cohort_pipelines.core.windows import one_time_window
from cohort_pipelines.ledger import Ledger
from cohort_pipelines.orchestration.connected import Finding, check_all
from cohort_pipelines.orchestration.connections import Destination, MixpanelProject
from cohort_pipelines.orchestration.dead_runs import end_dead_runs, process_tag
from cohort_pipelines.orchestration.declared import Unloadable
from cohort_pipelines.orchestration.instance import instance_at
from cohort_pipelines.orchestration.invalid import ProjectNotLoaded, SyncUnloadable
from cohort_pipelines.orchestration.limits import runtime_tags
from cohort_pipelines.orchestration.project import component_tree, definitions_in, resolved_syncs
from cohort_pipelines.orchestration.resolved import DELIVERED, STAGES, ResolvedSync
from cohort_pipelines.orchestration.rules import siblings_in
from cohort_pipelines.orchestration.sentences import sentence
from cohort_pipelines.reporting import entries

DEMO = Path(__file__).parents[1]
_INTERRUPTED = dg.DagsterExecutionInterruptedError.__name__
_DIFFERING = "The environment has other values for {}: those in .env count, for commands and for runs"
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True, slots=True)
class Declarations:
    """What a project declares: its syncs, Mixpanel projects and destinations, by name; apart, what is wrong of it."""

    syncs: Mapping[str, ResolvedSync]
    unloadable: Mapping[str, Unloadable]
    sources: Mapping[str, MixpanelProject]
    destinations: Mapping[str, Destination]

    def sync(self, name: str) -> ResolvedSync:
        """Return the sync called ``name``.

        Raises:
            SyncUnknown: the project declares no such sync.
            SyncUnloadable: it is declared wrongly.
        """
        if name in self.unloadable:
            raise SyncUnloadable(self.unloadable[name].problem)
        if name not in self.syncs:
            raise SyncUnknown(name, tuple(self.syncs))
        return self.syncs[name]


@dataclass(frozen=True, slots=True)
class OpenProject(Declarations):
    """A project's declarations, its definitions and the instance that records its runs."""

    definitions: dg.Definitions
    instance: dg.DagsterInstance


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended: ``error`` is the first failure, ``upload`` the overwrite's numbers if one came."""

    run_id: str
    partition_key: str
    error: str
    upload: Mapping[str, object]


@contextmanager
def declared(project: Path) -> Iterator[Declarations]:
    """Yield what the project in ``project`` declares, for what needs no run: nothing of its records is opened.

    Until it is closed, the folder is the current one, and its .env is read.

    Raises:
        ProjectFolderInvalid: there is no project.
        ConfigurationError: its declarations do not load.
    """
    with _loaded(project) as (_, declarations, _differing):
        yield declarations


@contextmanager
def opened(project: Path) -> Iterator[OpenProject]:
    """Open the project in ``project``: its code, its .env, and its instance (DAGSTER_HOME, else the folder itself).

    Until it is closed, the folder is the current one: what dagster.yaml and the data root name is relative to it.

    Raises:
        ProjectFolderInvalid: there is no project.
        ConfigurationError: its declarations do not load.
        RunsNotRecorded: its instance's records cannot be used.
    """
    with _loaded(project) as (tree, found, _differing):
        home = os.environ[settings.HOME] = str(settings.dagster_home() or settings.project_folder())
        with _as_one_sentence():
            definitions = definitions_in(tree)
        if (data := Path(settings.data_root())).is_absolute():
            with suppress(OSError):  # Dagster's own attempt says why
                make_private(data)  # before Dagster makes it readable by others
        with instance_at(home) as instance:
            end_dead_runs(instance)
            yield OpenProject(found.syncs, found.unloadable, found.sources, found.destinations, definitions, instance)


@contextmanager
def within(project: Path) -> Iterator[Path]:
    """Change into the project's folder and read its .env, for what needs no declaration; yield its package.

    Raises:
        ProjectFolderInvalid: there is no project.
        EnvironmentFileInvalid: its .env cannot be read.
    """
    package = package_of(project)
    with settings.in_project(project), chdir(project):
        yield package


def sync_called(name: str, package: Path) -> ResolvedSync | None:
    """Return the sync called ``name``, or None where it is not declared, or no declaration can be looked at."""
    try:
        return {sync.name: sync for sync in resolved_syncs(component_tree(package))}.get(name)
    except Exception:  # noqa: BLE001  a module of the user's; who asks can do without
        return None


def require_known(name: str, package: Path, ledger: Ledger | None) -> None:
    """Refuse a name that neither the ledger nor the project knows; declarations are only read where it must be.

    Raises:
        SyncUnknown: there is no such sync, and never was.
        ProjectNotLoaded: what is declared cannot be told.
    """
    if ledger and entries(ledger, name, 1):
        return
    with _as_one_sentence():
        siblings = siblings_in(component_tree(package))
    known = {*siblings.syncs, *siblings.unloadable_syncs}
    if name not in known:
        raise SyncUnknown(name, tuple(sorted(known)))


@contextmanager
def _loaded(project: Path) -> Iterator[tuple[dg.ComponentTree, Declarations, list[str]]]:
    """Change into the project's folder, read its .env, and load what it declares.

    Yields:
        The declarations, and the names of the variables of which the environment had another value than the .env.
    """
    package = package_of(project)
    with settings.in_project(project) as differing, chdir(project):
        with _as_one_sentence():
            tree = component_tree(package)
            syncs, siblings = {sync.name: sync for sync in resolved_syncs(tree)}, siblings_in(tree)
            found = Declarations(syncs, siblings.unloadable_syncs, siblings.sources, siblings.destinations)
        yield tree, found, differing


@contextmanager
def _as_one_sentence() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        ours = isinstance(error, CohortPipelinesError)
        raise error if ours else ProjectNotLoaded(sentence(error)) from error


def sync_names(package: Path) -> list[str]:
    """Return the names of the syncs that a package declares."""
    return [sync.name for sync in resolved_syncs(component_tree(package))]


def check(project: Path) -> Iterator[Finding]:
    """Check every declaration, connection and sync of the project in ``project``.

    Raises:
        ProjectFolderInvalid: there is no project.
        ConfigurationError: its declarations do not load.
    """
    with _loaded(project) as (tree, declarations, differing):
        with _as_one_sentence():
            definitions_in(tree)
        if differing:
            yield Finding(".env", connected=True, text=_DIFFERING.format(", ".join(differing)), warning=True)
        yield from check_all(tree, list(declarations.syncs.values()))


def run_sync(project: OpenProject, name: str, partition_key: str, *, stages: Sequence[str] = STAGES) -> Outcome:
    """Run the assets of a sync, or those of ``stages``, for one partition in this process, and wait for the end.

    Raises:
        SyncUnknown: the project declares no such sync.
        KeyboardInterrupt: the run was interrupted; its delivery has ended between two chunks.
    """
    sync = project.sync(name)
    # of its public ways to run a part of a job, Dagster 1.13 has none that leaves out the checks that ask services
    keys = {sync.key(stage) for stage in stages}
    job = project.definitions.resolve_job_def(sync.job).get_subset(
        asset_selection=keys,
        asset_check_selection={check for check in sync.inline_checks if check.asset_key in keys},
    )
    run_id = str(uuid4())
    result = job.execute_in_process(
        run_id=run_id,
        instance=project.instance,
        partition_key=partition_key,
        run_config=_QUIET,
        tags=runtime_tags(sync.cadence) | process_tag(run_id),
        raise_on_error=False,
    )
    error = _failure(result) or _unfinished(result)
    uploads = result.asset_materializations_for_node(sync.key("destination_upload").to_python_identifier())
    numbers = {name: value.value for upload in uploads for name, value in upload.metadata.items()}
    return Outcome(result.run_id, partition_key, error, numbers)


def _failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the sentence of the first step that failed, or "".

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    failures = [event.step_failure_data for event in result.filter_events(lambda event: event.is_step_failure)]
    if any(failure.error and failure.error.cls_name == _INTERRUPTED for failure in failures):
        raise KeyboardInterrupt  # Dagster made a failed step of it
    errors = [
        failure.user_failure_data.description if failure.user_failure_data else failure.error_display_string
        for failure in failures
    ]
    return (errors or [""])[0] or ""


def _unfinished(result: dg.ExecuteInProcessResult) -> str:
    """Return why a delivery that did not fail has not come to its end, or ""."""
    checks = result.get_asset_check_evaluations()
    return next((check.description or "" for check in checks if check.check_name == DELIVERED and not check.passed), "")


def run_operation(project: OpenProject, job: str, config: Mapping[str, object]) -> str:
    """Run one of the jobs `restore`, `retarget` and `retire` in this process; return why it failed, or "".

    Raises:
        KeyboardInterrupt: the run was interrupted; its delivery has ended between two chunks.
    """
    definition = project.definitions.resolve_job_def(job)
    [operation] = definition.graph.node_dict
    run_id = str(uuid4())
    result = definition.execute_in_process(
        run_id=run_id,
        instance=project.instance,
        run_config={"ops": {operation: {"config": dict(config)}}, **_QUIET},
        tags=runtime_tags(None) | process_tag(run_id),
        raise_on_error=False,
    )
    return _failure(result)


def export(project: OpenProject, name: str, export_name: str | None) -> Outcome:
    """Make a one-time export in this process, recorded as a partition; by default it is named by the moment.

    Raises:
        SyncUnknown: the project declares no one-time sync of that name.
        ExportNameInvalid: a partition cannot have that name.
    """
    partitions = project.sync(name).partitions_def
    if not isinstance(partitions, dg.DynamicPartitionsDefinition):
        one_time = tuple(sync.name for sync in project.syncs.values() if sync.cadence is None)
        raise SyncUnknown(name, one_time, kind="one-time sync")
    key = one_time_window(export_name or f"{clock.now():%Y-%m-%dT%H%M%SZ}").key
    project.instance.add_dynamic_partitions(str(partitions.name), [key])
    return run_sync(project, name, key)


def package_of(project: Path) -> Path:
    """Return the package that the folder's pyproject.toml names; a bare folder with a dagster.yaml runs the demo's.

    Raises:
        ProjectFolderInvalid: there is neither.
    """
    project = project.resolve()
    if module := settings.root_module(project):
        return project / module
    if (project / "dagster.yaml").is_file():
        return DEMO
    raise ProjectFolderInvalid(
        project, "is no project", "Change into your project, or make one: cohort-pipelines init FOLDER"
    )

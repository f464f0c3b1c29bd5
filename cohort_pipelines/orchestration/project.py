"""From a folder of declarations to Definitions: the whole code location."""

import importlib
import sys
import warnings
from pathlib import Path

import dagster as dg

from cohort_pipelines import settings
from cohort_pipelines.delivery.connecting import parse
from cohort_pipelines.orchestration.connections import destinations_in
from cohort_pipelines.orchestration.operations import build_operations
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.resources import Records
from cohort_pipelines.orchestration.schedules import build_jobs_and_schedules
from cohort_pipelines.orchestration.sync import CohortSync


def component_tree(package: Path) -> dg.ComponentTree:
    """Return the tree of declarations in ``package``/defs; the package must be importable or lie beside its project."""
    root = package.resolve().parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return dg.ComponentTree.from_module(importlib.import_module(f"{package.name}.defs"), root)


def resolved_syncs(tree: dg.ComponentTree) -> list[ResolvedSync]:
    """Return every sync of the project, by name."""
    syncs = [sync.resolved(tree) for sync in tree.get_all_components(of_type=CohortSync)]
    return sorted(syncs, key=lambda sync: sync.name)


def project_definitions(package: Path) -> dg.Definitions:
    """Load all that is declared in ``package``/defs, with its jobs, schedules and resources.

    Raises:
        DeclarationInvalid: inside Dagster's own loading error, when declarations contradict each other.
        LedgerUnusable: no ledger can be kept where the environment says; nothing is opened to find out.
    """
    parse(settings.ledger_url())
    tree = component_tree(package)
    syncs = resolved_syncs(tree)
    with warnings.catch_warnings():
        for category in (dg.BetaWarning, dg.PreviewWarning):  # of what Dagster itself calls to load declarations
            warnings.simplefilter("ignore", category)
        declared = tree.build_defs()
    return dg.Definitions.merge(
        declared,
        build_jobs_and_schedules(syncs),
        build_operations(syncs, destinations_in(tree)),
        dg.Definitions(resources={"records": Records()}, executor=dg.in_process_executor),
    )

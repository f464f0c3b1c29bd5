"""From a folder of declarations to Definitions: the whole code location."""

import importlib
import sys
import warnings
from pathlib import Path

import dagster as dg

from cohort_pipelines.core import settings
from cohort_pipelines.ledger import parse
from cohort_pipelines.orchestration.operations import build_operations
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.resources import Records
from cohort_pipelines.orchestration.rules import siblings_in
from cohort_pipelines.orchestration.schedules import build_jobs_and_schedules
from cohort_pipelines.orchestration.tree import DeclarationTree
from cohort_pipelines.orchestration.unloadable import build_failing_runs


def component_tree(package: Path) -> dg.ComponentTree:
    """Return the tree of declarations in ``package``/defs; the package must be importable or lie beside its project."""
    root = package.resolve().parent
    if str(root) not in sys.path:
        sys.path.append(str(root))
    return DeclarationTree(defs_module=importlib.import_module(f"{package.name}.defs"), project_root=root)


def resolved_syncs(tree: dg.ComponentTree) -> list[ResolvedSync]:
    """Return every sync of the project that can be loaded, by name."""
    siblings = siblings_in(tree)
    return [siblings.syncs[name].resolved(siblings) for name in sorted(siblings.syncs)]


def project_definitions(package: Path) -> dg.Definitions:
    """Load all that is declared in ``package``/defs, with its jobs, schedules and resources.

    A declaration that cannot be loaded is an asset that fails with the reason; it stops no other.

    Raises:
        EnvironmentFileInvalid: the project's .env cannot be read.
        LedgerUnusable: no ledger can be kept where the environment says; nothing is opened to find out.
    """
    settings.adopt(package)
    return definitions_in(component_tree(package))


def definitions_in(tree: dg.ComponentTree) -> dg.Definitions:
    """Return what :func:`project_definitions` does, of declarations whose project was entered and whose tree is known.

    Raises:
        LedgerUnusable: no ledger can be kept where the environment says.
    """
    parse(settings.ledger_url())
    siblings, syncs = siblings_in(tree), resolved_syncs(tree)
    with warnings.catch_warnings():
        for category in (dg.BetaWarning, dg.PreviewWarning):  # of what Dagster itself calls to load declarations
            warnings.simplefilter("ignore", category)
        declared = tree.build_defs()
    return dg.Definitions.merge(
        declared,
        build_jobs_and_schedules(syncs),
        build_operations(syncs, siblings.unloadable_syncs, siblings.destinations),
        build_failing_runs(siblings.unloadable),
        dg.Definitions(resources={"records": Records()}, executor=dg.in_process_executor),
    )

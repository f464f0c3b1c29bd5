"""The only rooms that import dagster: what the YAML declares becomes assets, schedules, checks and resources."""

from cohort_pipelines.orchestration import launch, operations, planning
from cohort_pipelines.orchestration.alerts import Alerts
from cohort_pipelines.orchestration.connections import (
    ApptimizeDestination,
    MixpanelProject,
    TaplyticsDestination,
    WebhookDestination,
)
from cohort_pipelines.orchestration.launch import OpenProject
from cohort_pipelines.orchestration.planning import Budget, Plan
from cohort_pipelines.orchestration.project import project_definitions
from cohort_pipelines.orchestration.resolved import ResolvedSync
from cohort_pipelines.orchestration.resources import fitting_ledger, own_ledger
from cohort_pipelines.orchestration.sync import CohortSync

__all__ = [
    "Alerts",
    "ApptimizeDestination",
    "Budget",
    "CohortSync",
    "MixpanelProject",
    "OpenProject",
    "Plan",
    "ResolvedSync",
    "TaplyticsDestination",
    "WebhookDestination",
    "fitting_ledger",
    "launch",
    "operations",
    "own_ledger",
    "planning",
    "project_definitions",
]

"""The only rooms that import dagster: what the YAML declares becomes assets, schedules, checks and resources."""

from cohort_pipelines.orchestration.alerts import Alerts
from cohort_pipelines.orchestration.connections import (
    ApptimizeDestination,
    MixpanelProject,
    TaplyticsDestination,
    WebhookDestination,
)
from cohort_pipelines.orchestration.project import project_definitions
from cohort_pipelines.orchestration.sync import CohortSync

__all__ = [
    "Alerts",
    "ApptimizeDestination",
    "CohortSync",
    "MixpanelProject",
    "TaplyticsDestination",
    "WebhookDestination",
    "project_definitions",
]

"""The source: reading a Mixpanel cohort into a snapshot that is proven complete, and checking the connection."""

from cohort_pipelines.mixpanel.check import CheckedProject, CohortInfo, check_project_and_cohorts
from cohort_pipelines.mixpanel.engage import AnonymousMembers
from cohort_pipelines.mixpanel.pages import snapshot_schema
from cohort_pipelines.mixpanel.project import Project
from cohort_pipelines.mixpanel.snapshot import Place, Snapshot, take_snapshot

__all__ = [
    "AnonymousMembers",
    "CheckedProject",
    "CohortInfo",
    "Place",
    "Project",
    "Snapshot",
    "check_project_and_cohorts",
    "snapshot_schema",
    "take_snapshot",
]

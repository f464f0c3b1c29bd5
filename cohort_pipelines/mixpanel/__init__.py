"""The source: reading a Mixpanel cohort into a snapshot that is proven complete, and checking the connection."""

from cohort_pipelines.mixpanel.check import CheckedProject, CohortInfo, check_project_and_cohorts
from cohort_pipelines.mixpanel.engage import AnonymousMembers
from cohort_pipelines.mixpanel.pages import snapshot_schema
from cohort_pipelines.mixpanel.patience import Place
from cohort_pipelines.mixpanel.project import MAX_PAGE_BYTES, Project
from cohort_pipelines.mixpanel.snapshot import Snapshot, take_snapshot

__all__ = [
    "MAX_PAGE_BYTES",
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

"""The source: reading a Mixpanel cohort into a snapshot that is proven complete, and checking the connection."""

from cohort_pipelines.mixpanel.check import CheckedProject, CohortInfo, check_project_and_cohorts
from cohort_pipelines.mixpanel.client import connect
from cohort_pipelines.mixpanel.engage import AnonymousMembers, CohortReader, cohort_reader
from cohort_pipelines.mixpanel.pages import Page, snapshot_schema
from cohort_pipelines.mixpanel.patience import Patience, Place
from cohort_pipelines.mixpanel.project import MAX_PAGE_BYTES, Project
from cohort_pipelines.mixpanel.proof import Torn, noting, promise_of, require_no_repeats

__all__ = [
    "MAX_PAGE_BYTES",
    "AnonymousMembers",
    "CheckedProject",
    "CohortInfo",
    "CohortReader",
    "Page",
    "Patience",
    "Place",
    "Project",
    "Torn",
    "check_project_and_cohorts",
    "cohort_reader",
    "connect",
    "noting",
    "promise_of",
    "require_no_repeats",
    "snapshot_schema",
]

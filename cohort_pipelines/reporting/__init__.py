"""What people are told: the list of overwrites, the health of a sync, alerts."""

from cohort_pipelines.reporting import notices
from cohort_pipelines.reporting.alerting import Health, Judgement, Watched, judge
from cohort_pipelines.reporting.listing import Entry, entries
from cohort_pipelines.reporting.notices import Mailbox, Notice, Security
from cohort_pipelines.reporting.telling import next_untold, note_changes, note_told

__all__ = [
    "Entry",
    "Health",
    "Judgement",
    "Mailbox",
    "Notice",
    "Security",
    "Watched",
    "entries",
    "judge",
    "next_untold",
    "note_changes",
    "note_told",
    "notices",
]

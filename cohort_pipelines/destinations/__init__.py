"""One file for each destination: only its wire protocol."""

from cohort_pipelines.destinations.apptimize import APPTIMIZE_HEADER, apptimize_file, apptimize_http
from cohort_pipelines.destinations.csv_file import CsvFile, Manifest
from cohort_pipelines.destinations.exchange import BackingOff, again_after, checked_header, checked_url, only_while
from cohort_pipelines.destinations.messages import MEMBER_ID_KEY
from cohort_pipelines.destinations.receiver import CohortMessages
from cohort_pipelines.destinations.replacing import MembersMode, ReplacingMessages
from cohort_pipelines.destinations.taplytics import TAPLYTICS_HEADER, TAPLYTICS_URL, Taplytics
from cohort_pipelines.destinations.webhook import webhook
from cohort_pipelines.destinations.wire import (
    Answer,
    Audience,
    ChangeWire,
    FileWire,
    Publication,
    Session,
    sends_everybody,
)

__all__ = [
    "APPTIMIZE_HEADER",
    "MEMBER_ID_KEY",
    "TAPLYTICS_HEADER",
    "TAPLYTICS_URL",
    "Answer",
    "Audience",
    "BackingOff",
    "ChangeWire",
    "CohortMessages",
    "CsvFile",
    "FileWire",
    "Manifest",
    "MembersMode",
    "Publication",
    "ReplacingMessages",
    "Session",
    "Taplytics",
    "again_after",
    "apptimize_file",
    "apptimize_http",
    "checked_header",
    "checked_url",
    "only_while",
    "sends_everybody",
    "webhook",
]

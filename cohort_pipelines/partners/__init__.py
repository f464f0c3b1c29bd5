"""One file for each destination: only its wire protocol."""

from cohort_pipelines.partners.apptimize import APPTIMIZE_HEADER, apptimize_file, apptimize_http
from cohort_pipelines.partners.csv_file import CsvFile, Manifest
from cohort_pipelines.partners.messages import MEMBER_ID_KEY
from cohort_pipelines.partners.receiver import CohortMessages
from cohort_pipelines.partners.replacing import MembersMode, ReplacingMessages
from cohort_pipelines.partners.taplytics import TAPLYTICS_HEADER, TAPLYTICS_URL, Taplytics
from cohort_pipelines.partners.webhook import webhook

__all__ = [
    "APPTIMIZE_HEADER",
    "MEMBER_ID_KEY",
    "TAPLYTICS_HEADER",
    "TAPLYTICS_URL",
    "CohortMessages",
    "CsvFile",
    "Manifest",
    "MembersMode",
    "ReplacingMessages",
    "Taplytics",
    "apptimize_file",
    "apptimize_http",
    "webhook",
]

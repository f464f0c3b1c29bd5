"""What Dagster loads: every connection and sync declared under defs/."""

from pathlib import Path

from cohort_pipelines.orchestration import project_definitions

defs = project_definitions(Path(__file__).parent)

"""The front door: what Dagster loads. This repository's own declarations are the demo's."""

from pathlib import Path

import dagster as dg

from cohort_pipelines.orchestration import project_definitions


@dg.definitions
def defs() -> dg.Definitions:
    """Everything declared in `cohort_pipelines/defs`."""
    return project_definitions(Path(__file__).parent)

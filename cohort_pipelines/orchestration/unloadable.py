"""Wrong declarations in the UI: each is run once, so that its asset is red and the run says why."""

import hashlib
from collections.abc import Iterator, Sequence

import dagster as dg

from cohort_pipelines.orchestration.declared import Unloadable

NAME = "unloadable_declarations"
_EVERY_SECONDS = 60


def build_failing_runs(unloadable: Sequence[Unloadable]) -> dg.Definitions:
    """Return a sensor that runs each of ``unloadable`` once for each reason; nothing where all is well."""
    if not unloadable:
        return dg.Definitions()

    @dg.sensor(
        name=NAME,
        target=dg.AssetSelection.assets(*(each.key for each in unloadable)),
        minimum_interval_seconds=_EVERY_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description=f"Shows what cannot be loaded as failed: {', '.join(sorted(each.name for each in unloadable))}.",
    )
    def failing_runs() -> Iterator[dg.RunRequest]:
        for each in unloadable:
            reason = hashlib.sha256(each.problem.encode()).hexdigest()
            yield dg.RunRequest(run_key=f"{each.key.to_user_string()}/{reason}", asset_selection=[each.key])

    return dg.Definitions(sensors=[failing_runs])

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

import cohort_pipelines
from cohort_pipelines.core import clock, settings
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines.history import History
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.orchestration.connections import Destination
from cohort_pipelines.orchestration.resolved import ResolvedSync

PACKAGE = Path(cohort_pipelines.__file__).parent
TAPLYTICS = "beta_users_taplytics"
APPTIMIZE = "beta_users_apptimize"


@dataclass(frozen=True)
class Project:
    """The demo's own project against stand-ins in this process, with data of its own."""

    standins: InThread
    definitions: dg.Definitions
    instance: dg.DagsterInstance
    syncs: dict[str, ResolvedSync]

    @property
    def ledger(self) -> Ledger:
        return Ledger(settings.ledger_url())

    @property
    def history(self) -> History:
        return History(settings.history_root())

    def window(self, name: str, back: int = 0) -> str:
        cadence = self.syncs[name].cadence
        assert cadence is not None
        return cadence.window_at(clock.now() - back * cadence.value).key

    def run(
        self,
        name: str,
        partition_key: str | None = None,
        stages: tuple[str, ...] = (),
        run_config: Mapping[str, object] | None = None,
    ) -> dg.ExecuteInProcessResult:
        sync = self.syncs[name]
        keys = {sync.key(stage) for stage in stages} or set(sync.keys)
        job = self.definitions.resolve_job_def(sync.job).get_subset(
            asset_selection=keys,
            asset_check_selection={check for check in sync.inline_checks if check.asset_key in keys},
        )
        return job.execute_in_process(
            instance=self.instance,
            partition_key=partition_key or self.window(name),
            run_config=run_config,
            raise_on_error=False,
        )

    def run_ahead(self, name: str) -> dg.ExecuteInProcessResult:
        """Run the next window: its key exists for Dagster once its clock is there, ours is not yet."""
        with dg.partition_loading_context(effective_dt=datetime.now(UTC) + timedelta(hours=2)):
            return self.run(name, self.window(name, back=-1))

    def payload(self, name: str, window: str) -> set[str]:
        stored = self.ledger.payload(self.ledger.snapshot(name, window).seq)
        batches = self.history.batches(stored)
        return {user for batch in batches for user in batch.column("partner_user_id").to_pylist()}

    @property
    def segment(self) -> set[str]:
        return set(self.standins.standins.taplytics.members("Beta Users"))

    @property
    def group(self) -> set[str]:
        groups = self.standins.standins.apptimize.groups
        return set(groups["Mixpanel: Beta Users"].ids) if "Mixpanel: Beta Users" in groups else set()


def labelled(destination: Destination) -> Destination:
    """Return a destination at the same receiver that another sync of the same cohort may deliver to."""
    declared = {field: getattr(destination, field) for field in type(destination).model_fields}
    return type(destination)(**declared | {"account": "by_name", "name": "by_name"})


def failure(result: dg.ExecuteInProcessResult) -> str:
    """Return the sentence of the one step that failed."""
    failures = [
        event.step_failure_data.user_failure_data for event in result.filter_events(lambda e: e.is_step_failure)
    ]
    assert len(failures) == 1
    assert failures[0] is not None
    return failures[0].description or ""

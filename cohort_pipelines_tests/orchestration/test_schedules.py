import subprocess
import sys
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
import yaml
from fsspec.implementations.local import LocalFileSystem

from cohort_pipelines.core import clock, progress, settings
from cohort_pipelines.core.process_names import name_of
from cohort_pipelines.ledger import pauses
from cohort_pipelines.ledger.ledger import Ledger
from cohort_pipelines.orchestration.assets import build_assets
from cohort_pipelines.orchestration.dead_runs import SYNCS_TAG
from cohort_pipelines.orchestration.resolved import STAGES, ResolvedSync
from cohort_pipelines.orchestration.resources import Records
from cohort_pipelines.orchestration.schedules import build_jobs_and_schedules
from cohort_pipelines.recovery import pairing
from cohort_pipelines_tests.faults.disks import denied
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, PACKAGE, TAPLYTICS, Project, failure, labelled
from cohort_pipelines_tests.orchestration.test_dead_runs import run_of_a_killed_process

DAGSTER_YAML = PACKAGE / "devtools" / "templates" / "project" / "dagster.yaml"
NOON = datetime(2026, 11, 10, 12, 0, tzinfo=UTC)
JOBS = {TAPLYTICS: "dynamic_syncs", APPTIMIZE: "recurring_syncs"}

each_sync = pytest.mark.parametrize("name", [TAPLYTICS, APPTIMIZE])


def tick(definitions: dg.Definitions, job: str, at: datetime) -> tuple[list[dg.RunRequest], str]:
    """Return the run requests of the tick at ``at``, with the clock set to it, and why there is none."""
    with clock.shifted(at - clock.now()):
        return evaluate(definitions, job, at)


def evaluate(definitions: dg.Definitions, job: str, at: datetime) -> tuple[list[dg.RunRequest], str]:
    """Return the same without touching the clock, as the UI does for a tick that it only tries out."""
    repository = definitions.get_repository_def()
    with dg.build_schedule_context(
        scheduled_execution_time=at, repository_def=repository, resources={"records": Records()}
    ) as context:
        data = definitions.resolve_schedule_def(job).evaluate_tick(context)
    return list(data.run_requests or []), data.skip_message or ""


def twins(project: Project) -> tuple[dg.Definitions, ResolvedSync, ResolvedSync]:
    """Return definitions of two syncs in one cadence, of which the second begins eleven days later."""
    first = replace(project.syncs[APPTIMIZE], name="first")
    second = replace(first, name="second", target="Mixpanel: Second", destination="by_name", since=date(2026, 11, 11))
    assets = [asset for sync in (first, second) for asset in build_assets(sync)]
    known = project.definitions.resources or {}
    resources = dg.Definitions(assets=assets, resources={**known, "by_name": labelled(known[first.destination])})
    return dg.Definitions.merge(resources, build_jobs_and_schedules([first, second])), first, second


@each_sync
def test_a_tick_asks_for_one_run_of_the_window_that_opens(project: Project, name: str) -> None:
    [run], _ = tick(project.definitions, JOBS[name], NOON)

    sync = project.syncs[name]
    assert run.partition_key == "2026-11-10T1200Z"
    assert run.asset_selection == sync.keys
    assert run.tags[SYNCS_TAG] == name
    assert run.tags["dagster/partition"] == "2026-11-10T1200Z"
    assert run.tags["dagster/max_runtime"] == {TAPLYTICS: "7185", APPTIMIZE: "885"}[name]
    assert [(row.key, row.state) for row in project.ledger.windows(name)] == [("2026-11-10T1200Z", "open")]


@each_sync
def test_a_run_is_deferred_its_inline_checks_and_leaves_out_those_that_cost_a_query(
    project: Project, name: str
) -> None:
    [run], _ = tick(project.definitions, JOBS[name], NOON)

    inline = set(project.syncs[name].inline_checks)
    assert set(run.asset_check_keys or []) == inline
    gates = {"min_users", "max_shrink", "min_identified_share", "min_mapped_share"}
    assert {check.name for check in inline} == {"counts_add_up", "no_duplicates", "delivered"} | gates
    job = project.definitions.resolve_job_def(JOBS[name])
    assert job.asset_layer.asset_graph.asset_check_keys == inline  # `connected` and `fresh` are not in it


def test_a_tick_between_two_windows_belongs_to_the_one_that_is_open(project: Project) -> None:
    [run], _ = tick(project.definitions, JOBS[TAPLYTICS], NOON + timedelta(minutes=119))

    assert run.partition_key == "2026-11-10T1200Z"


def test_due_syncs_share_a_run_and_one_that_has_not_begun_is_left_out(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions, first, second = twins(project)
    monkeypatch.setattr(Ledger, "expected_seconds", lambda *_: 30.0)  # a sync of unknown length runs alone

    [run], _ = tick(definitions, "recurring_syncs", NOON)
    assert run.asset_selection == first.keys
    assert project.ledger.windows("second") == []

    [run], _ = tick(definitions, "recurring_syncs", NOON + timedelta(hours=12))
    assert run.asset_selection == first.keys + second.keys
    assert run.asset_check_keys == first.inline_checks + second.inline_checks
    assert run.tags[SYNCS_TAG] == "first,second"


@each_sync
def test_a_window_before_the_first_one_is_not_due(project: Project, name: str) -> None:
    runs, reason = tick(project.definitions, JOBS[name], datetime(2026, 10, 31, 22, 0, tzinfo=UTC))

    assert runs == []
    assert reason == f"{name} begins with the first window of 2026-11-01, 2026-10-31T2200Z is before that."
    assert project.ledger.windows(name) == []


@pytest.mark.slow
@each_sync
def test_a_sync_whose_delivery_goes_on_is_left_out(project: Project, name: str) -> None:
    ticks: list[tuple[list[dg.RunRequest], str]] = []

    def tick_once(_sync: str, stage: str, _done: int, _total: int) -> None:
        if stage == "destination_upload" and not ticks:
            ticks.append(evaluate(project.definitions, JOBS[name], later))

    cadence = project.syncs[name].cadence
    assert cadence is not None
    delivered = cadence.window_named(project.window(name))
    assert delivered.closes is not None
    later = delivered.closes
    assert project.run(name, stages=STAGES[:3]).success
    with clock.shifted(later - clock.now()), progress.listening(tick_once):
        assert project.run(name, delivered.key, stages=STAGES[3:]).success

    key = cadence.window_at(later).key
    reason = "the delivery of an earlier window still goes on"
    assert ticks == [([], f"{name} is left out of {key}: {reason}.")]
    assert [(row.key, row.state, row.reason) for row in project.ledger.windows(name)] == [
        (key, "skipped", reason),
        (delivered.key, "delivered", ""),
    ]

    [run], _ = tick(project.definitions, JOBS[name], later)
    assert run.partition_key == key


def test_a_sync_whose_writer_was_killed_is_run_though_its_lease_goes_on(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        writer = name_of(child.pid)
        monkeypatch.setattr(Ledger, "writer", lambda _ledger, _sync: writer)
        assert tick(project.definitions, JOBS[APPTIMIZE], NOON)[0] == []
        child.kill()

    [run], _ = tick(project.definitions, JOBS[APPTIMIZE], NOON)

    assert run.tags[SYNCS_TAG] == APPTIMIZE


def test_a_paused_sync_is_left_out_and_the_window_says_why(project: Project) -> None:
    definitions, first, second = twins(project)
    pauses.pause(project.ledger, first.name, who="kim", why="holidays")
    later = NOON + timedelta(days=2)

    [run], _ = tick(definitions, JOBS[APPTIMIZE], later)

    assert run.tags[SYNCS_TAG] == second.name
    [window] = project.ledger.windows(first.name)
    assert (window.key, window.state, window.reason) == ("2026-11-12T1200Z", "skipped", "paused: holidays")

    pauses.pause(project.ledger, second.name, who="kim", why="a new receiver")
    requests, reason = tick(definitions, JOBS[APPTIMIZE], later + timedelta(minutes=15))
    assert requests == []
    assert reason == (
        "first is left out of 2026-11-12T1215Z: paused: holidays. "
        "second is left out of 2026-11-12T1215Z: paused: a new receiver."
    )

    pauses.resume(project.ledger, first.name)
    [run], _ = tick(definitions, JOBS[APPTIMIZE], later + timedelta(minutes=30))
    assert run.tags[SYNCS_TAG] == first.name
    assert [row.state for row in project.ledger.windows(first.name)] == ["open", "skipped", "skipped"]


def siblings(project: Project, sources: dict[str, str]) -> dg.Definitions:
    """Return definitions of syncs in one cadence, each of the Mixpanel project that ``sources`` names for it."""
    known = project.definitions.resources or {}
    first = project.syncs[APPTIMIZE]
    syncs = [
        replace(first, name=name, source=source, target=f"Mixpanel: {name}", destination=f"to_{name}")
        for name, source in sources.items()
    ]
    assets = [asset for sync in syncs for asset in build_assets(sync)]
    resources = {
        **known,
        **dict.fromkeys(sources.values(), known[first.source]),
        **{sync.destination: labelled(known[first.destination]) for sync in syncs},
    }
    return dg.Definitions.merge(dg.Definitions(assets=assets, resources=resources), build_jobs_and_schedules(syncs))


def test_a_run_holds_syncs_of_one_mixpanel_project(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "expected_seconds", lambda *_: 30.0)
    definitions = siblings(project, {"ours": "one", "theirs": "other", "ours_too": "one"})

    runs, _ = tick(definitions, JOBS[APPTIMIZE], NOON)

    assert [run.tags[SYNCS_TAG] for run in runs] == ["ours,ours_too", "theirs"]


def test_new_syncs_start_first_each_in_a_run_of_its_own_and_the_one_that_waits_longest_before_all(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["first", "goes_on", "new", "new_too", "old", "old_too"]
    definitions = siblings(project, dict.fromkeys(names, project.syncs[APPTIMIZE].source))
    turns = {"first": 9, "goes_on": 7, "new": 0, "new_too": 0, "old": 8, "old_too": 1}
    monkeypatch.setattr(Ledger, "last_attempt", lambda _ledger, name: turns[name])
    monkeypatch.setattr(Ledger, "expected_seconds", lambda _ledger, name: 30.0 if name.startswith("old") else None)

    runs, _ = tick(definitions, JOBS[APPTIMIZE], NOON)

    assert [run.tags[SYNCS_TAG] for run in runs] == ["new", "new_too", "goes_on", "first", "old,old_too"]
    [limit] = [
        each["limit"]
        for each in yaml.safe_load(DAGSTER_YAML.read_text())["concurrency"]["runs"]["tag_concurrency_limits"]
        if each["key"] == "cohort_pipelines/unknown_length"
    ]
    assert [run.tags.get("cohort_pipelines/unknown_length") for run in runs] == ["true"] * 4 + [None]
    assert limit < yaml.safe_load(DAGSTER_YAML.read_text())["concurrency"]["runs"]["max_concurrent_runs"]


def test_a_tick_without_the_historys_ledger_notes_nothing_and_its_runs_say_why(project: Project) -> None:
    definitions, *_ = twins(project)
    later = NOON + timedelta(days=2)
    pairing.mark(project.history, "the lost one", 1)

    requests, _ = tick(definitions, JOBS[APPTIMIZE], later)

    assert [run.tags[SYNCS_TAG] for run in requests] == ["first", "second"]  # each is as red as the other
    assert not Path(settings.data_root(), "ledger.sqlite").exists()
    assert "cohort-pipelines ledger rebuild" in failure(project.run(APPTIMIZE))
    assert project.group == set()


def test_a_tick_whose_history_cannot_be_read_launches_runs_that_say_why(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    definitions, *_ = twins(project)
    monkeypatch.setattr(LocalFileSystem, "ls", denied)

    requests, _ = tick(definitions, JOBS[APPTIMIZE], NOON + timedelta(days=2))

    assert [run.tags[SYNCS_TAG] for run in requests] == ["first", "second"]
    assert failure(project.run(APPTIMIZE)).startswith("The history could not be read at ")


def test_looking_at_what_a_tick_would_do_writes_nothing(project: Project) -> None:
    [run], _ = evaluate(project.definitions, JOBS[APPTIMIZE], NOON)

    assert run.partition_key == "2026-11-10T1200Z"
    assert project.ledger.windows(APPTIMIZE) == []


def test_the_windows_between_two_ticks_are_written_down_as_missed(project: Project) -> None:
    tick(project.definitions, JOBS[APPTIMIZE], NOON)

    [run], _ = tick(project.definitions, JOBS[APPTIMIZE], NOON + timedelta(minutes=45))

    assert run.partition_key == "2026-11-10T1245Z"
    assert [(row.key, row.state, row.reason) for row in project.ledger.windows(APPTIMIZE)] == [
        ("2026-11-10T1245Z", "open", ""),
        ("2026-11-10T1230Z", "missed", "no run was started in it"),
        ("2026-11-10T1215Z", "missed", "no run was started in it"),
        ("2026-11-10T1200Z", "missed", "its run never began, or ended before it delivered"),
    ]


@pytest.mark.parametrize(
    ("name", "opened", "next_one"),
    [(TAPLYTICS, "2026-11-10T1200Z", "2026-11-10T1400Z"), (APPTIMIZE, "2026-11-10T1200Z", "2026-11-10T1215Z")],
)
def test_the_window_just_opened_is_a_partition_and_the_next_is_not(
    project: Project, name: str, opened: str, next_one: str
) -> None:
    partitions = project.syncs[name].partitions_def

    with dg.partition_loading_context(effective_dt=NOON):
        assert partitions.get_last_partition_key() == opened
        assert partitions.has_partition_key(opened)
        assert not partitions.has_partition_key(next_one)
    with dg.partition_loading_context(effective_dt=NOON - timedelta(seconds=1)):
        assert not partitions.has_partition_key(opened)


def test_the_schedules_run_by_themselves_and_in_utc(project: Project) -> None:
    schedules = {name: project.definitions.resolve_schedule_def(name) for name in (*JOBS.values(), "freshness")}

    assert {name: schedule.cron_schedule for name, schedule in schedules.items()} == {
        "dynamic_syncs": "0 */2 * * *",
        "recurring_syncs": "*/15 * * * *",
        "freshness": "*/30 * * * *",
    }
    assert {schedule.execution_timezone for schedule in schedules.values()} == {"UTC"}
    assert {schedule.default_status for schedule in schedules.values()} == {dg.DefaultScheduleStatus.RUNNING}


def test_a_tick_ends_the_run_of_a_process_that_was_killed(project: Project) -> None:
    repository = project.definitions.get_repository_def()
    with dg.instance_for_test() as instance, clock.shifted(NOON - clock.now()):
        dead = run_of_a_killed_process(instance)
        with dg.build_schedule_context(
            instance=instance,
            scheduled_execution_time=NOON,
            repository_def=repository,
            resources={"records": Records()},
        ) as context:
            project.definitions.resolve_schedule_def(JOBS[APPTIMIZE]).evaluate_tick(context)

        ended = instance.get_run_by_id(dead.run_id)
        assert ended is not None
        assert ended.status is dg.DagsterRunStatus.FAILURE

"""The jobs `restore`, `retarget` and `retire`, as somebody launches them in the UI."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from cohort_pipelines import history
from cohort_pipelines.core import clock
from cohort_pipelines.ledger import pauses, targets
from cohort_pipelines.ledger.targets import TargetRecord
from cohort_pipelines_tests.faults.projects import (
    MESSAGES,
    MIXPANEL,
    Faulty,
    opened,
    redeclared,
    sync,
    to_the_window_before,
    without_waiting,
)
from cohort_pipelines_tests.faults.projects import TAPLYTICS as FLAGS
from cohort_pipelines_tests.orchestration.demo_project import APPTIMIZE, TAPLYTICS, Project, failure
from cohort_pipelines_tests.orchestration.operating import operate

pytestmark = pytest.mark.slow

NOTHING_SENT = "Nothing was sent; the audience is as it was."
LIST = "launch_list"
CONNECTIONS = {"mixpanel": MIXPANEL, "apptimize": MESSAGES, "taplytics": FLAGS}
DECLARED = {**CONNECTIONS, LIST: sync("taplytics", "Launch List", "one_time").replace(", since: 2026-01-01", "")}


@pytest.fixture
def two_windows(project: Project) -> tuple[str, set[str], set[str]]:
    """Deliver in the window before and in the open one; return the former's key, and what each delivered."""
    with clock.shifted(timedelta(hours=-2)):
        assert project.run(TAPLYTICS).success
        earlier, before = project.window(TAPLYTICS), project.segment
    project.standins.standins.mixpanel.project.churn(0.1)
    assert project.run(TAPLYTICS).success
    assert project.segment != before
    return earlier, before, project.segment


@pytest.fixture
def exported(tmp_path: Path, _opening: None) -> Iterator[Faulty]:
    """Return a project whose one sync has made an export, `first`, into the field Launch List, two hours ago."""
    with opened(tmp_path, DECLARED) as project:
        with clock.shifted(to_the_window_before()):
            assert export(project, "first").success
        yield project


def export(project: Project, name: str) -> dg.ExecuteInProcessResult:
    project.instance.add_dynamic_partitions(f"{LIST}_exports", [name])
    return project.run(LIST, name)


def materialized(project: Project, result: dg.ExecuteInProcessResult) -> dict[str, object]:
    """Return partition and numbers of the one materialization that a run recorded."""
    [entry] = [
        record
        for record in project.instance.all_logs(result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        if record.dagster_event
    ]
    assert entry.dagster_event is not None
    event = entry.dagster_event.step_materialization_data.materialization
    numbers = {name: value.value for name, value in event.metadata.items()}
    return {"asset": event.asset_key.path, "partition": event.partition, **numbers}


def known(project: Project) -> dict[str, TargetRecord]:
    return {each.target.name: each for each in targets.all_targets(project.ledger)}


def test_a_restore_puts_the_audience_back_and_is_seen_in_the_open_window(
    project: Project, two_windows: tuple[str, set[str], set[str]]
) -> None:
    earlier, before, newest = two_windows

    result = operate(project, "restore", sync=TAPLYTICS, window=earlier)

    assert result.success
    assert project.segment == before
    told = materialized(project, result)
    assert (told["asset"], told["partition"]) == ([TAPLYTICS, "destination_upload"], project.window(TAPLYTICS))
    assert (told["restored from"], told["joiners"]) == (earlier, len(before - newest))
    assert history.receipts(TAPLYTICS).iloc[-1]["restored_from"] == earlier
    assert pauses.paused(project.ledger, TAPLYTICS) is None

    again = project.run(TAPLYTICS)  # of a window that was read before the restore
    assert again.success
    assert project.segment == before
    logged = "\n".join(str(entry) for entry in project.instance.all_logs(result.run_id))
    assert [user for user in before | newest if user in logged] == []


def test_a_restore_can_pause_in_the_same_step(project: Project, two_windows: tuple[str, set[str], set[str]]) -> None:
    earlier, before, _ = two_windows
    result = operate(project, "restore", sync=TAPLYTICS, window=earlier, pause=True, who="ada", because="a wrong rule")
    assert result.success

    with clock.shifted(timedelta(hours=-2) + timedelta(hours=2, seconds=1)):
        project.run(TAPLYTICS)

    pause = pauses.paused(project.ledger, TAPLYTICS)
    assert pause is not None
    assert (pause.who, pause.why) == ("ada", "a wrong rule")
    assert project.segment == before


def test_a_restore_is_held_by_the_same_gates(project: Project) -> None:
    members = project.standins.standins.mixpanel.project.cohorts[1_478_097].flags
    everybody = members[:]
    members[40:] = bytes(len(members) - 40)
    with clock.shifted(timedelta(hours=-2)):
        assert project.run(TAPLYTICS).success
        few = project.window(TAPLYTICS)
    members[:] = everybody
    assert project.run(TAPLYTICS).success
    newest = project.segment

    sentence = failure(operate(project, "restore", sync=TAPLYTICS, window=few))

    assert sentence.startswith("Held by the gate max_shrink")
    assert NOTHING_SENT in sentence
    assert project.segment == newest


@pytest.mark.usefixtures("two_windows")
@pytest.mark.parametrize(
    ("job", "config", "says"),
    [
        (
            "restore",
            {"sync": TAPLYTICS, "window": "2026-01-01T0000Z"},
            "has delivered nothing in the window 2026-01-01",
        ),
        ("restore", {"sync": APPTIMIZE, "window": "2026-01-01T0000Z"}, "can be restored: none yet."),
        (
            "restore",
            {"sync": "nobodys", "window": "w"},
            f"no such sync is declared; there are {APPTIMIZE}, {TAPLYTICS}",
        ),
        ("retarget", {"sync": "nobodys"}, f"no such sync is declared; there are {APPTIMIZE}, {TAPLYTICS}"),
        ("retire", {"sync": "nobodys"}, "nobodys: it owns no target."),
        ("retire", {"sync": APPTIMIZE, "forget": True}, f"{APPTIMIZE}: it owns no target."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(project: Project, job: str, config: dict[str, object], says: str) -> None:
    before, requests = project.segment, project.standins.standins.taplytics_faults.requests.total()

    result = operate(project, job, **config)

    sentence = failure(result)
    assert says in sentence
    assert NOTHING_SENT in sentence
    assert "\n" not in sentence
    assert (project.segment, project.standins.standins.taplytics_faults.requests.total()) == (before, requests)
    assert pauses.paused(project.ledger, APPTIMIZE) is None


def test_a_sync_that_is_where_it_is_declared_is_not_moved(
    project: Project, two_windows: tuple[str, set[str], set[str]]
) -> None:
    *_, newest = two_windows
    receipts = len(history.receipts(TAPLYTICS))

    assert operate(project, "retarget", sync=TAPLYTICS).success

    assert project.segment == newest
    assert len(history.receipts(TAPLYTICS)) == receipts


def test_a_declared_sync_that_is_retired_stays_paused_so_that_nothing_fills_it_again(
    project: Project, two_windows: tuple[str, set[str], set[str]]
) -> None:
    *_, newest = two_windows

    assert operate(project, "retire", sync=TAPLYTICS, who="ada").success

    assert project.segment == set()
    assert known(project)["Beta Users"].retired is not None
    pause = pauses.paused(project.ledger, TAPLYTICS)
    assert pause is not None
    assert (pause.who, pause.why) == ("ada", "retired; remove its folder")
    kinds = history.receipts(TAPLYTICS)["kind"].tolist()
    assert sorted(kinds) == ["overwrite", "overwrite", "retire"]

    assert project.run(TAPLYTICS).success  # superseded
    with clock.shifted(timedelta(hours=2)), dg.partition_loading_context(effective_dt=clock.now()):
        assert project.run(TAPLYTICS).success  # paused, so amber
    assert project.segment == set() != newest
    assert "it owns no target" in failure(operate(project, "retire", sync=TAPLYTICS))


def test_a_restore_of_an_export_is_an_export_of_its_own(exported: Faulty) -> None:
    first = exported.judge.segment("Launch List")
    exported.churn(0.2)
    export(exported, "second")
    assert exported.judge.segment("Launch List") != first

    result = operate(exported, "restore", sync=LIST, window="first")

    assert exported.judge.segment("Launch List") == first
    told = materialized(exported, result)
    assert told["restored from"] == "first"
    assert told["partition"] == "first"  # one of its own could be materialized again, and would read Mixpanel
    assert set(exported.instance.get_dynamic_partitions(f"{LIST}_exports")) == {"first", "second"}
    assert history.receipts(LIST).iloc[-1]["window"].startswith("restored-")
    export(exported, "second")  # run again after a later overwrite
    assert exported.judge.segment("Launch List") == first


def test_an_export_that_moves_to_another_partner_leaves_nobody_behind(exported: Faulty, tmp_path: Path) -> None:
    moved = redeclared(exported, tmp_path, DECLARED | {LIST: DECLARED[LIST].replace("taplytics", "apptimize")})
    assert "is now declared for 'Launch List'" in failure(export(moved, "second"))

    assert operate(moved, "retarget", sync=LIST).success

    assert exported.judge.segment("Launch List") == set()
    assert export(moved, "second").success
    assert exported.judge.group("Launch List") == exported.judge.payload(LIST, "second") != set()


def test_a_retirement_of_what_is_not_declared_any_more(exported: Faulty, tmp_path: Path) -> None:
    left = redeclared(exported, tmp_path, CONNECTIONS)

    assert operate(left, "retire", sync=LIST).success

    assert exported.judge.segment("Launch List") == set()
    assert pauses.paused(left.ledger, LIST) is None


@pytest.mark.parametrize("declared", [{"mixpanel": MIXPANEL, "apptimize": MESSAGES}, {}], ids=["others", "nothing"])
def test_a_target_that_nothing_reaches_any_more_is_only_given_up_by_name(
    exported: Faulty, tmp_path: Path, declared: dict[str, str]
) -> None:
    before, asked = exported.judge.segment("Launch List"), exported.judge.asked()
    left = redeclared(exported, tmp_path, declared)

    sentence = failure(operate(left, "retire", sync=LIST))
    assert "no destination that can be loaded reaches 'Launch List' (taplytics at 127.0.0.1" in sentence
    assert "--forget" in sentence
    assert known(left)["Launch List"].retired is None

    for job in ("restore", "retarget"):
        needed = {"window": "first"} if job == "restore" else {}
        assert "no such sync is declared; there are none." in failure(operate(left, job, sync=LIST, **needed))
    assert operate(left, "retire", sync=LIST, forget=True).success
    assert known(left)["Launch List"].retired is not None
    assert (exported.judge.segment("Launch List"), exported.judge.asked()) == (before, asked)


def test_a_destination_that_lacks_a_variable_holds_up_no_other(
    exported: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = redeclared(exported, tmp_path, CONNECTIONS)
    monkeypatch.delenv("TAPLYTICS_API_KEY")
    assert "TAPLYTICS_API_KEY is not set" in failure(operate(left, "retire", sync=LIST))
    monkeypatch.setenv("TAPLYTICS_API_KEY", exported.standins.credentials.taplytics_key)
    monkeypatch.delenv("APPTIMIZE_TOKEN")

    assert operate(left, "retire", sync=LIST).success

    assert exported.judge.segment("Launch List") == set()


def test_a_retirement_that_a_partner_breaks_off_is_asked_for_again(
    exported: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_waiting(monkeypatch)
    left = redeclared(exported, tmp_path, CONNECTIONS)
    exported.fault("taplytics", kind="status", status=503, after=20, times=None)

    assert "The delivery stopped after" in failure(operate(left, "retire", sync=LIST))
    assert known(left)["Launch List"].retired is None
    assert exported.judge.segment("Launch List") != set()

    exported.mend()
    assert "may still be put back" in failure(operate(left, "retire", sync=LIST))
    assert exported.judge.segment("Launch List") == set()
    assert known(left)["Launch List"].retired is None
    with clock.shifted(timedelta(minutes=20)):
        assert operate(left, "retire", sync=LIST).success
    assert known(left)["Launch List"].retired is not None


def test_a_target_that_was_given_up_is_filled_anew_by_whoever_is_declared_for_it(
    exported: Faulty, tmp_path: Path
) -> None:
    assert operate(exported, "retire", sync=LIST).success
    heir = redeclared(exported, tmp_path, CONNECTIONS | {"heir": sync("taplytics", "Launch List")})

    assert heir.run("heir").success

    assert exported.judge.segment("Launch List") == exported.judge.payload("heir", heir.window("heir")) != set()
    assert known(heir)["Launch List"].owner == "heir"

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from urllib.parse import quote

import dagster as dg
import httpx
import pytest

from cohort_pipelines import __version__, history
from cohort_pipelines.devtools.standins.project import BETA_USERS
from cohort_pipelines.devtools.standins.server import InThread
from cohort_pipelines_tests.command_line import APPTIMIZE, LAUNCH_LIST, PROJECT, TAPLYTICS, Ended, Run, process

COMMANDS = (
    *("demo", "dev", "standins", "check", "init", "export"),
    *("plan", "history", "pause", "resume", "approve", "restore", "retarget", "retire", "ledger"),
)

Spoil = Callable[[InThread, pytest.MonkeyPatch], None]


# -- without a project ------------------------------------------------------------------------------------------


def test_help_names_every_command(tmp_path: Path) -> None:
    told = process("--help", folder=tmp_path)

    assert told.code == 0
    assert re.findall(r"^│ ([a-z]+) ", told.out, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(run: Run, command: str) -> None:
    told = run(command, "--help")

    assert told.code == 0
    assert f"Usage: cohort-pipelines {command}" in told.out


def test_the_version_is_the_package_s(run: Run) -> None:
    assert run("--version") == Ended(0, f"{__version__}\n", "")


def test_a_command_that_does_not_exist_is_refused(run: Run) -> None:
    assert run("sink").code == 2


@pytest.mark.usefixtures("demo_folder")
@pytest.mark.parametrize("port", ["0", "65536"])
def test_a_port_that_there_cannot_be_is_refused(run: Run, port: str) -> None:
    refused = run("dev", "--port", port)

    assert refused.code == 2
    assert "Invalid value for '--port'" in refused.err


def test_standins_print_where_they_are_and_end_with_a_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cohort_pipelines", "standins", "--members", "50"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        told = dict(re.split(r"  +| (?=http)", serving.stdout.readline().strip(), maxsplit=1) for _ in range(12))
        try:
            account = told["MIXPANEL_SERVICE_ACCOUNT"], told["MIXPANEL_SECRET"]
            query = {"project_id": told["project_id"]}
            url = f"{told['MIXPANEL_API_URL']}/api/query/cohorts/list"
            (cohort, _) = httpx.post(url, params=query, auth=account).raise_for_status().json()
            key = {"x-access-token": told["TAPLYTICS_API_KEY"]}
            written = httpx.post(f"{told['TAPLYTICS_URL']}/v2/users/", headers=key, json={"user_id": "one"})
            page = httpx.get(told["Apptimize groups"])
        finally:
            serving.send_signal(signal.SIGINT)
            rest, errors = serving.communicate(timeout=20)

    assert (serving.returncode, rest, errors) == (0, "", "")
    assert (str(cohort["id"]), cohort["count"]) == (told["cohort_id"], 50)
    assert (written.status_code, page.status_code) == (200, 200)


def test_init_writes_a_project_whose_check_names_the_variables_that_it_lacks(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, standins: InThread
) -> None:
    for name in standins.environment():
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    written = run("init", "new-syncs")
    checked = run("check", "--project", "new-syncs")

    assert written.code == 0
    assert "new-syncs/new_syncs/defs/main_project/defs.yaml" in written.out.splitlines()
    assert all((tmp_path / name).is_file() for name in written.out.splitlines())
    assert checked.code == 1
    assert "MIXPANEL_SERVICE_ACCOUNT is not set" in checked.findings["main_project"]
    assert "TAPLYTICS_API_KEY is not set" in checked.findings["taplytics"]
    assert "APPTIMIZE_URL is not set" in checked.findings["apptimize"]
    assert len(checked.findings) == 6
    assert run("init", "new-syncs").code == 1


def test_check_says_what_does_not_load_besides_connections_and_syncs(run: Run, tmp_path: Path) -> None:
    assert run("init", str(tmp_path / "alerted-syncs")).code == 0
    alerts = tmp_path / "alerted-syncs" / "alerted_syncs" / "defs" / "on_call"
    alerts.mkdir()
    (alerts / "defs.yaml").write_text("type: cohort_pipelines.orchestration.Alerts\nattributes: {}\n", encoding="utf-8")

    checked = run("check", "--project", str(tmp_path / "alerted-syncs"))

    assert checked.code == 1
    assert "The alerts on_call have no channel" in checked.findings["on_call"]
    assert len(checked.findings) == 7


def test_check_looks_up_what_the_channels_of_alerts_need(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("init", str(tmp_path / "told-syncs")).code == 0
    alerts = tmp_path / "told-syncs" / "told_syncs" / "defs" / "on_call"
    alerts.mkdir()
    declared = "attributes: {slack: '{{ env.SLACK_URL }}', webhook: '{{ env.HOOK_URL }}'}"
    (alerts / "defs.yaml").write_text(f"type: cohort_pipelines.orchestration.Alerts\n{declared}\n", encoding="utf-8")

    def found() -> str:
        return run("check", "--project", str(tmp_path / "told-syncs")).findings["on_call"]

    monkeypatch.setenv("HOOK_URL", "ftp://nope")
    assert "SLACK_URL is not set; the alerts' slack needs it" in found()
    monkeypatch.setenv("SLACK_URL", "http://127.0.0.1:1/s3cr3t")
    assert "webhook" in found()
    assert "must start with https:// or http://" in found()
    monkeypatch.setenv("HOOK_URL", "http://127.0.0.1:1/")
    assert found() == "Usable: on_call/slack, on_call/webhook; nothing was sent"


NOT_THERE = "; it answers 404, so either the group is not there yet or the path of the URL is wrong"

# -- check ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("demo_folder")
def test_check_says_connected_for_everything_at_the_price_of_one_query(run: Run, standins: InThread) -> None:
    checked = run("check")

    assert checked.code == 0
    assert checked.findings == {
        PROJECT: "Connected: Stand-in, as admin",
        "taplytics": "Connected",
        "apptimize": f"Connected{NOT_THERE}",
        APPTIMIZE: f"Connected: Beta Users (300 members) to 'Mixpanel: Beta Users' in apptimize{NOT_THERE}",
        TAPLYTICS: "Connected: Beta Users (300 members) to 'Beta Users' in taplytics",
    }
    assert standins.standins.mixpanel.budget.used() == 1
    assert standins.standins.apptimize.groups == {}
    assert not list(standins.standins.taplytics.members("Beta Users"))


def refuse_the_plan(standins: InThread, _patch: pytest.MonkeyPatch) -> None:
    fault = {"match": "/api/query", "kind": "plan_without_api", "times": None}
    httpx.post(f"{standins.mixpanel_url}/standin/faults", json=fault).raise_for_status()


def set_role(role: str | None) -> Spoil:
    def spoil(standins: InThread, _patch: pytest.MonkeyPatch) -> None:
        httpx.post(f"{standins.mixpanel_url}/standin/role", json={"role": role}).raise_for_status()

    return spoil


def set_variable(name: str, value: str | None) -> Spoil:
    def spoil(_standins: InThread, patch: pytest.MonkeyPatch) -> None:
        patch.delenv(name) if value is None else patch.setenv(name, value)

    return spoil


def delete_the_cohort(standins: InThread, patch: pytest.MonkeyPatch) -> None:
    patch.delitem(standins.standins.mixpanel.project.cohorts, BETA_USERS)


OF_MIXPANEL = {PROJECT, TAPLYTICS, APPTIMIZE}
OF_TAPLYTICS = {"taplytics", TAPLYTICS}
OF_APPTIMIZE = {"apptimize", APPTIMIZE}
CONNECTED = "Connected"
NOBODY = "http://127.0.0.1:9"  # the port of "discard", where nothing listens


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (set_variable("MIXPANEL_SECRET", "wr0ng-s3cret"), (OF_MIXPANEL, "refused the service account")),
        (refuse_the_plan, (OF_MIXPANEL, r"plan does not allow API calls \(402\)")),
        (set_role(None), (OF_MIXPANEL, "sees no Mixpanel project 2529987")),
        (set_role("analyst"), (OF_MIXPANEL, "is 'analyst' in Mixpanel project 2529987; connecting a sync takes")),
        (delete_the_cohort, ({TAPLYTICS, APPTIMIZE}, "has no cohort 1478097 that this service account can see")),
        (set_variable("TAPLYTICS_API_KEY", "wr0ng-k3y"), (OF_TAPLYTICS, r"Taplytics refused the key \(401\)")),
        (set_variable("APPTIMIZE_TOKEN", "wr0ng-t0ken"), (OF_APPTIMIZE, r"Apptimize \(EU\) refused the key \(401\)")),
        (set_variable("TAPLYTICS_URL", NOBODY), (OF_TAPLYTICS, "Taplytics could not be reached")),
        (set_variable("APPTIMIZE_URL", NOBODY), (OF_APPTIMIZE, r"Apptimize \(EU\) could not be reached")),
        (set_variable("MIXPANEL_SECRET", None), (OF_MIXPANEL, "environment variable MIXPANEL_SECRET is not set")),
        (set_variable("TAPLYTICS_API_KEY", None), (OF_TAPLYTICS, "environment variable TAPLYTICS_API_KEY is not set")),
    ],
    ids=[
        "credential refused",
        "plan without API",
        "project unknown",
        "not an admin",
        "cohort unknown",
        "Taplytics key refused",
        "Apptimize token refused",
        "Taplytics unreachable",
        "Apptimize unreachable",
        "Mixpanel variable missing",
        "Taplytics variable missing",
    ],
)
@pytest.mark.usefixtures("demo_folder")
def test_check_says_why_not_for_what_it_concerns_and_connected_for_the_rest(
    run: Run, standins: InThread, monkeypatch: pytest.MonkeyPatch, spoil: Spoil, expected: tuple[set[str], str]
) -> None:
    concerned, says = expected
    spoil(standins, monkeypatch)

    checked = run("check")

    assert checked.code == 1
    not_connected = {name: text for name, text in checked.findings.items() if not text.startswith(CONNECTED)}
    assert set(not_connected) == concerned
    assert all(re.search(says, text) for text in not_connected.values())
    secrets = [value for name, value in asdict(standins.credentials).items() if re.search("secret|key|token", name)]
    assert not [secret for secret in [*secrets, "wr0ng"] if secret in checked.out + checked.err]


@pytest.mark.usefixtures("standins", "demo_folder")
def test_check_reads_the_env_file_of_the_project(
    run: Run, demo_folder: Path, standins: InThread, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TAPLYTICS_API_KEY")
    (demo_folder / ".env").write_text(f"TAPLYTICS_API_KEY={standins.credentials.taplytics_key}\n", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    findings = run("check", "--project", "..").findings

    assert findings["taplytics"] == "Connected"
    assert ".env" not in findings


@pytest.mark.usefixtures("standins")
def test_check_uses_the_key_of_the_env_file_and_says_that_the_environment_has_another(
    run: Run, demo_folder: Path
) -> None:
    (demo_folder / ".env").write_text("TAPLYTICS_API_KEY=wr0ng\n", encoding="utf-8")

    checked = run("check")

    assert checked.code == 1
    assert checked.findings["taplytics"].startswith("Taplytics")
    assert checked.findings[".env"] == (
        "The environment has other values for TAPLYTICS_API_KEY: those in .env count, for commands and for runs"
    )
    assert "wr0ng" not in checked.out + checked.err


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("type: one_time", "type: dynamic\n  since: tomorrow", "declared wrongly: since: input should be a valid date"),
        ("cohort_id:", "cohrt_id:", "declared wrongly: cohort_id: it is missing; cohrt_id: there is no such attribute"),
        ("source: demo_project", "source: nowhere", "names the source 'nowhere', which no folder declares"),
        ("target: Launch List", "target: [", "the file is no YAML: while parsing a flow sequence.*, line 7"),
        ("cohort_id: 1478097", "cohort_id: 1\n  target: A", "The key 'target' stands twice, in lines 6 and 8"),
        ("CohortSync", "CohortSink", "cannot be read: .*CohortSink"),
        ("Launch List", "Gr\udcf6\udcdfe", "cannot be read: the file is not in UTF-8"),
        ("Launch List", '"{{ nowhere.to_be_found }}"', "declared wrongly: .*'nowhere' is undefined|nowhere not found"),
        ("attributes:", "atributes:", "cannot be read: atributes: there is no such attribute"),
    ],
)
def test_a_declaration_that_does_not_load_gets_a_sentence(
    run: Run, export_project: Path, old: str, new: str, says: str
) -> None:
    (file,) = export_project.glob("*/defs/launch_list/defs.yaml")
    file.write_text(LAUNCH_LIST.replace(old, new), encoding="utf-8", errors="surrogateescape")

    checked, refused = (
        run(*command, "--project", str(export_project)) for command in (("check",), ("export", "launch_list"))
    )

    assert (checked.code, refused.code, checked.err, refused.out) == (1, 1, "", "")
    assert re.search(says, checked.findings["launch_list"])
    assert re.search(says, refused.err)
    assert "defs/launch_list/defs.yaml" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert checked.findings["demo_project"].startswith("Connected")


def test_a_folder_that_is_no_project_gets_a_sentence(tmp_path: Path) -> None:
    refused = process("check", folder=tmp_path)

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"ProjectFolderInvalid: {tmp_path}: is no project. Nothing was changed.")


# -- export -----------------------------------------------------------------------------------------------------


def members_of(standins: InThread, segment: str) -> set[str]:
    url = f"{standins.taplytics_url}/standin/state?field={quote(segment)}"
    return {json.loads(line) for line in httpx.get(url).text.splitlines()}


def test_an_export_is_delivered_and_recorded_as_a_partition_of_the_project(
    run: Run, export_project: Path, standins: InThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    done = run("export", "launch_list", "--name", "autumn", "--project", str(export_project))

    assert (done.code, done.err) == (0, "")
    run_id = re.fullmatch(
        r"Delivered to 'Launch List': 276 users, 276 joined, 0 left, 276 requests\.\nPartition autumn, run (.*)\.\n",
        done.out,
    )
    assert run_id is not None
    payload = history.read("launch_list", "partner_payload", "autumn", root=export_project / "data" / "history")
    assert members_of(standins, "Launch List") == set(payload["partner_user_id"])
    assert len(payload) == 276
    assert list((tmp_path / "elsewhere").iterdir()) == []
    monkeypatch.chdir(export_project)
    with dg.DagsterInstance.from_config(str(export_project)) as instance:
        assert list(instance.get_dynamic_partitions("launch_list_exports")) == ["autumn"]
        upload = dg.AssetKey(["launch_list", "destination_upload"])
        assert instance.get_materialized_partitions(upload) == {"autumn"}
        recorded = instance.get_run_by_id(run_id[1])
        assert recorded is not None
        assert recorded.is_success


@pytest.mark.slow
def test_the_same_name_again_delivers_the_stored_snapshot_until_another_export_goes_over_it(
    run: Run, export_project: Path, standins: InThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(export_project)
    assert run("export", "launch_list", "--name", "first").code == 0
    delivered, queries = members_of(standins, "Launch List"), standins.standins.mixpanel.budget.used()
    standins.standins.mixpanel.project.churn(0.05)

    again = run("export", "launch_list", "--name", "first")

    assert again.code == 0
    assert "276 users, 0 joined, 0 left, 0 requests" in again.out
    assert standins.standins.mixpanel.budget.used() == queries
    assert members_of(standins, "Launch List") == delivered

    assert run("export", "launch_list").code == 0
    newest = members_of(standins, "Launch List")
    superseded = run("export", "launch_list", "--name", "first")

    assert newest != delivered
    said = (
        "Superseded: a newer audience has been delivered since. Nothing was sent.\n"
        "To put a delivered export back: cohort-pipelines restore launch_list first\n"
    )
    assert superseded == Ended(1, said, "")
    assert members_of(standins, "Launch List") == newest


def test_an_export_that_fails_says_why_in_a_sentence(
    run: Run, export_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAPLYTICS_API_KEY", "wr0ng-k3y")

    failed = run("export", "launch_list", "--project", str(export_project))

    assert (failed.code, failed.out) == (1, "")
    assert "Taplytics refused the key (401)" in failed.err
    assert "wr0ng" not in failed.err
    assert len(failed.err.splitlines()) == 1


def test_a_name_that_no_partition_can_have_is_refused_before_it_becomes_one(
    run: Run, export_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = run("export", "launch_list", "--name", "x" * 65, "--project", str(export_project))

    assert refused.code == 1
    assert refused.err.startswith("ExportNameInvalid: A one-time export needs a name of 1 to 64 characters")
    monkeypatch.chdir(export_project)
    with dg.DagsterInstance.from_config(str(export_project)) as instance:
        assert list(instance.get_dynamic_partitions("launch_list_exports")) == []


@pytest.mark.usefixtures("standins", "demo_folder")
@pytest.mark.parametrize(
    ("sync", "says"),
    [
        ("nobodys_list", "This project declares no sync 'nobodys_list'. Nothing was run. Declared are: beta_users_a"),
        (TAPLYTICS, f"This project declares no one-time sync '{TAPLYTICS}'. Nothing was run. Declared are: none."),
    ],
)
def test_exporting_what_is_no_one_time_sync_gets_a_sentence(run: Run, sync: str, says: str) -> None:
    refused = run("export", sync)

    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith(f"SyncUnknown: {says}")

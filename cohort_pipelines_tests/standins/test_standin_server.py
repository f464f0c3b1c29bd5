import os
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx
import pytest

from cohort_pipelines.devtools.standins.behaviour import Behaviour
from cohort_pipelines.devtools.standins.server import in_thread, running
from cohort_pipelines.devtools.standins.settings import Addresses, Settings

PARENT = """
import sys
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Settings
with running(Settings(members=10)) as addresses:
    print(addresses.taplytics_url, flush=True)
    sys.stdin.read()
"""


def write(addresses: Addresses, user: str) -> None:
    body = {"user_id": user, "custom_data": {"beta": True}}
    headers = {"x-access-token": addresses.credentials.taplytics_key}
    assert httpx.post(f"{addresses.taplytics_url}/v2/users/", json=body, headers=headers).status_code == 200


def segment(addresses: Addresses) -> str:
    return httpx.get(f"{addresses.taplytics_url}/standin/state", params={"field": "beta"}).text


def test_they_run_in_a_process_of_their_own_and_end_with_the_context() -> None:
    with running(Settings(members=10)) as addresses:
        write(addresses, "u")
        assert segment(addresses) == '"u"\n'
    with pytest.raises(httpx.ConnectError):
        segment(addresses)


def test_they_can_be_started_with_a_behaviour() -> None:
    settings = Settings(members=10, taplytics=Behaviour(asynchronous=True, refuse=("bad",)), date_offset=7200)
    with running(settings) as addresses:
        write(addresses, "u")
        assert segment(addresses) == ""
        told = httpx.get(f"{addresses.taplytics_url}/standin/behaviour").json()
        date = parsedate_to_datetime(httpx.get(f"{addresses.mixpanel_url}/api/app/me").headers["date"])
    assert (told["behaviour"]["refuse"], told["pending"]) == (["bad"], 1)
    assert date > datetime.now(UTC) + timedelta(hours=1)


def test_they_end_with_their_parent() -> None:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url = parent.stdout.readline().strip()
        assert httpx.get(f"{url}/standin/state").status_code == 200
        os.kill(parent.pid, signal.SIGKILL)
        _, complaints = parent.communicate(timeout=20)  # ends when the stand-ins, who share the pipe, have ended
    assert complaints == ""
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/standin/state")


def test_a_port_that_is_taken_is_an_error() -> None:
    with in_thread(Settings(members=10)) as addresses:
        port = int(addresses.taplytics_url.rpartition(":")[2])
        with pytest.raises(OSError, match="in use"), in_thread(Settings(members=10, taplytics_port=port)):
            pass


def test_they_can_go_on_where_they_ended(tmp_path: Path) -> None:
    settings = Settings(members=100, state_file=str(tmp_path / "state"))
    with in_thread(settings) as first:
        write(first, "u")
        first.standins.mixpanel.project.churn(0.1)
        first.standins.apptimize.import_csv("group", "user_id\n1\n")
        cohorts = [bytes(cohort.flags) for cohort in first.standins.mixpanel.project.cohorts.values()]
    with in_thread(settings) as second:
        assert segment(second) == '"u"\n'
        assert [bytes(cohort.flags) for cohort in second.standins.mixpanel.project.cohorts.values()] == cohorts
        assert second.standins.apptimize.groups["group"].ids == {"1"}
        assert second.standins.apptimize.groups["group"].created == first.standins.apptimize.groups["group"].created


def test_the_environment_names_everything_a_sync_needs() -> None:
    addresses = Addresses(mixpanel_url="http://m", taplytics_url="http://t", apptimize_url="http://a/cohorts")
    environment = addresses.environment()
    assert environment["MIXPANEL_API_URL"] == "http://m"
    assert environment["APPTIMIZE_URL"] == "http://a/cohorts"
    assert environment["APPTIMIZE_GROUPS_URL"] == "http://a/groups"
    assert len(set(environment.values())) == len(environment) == 8


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_them_and_their_state_is_kept(tmp_path: Path, signal_number: int) -> None:
    kept = tmp_path / "state"
    script = (
        "from cohort_pipelines.devtools.standins.server import serve; "
        "from cohort_pipelines.devtools.standins.settings import Settings; "
        f"serve(Settings(members=10, state_file={str(kept)!r}))"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline().startswith(b"MIXPANEL_API_URL")
        child.send_signal(signal_number)
        _, complaints = child.communicate(timeout=20)
    assert complaints == b""
    assert kept.exists()

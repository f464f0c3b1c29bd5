import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cohort_pipelines import history
from cohort_pipelines_tests.command_line import APPTIMIZE, TAPLYTICS, Run, process


def test_the_demo_keeps_away_from_data_and_projects_that_are_not_its_own(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine" / "data").mkdir(parents=True)
    (tmp_path / "mine" / "data" / "ledger.sqlite").touch()
    assert run("init", "our-syncs").code == 0

    refused = run("demo", "--folder", "mine")
    assert refused.code == 1
    assert "holds data that no demo wrote. Nothing was changed." in refused.err
    assert [path.name for path in (tmp_path / "mine").rglob("*")] == ["data", "ledger.sqlite"]

    monkeypatch.chdir(tmp_path / "our-syncs")
    refused = run("demo")
    assert refused.code == 1
    assert "our-syncs: is a project of its own. Nothing was changed." in refused.err
    assert not (tmp_path / "our-syncs" / "data").exists()


@pytest.mark.slow
def test_the_demo_ends_exact_with_both_partners_and_can_be_run_again(tmp_path: Path) -> None:
    environment = {"PATH": "/usr/bin:/bin", "COLUMNS": "120", "COHORT_PIPELINES_LEDGER": "postgresql://production/"}

    for members in ("500", "300"):
        done = process("demo", "--members", members, folder=tmp_path, environment=environment)

        assert (done.code, done.err) == (0, "")
        assert re.findall(r"│ members +│ +(\d+) │ +(\d+) │", done.out) == [(members, members)] * 2
        assert done.out.count("yes, exactly") == 4
        assert "NO" not in done.out.split()
        assert f"{int(members) // 100} have joined the cohort" in done.out
        assert "cohort-pipelines dev --standins --project cohort-demo" in done.out
    receipts = history.receipts(TAPLYTICS, root=tmp_path / "cohort-demo" / "data" / "history")
    assert list(receipts["joiners"]) == [276, 3]


@pytest.mark.slow
def test_the_demo_of_one_sync_leaves_the_other_out(tmp_path: Path) -> None:
    done = process("demo", "--members", "200", "--sync", APPTIMIZE, "--folder", "here", folder=tmp_path)

    assert (done.code, done.err) == (0, "")
    assert done.out.count("yes, exactly") == 2
    assert TAPLYTICS not in done.out
    assert [path.name for path in (tmp_path / "here" / "data" / "history").glob("sync=*")] == [f"sync={APPTIMIZE}"]

    refused = process("demo", "--sync", "nobodys", "--folder", "here", folder=tmp_path)
    assert refused.code == 1
    assert refused.err.startswith("SyncUnknown: This project declares no sync 'nobodys'. Nothing was run.")


@pytest.mark.slow
def test_a_ctrl_c_during_the_delivery_ends_the_demo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "cohort_pipelines", "demo", "--members", "20000", "--sync", TAPLYTICS]
    plans = tmp_path / "cohort-demo" / "data" / "history" / f"sync={TAPLYTICS}" / "stage=plan"
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        give_up = time.monotonic() + 60
        while not list(plans.rglob("*.parquet")) and time.monotonic() < give_up:
            time.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        out, _ = demo.communicate(timeout=60)

    assert demo.returncode == 130
    assert "The current window" not in out
    assert "Traceback" not in out

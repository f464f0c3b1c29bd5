import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from cohort_pipelines.core.errors import ProjectFolderInvalid, ServiceEnded
from cohort_pipelines.devtools import processes

HAS_A_CHILD = """
import signal, subprocess, sys
{before}
child = subprocess.Popen(["sleep", "600"])
print(child.pid, flush=True)
{after}
"""
POLITE = HAS_A_CHILD.format(before="signal.signal(signal.SIGINT, signal.SIG_DFL)", after="signal.pause()")
STUBBORN = HAS_A_CHILD.format(before="signal.signal(signal.SIGINT, signal.SIG_IGN)", after="signal.pause()")
QUICK = HAS_A_CHILD.format(before="", after="raise SystemExit(3)")
KILLED = HAS_A_CHILD.format(before="", after="signal.raise_signal(signal.SIGKILL)")
ENDS_WITH_STDIN = "import sys; print('up', flush=True); sys.stdin.read()"
STARTS_A_GUARD = f"""
import os, signal, sys
from pathlib import Path
from cohort_pipelines.devtools import processes
command = [sys.executable, "-c", {POLITE!r}]
guard = processes.start_guarded(command, folder=Path.cwd(), environment=os.environ, keep_open=2)
signal.pause()
"""


def start(*arguments: str) -> tuple[processes.Child, str]:
    child = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout as lines:
        return child, lines.readline().decode().strip()


def start_guarded(code: str) -> tuple[processes.Child, int]:
    guard, grandchild = start("-m", "cohort_pipelines.devtools.processes", sys.executable, "-c", code)
    return guard, os.pidfd_open(int(grandchild))


def has_ended(watched: int) -> bool:
    ended, _, _ = select.select([watched], [], [], 20)
    os.close(watched)
    return bool(ended)


@pytest.mark.slow
def test_a_guard_stops_the_whole_session_when_its_input_ends() -> None:
    guard, grandchild = start_guarded(POLITE)

    processes.stop_all({"guard": guard})

    assert guard.returncode == 0
    assert has_ended(grandchild)


@pytest.mark.slow
def test_a_guard_kills_what_ignores_the_interrupt() -> None:
    guard, grandchild = start_guarded(STUBBORN)

    processes.stop_all({"guard": guard})

    assert guard.returncode == 0
    assert has_ended(grandchild)


@pytest.mark.slow
@pytest.mark.parametrize(("code", "returned"), [(QUICK, 3), (KILLED, 137)])
def test_a_guard_ends_with_its_command_and_leaves_nothing_of_it(code: str, returned: int) -> None:
    guard, grandchild = start_guarded(code)

    assert guard.wait(timeout=20) == returned
    assert has_ended(grandchild)
    guard.communicate()


def test_what_is_guarded_ends_when_the_parent_is_killed() -> None:
    parent, grandchild = start("-c", STARTS_A_GUARD)
    watched = os.pidfd_open(int(grandchild))

    parent.kill()
    parent.communicate()

    assert has_ended(watched)


def test_a_child_that_does_not_listen_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_GRACE_SECONDS", -4.9)
    deaf, _ = start("-c", "import signal; print('up', flush=True); signal.pause()")

    processes.stop_all({"deaf": deaf})

    assert deaf.returncode == -signal.SIGKILL


def test_the_end_of_any_child_is_told_by_its_name() -> None:
    lasting, _ = start("-c", ENDS_WITH_STDIN)
    ended, _ = start("-c", "raise SystemExit(3)")

    with pytest.raises(ServiceEnded, match=r"short-lived ended by itself \(exit code 3\)"):
        processes.watch({"lasting": lasting, "short-lived": ended}, until=lambda: False)

    processes.stop_all({"lasting": lasting, "short-lived": ended})
    assert lasting.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_way_of_asking_to_stop_is_heard_and_the_old_handler_comes_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)

    with processes.told_to_stop() as stopped:
        assert not stopped()
        signal.raise_signal(number)
        assert stopped()

    assert signal.getsignal(number) is before


def test_a_project_is_served_once_and_again_after_that(tmp_path: Path) -> None:
    with processes.only_one(tmp_path), pytest.raises(ProjectFolderInvalid, match="served already"):
        processes.only_one(tmp_path).__enter__()
    with processes.only_one(tmp_path) as lock:
        assert lock > 0


def test_the_lock_outlives_its_holder_in_a_child_that_inherited_it(tmp_path: Path) -> None:
    with processes.only_one(tmp_path) as lock:
        child = subprocess.Popen(
            [sys.executable, "-c", ENDS_WITH_STDIN], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[lock]
        )

    with pytest.raises(ProjectFolderInvalid), processes.only_one(tmp_path):
        pass

    child.communicate()
    with processes.only_one(tmp_path) as lock:
        assert lock > 0


def test_a_port_answers_while_something_listens() -> None:
    with socket.create_server((processes.HOST, 0)) as listening:
        port = listening.getsockname()[1]
        assert processes.answers(port)
    assert not processes.answers(port)

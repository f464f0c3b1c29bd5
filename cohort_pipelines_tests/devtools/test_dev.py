import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import pytest

from cohort_pipelines.core.errors import PortTaken, ProjectFolderInvalid
from cohort_pipelines.devtools.dev import run_dev
from cohort_pipelines.devtools.processes import HOST
from cohort_pipelines.devtools.scaffold import write_instance_files

DEFINITIONS = """
import dagster as dg, os, pathlib, time

@dg.op
def wait() -> None:
    pathlib.Path("worker").write_text(str(os.getpid()))
    time.sleep(600)

@dg.job(executor_def=dg.in_process_executor)
def endless() -> None:
    wait()

defs = dg.Definitions(jobs=[endless])
"""
RUN = "import sys; from pathlib import Path; from cohort_pipelines.devtools.dev import run_dev; "
HANGS = "import sys, time; print('hanging', file=sys.stderr, flush=True); time.sleep(600)"
IGNORE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "  # as a shell's background job does

Start = Callable[..., "Dev"]
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@dataclass(frozen=True)
class Dev:
    process: subprocess.Popen[str]
    project: Path
    port: int

    def wait_until_it_answers(self, answer: str = "Dagster answers") -> None:
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if answer in line:
                return
        pytest.fail("".join(lines))

    def rest_of_output(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.read()

    def processes(self) -> list[int]:
        """Every living process of the project, found by the DAGSTER_HOME that they all inherit."""
        mark = f"DAGSTER_HOME={self.project}".encode()
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if mark in environment_of(folder)]


def environment_of(folder: Path) -> list[bytes]:
    try:
        return (folder / "environ").read_bytes().split(b"\0")  # empty for a process that has ended
    except OSError:
        return []


def wait_until_gone(process: int, seconds: float) -> None:
    try:
        watched = os.pidfd_open(process)
    except ProcessLookupError:
        return
    gone, _, _ = select.select([watched], [], [], seconds)
    os.close(watched)
    assert gone, f"process {process} lives on"


def free_port() -> int:
    with socket.create_server((HOST, 0)) as free:
        port: int = free.getsockname()[1]
        return port


@pytest.fixture
def project(tmp_path: Path) -> Path:
    write_instance_files(tmp_path, "tiny")
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "__init__.py").touch()
    (tmp_path / "tiny" / "definitions.py").write_text(DEFINITIONS, encoding="utf-8")
    return tmp_path


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def started(*, standins: bool = False, before: str = "") -> Dev:
            port = free_port()
            code = f"{before}{RUN}run_dev(Path({str(project)!r}), standins={standins}, port={port})"
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
            stack.callback(process.kill)
            return Dev(process, project, port)

        yield started


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectFolderInvalid, match="cohort-pipelines init"):
        run_dev(tmp_path, standins=False, port=3000)


def test_a_taken_port_is_named_before_anything_starts(project: Path) -> None:
    with socket.create_server((HOST, 0)) as other:
        taken = other.getsockname()[1]
        with pytest.raises(PortTaken, match=str(taken)):
            run_dev(project, standins=False, port=taken)
    assert not (project / "data").exists()


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("standins", [False, True])
def test_an_interrupt_stops_everything(project: Path, start: Start, *, standins: bool) -> None:
    dev = start(standins=standins)
    if standins:
        dev.wait_until_it_answers("For commands in another shell: . ")
        found = f'. {project}/data/standins/environment.sh; exec "$0" -c "$1"'
        asked = "import os, urllib.request as http; print(http.urlopen(os.environ['APPTIMIZE_GROUPS_URL']).status)"
        assert subprocess.run(["sh", "-c", found, sys.executable, asked], check=True, capture_output=True).stdout
    dev.wait_until_it_answers()
    with urlopen(f"http://{HOST}:{dev.port}/server_info", timeout=10) as answer:
        assert b"dagster_webserver_version" in answer.read()

    dev.process.send_signal(signal.SIGINT)

    assert dev.process.wait(timeout=60) == 0
    assert dev.rest_of_output() == "Stopping\n"
    assert dev.processes() == []
    assert (project / "data" / "standins" / "state").exists() == standins
    assert {path.name for path in project.iterdir() if path.is_file()} == {"dagster.yaml", "workspace.yaml"}
    assert not list(project.glob(".tmp_dagster_home*"))
    assert not (project / "storage").exists()


@on_linux
@pytest.mark.slow
def test_a_sigterm_stops_what_a_shell_started_in_the_background(start: Start) -> None:
    dev = start(before=IGNORE_INTERRUPTS)
    dev.wait_until_it_answers()

    dev.process.terminate()

    assert dev.process.wait(timeout=60) == 0
    assert dev.processes() == []


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_stops_while_records_are_still_being_opened(project: Path, start: Start, number: signal.Signals) -> None:
    (project / "hanging.py").write_text(HANGS, encoding="utf-8")
    (project / "dagster.yaml").write_text("storage: {custom: {module: hanging, class: Storage}}", encoding="utf-8")
    dev = start()
    dev.wait_until_it_answers("hanging")
    before = dev.processes()

    dev.process.send_signal(number)

    assert dev.process.wait(timeout=30) == (-number if number == signal.SIGKILL else 0)
    for process in before:
        wait_until_gone(process, 30)
    assert dev.rest_of_output() == ("" if number == signal.SIGKILL else "Stopping\n")


@on_linux
@pytest.mark.slow
def test_it_stops_while_the_standins_are_not_up_yet(project: Path, start: Start) -> None:
    (project / "sitecustomize.py").write_text(
        f"import sys\nif 'cohort_pipelines.devtools.standins' in sys.orig_argv:\n    exec({HANGS!r})\n",
        encoding="utf-8",
    )
    dev = start(standins=True, before=f"import os; os.environ['PYTHONPATH'] = {str(project)!r}; ")
    dev.wait_until_it_answers("hanging")

    dev.process.terminate()

    assert dev.process.wait(timeout=60) == 0
    assert dev.rest_of_output() == "Stopping\n"


@on_linux
@pytest.mark.slow
def test_the_end_of_dagster_ends_everything(start: Start) -> None:
    dev = start(standins=True)
    dev.wait_until_it_answers()
    [dagster] = [process for process in dev.processes() if arguments_of(process)[1:4] == [b"-m", b"dagster", b"dev"]]

    os.kill(dagster, signal.SIGKILL)

    assert dev.process.wait(timeout=60) == 1
    assert "dagster ended by itself (exit code 137)" in dev.rest_of_output()
    assert dev.processes() == []


@on_linux
@pytest.mark.slow
def test_when_it_is_killed_everything_ends_even_a_run(project: Path, start: Start) -> None:
    dev = start()
    dev.wait_until_it_answers()
    start_endless_run(project)
    before = dev.processes()

    dev.process.kill()

    for process in before:
        wait_until_gone(process, 60)
    assert dev.processes() == []


@on_linux
@pytest.mark.slow
def test_a_run_that_went_down_with_the_machine_is_ended_at_the_next_start(project: Path, start: Start) -> None:
    dev = start()
    dev.wait_until_it_answers()
    start_endless_run(project)

    for process in dev.processes():
        os.kill(process, signal.SIGKILL)
    dev.process.kill()
    dev.process.wait()

    again = start()
    again.wait_until_it_answers("Ended 1 runs that a dead process had left.")
    again.process.terminate()
    assert again.process.wait(timeout=60) == 0
    assert again.processes() == []


def start_endless_run(project: Path) -> int:
    command = [sys.executable, "-m", "dagster", "job", "launch", "-w", "workspace.yaml", "-j", "endless"]
    environment = {**os.environ, "DAGSTER_HOME": str(project)}
    subprocess.run(command, cwd=project, env=environment, check=True, capture_output=True)
    worker = project / "worker"
    give_up = time.monotonic() + 60
    while not (worker.exists() and worker.read_text(encoding="utf-8")):
        assert time.monotonic() < give_up, "the run did not start"
        time.sleep(0.1)
    return int(worker.read_text(encoding="utf-8"))


def arguments_of(process: int) -> list[bytes]:
    return Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")

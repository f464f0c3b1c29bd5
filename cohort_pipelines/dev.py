"""Dagster's UI and daemon over a project, and the stand-ins if wanted, as one thing to start and to stop.

Dagster itself is one child, `dagster dev`: its UI and daemon share a code server, so that a reload in the UI reaches
the schedules too. A Ctrl-C, a SIGTERM, a closed terminal, the end of any child and even the killing of this process
end them all, run workers included.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import msgspec
import typer

from cohort_pipelines.errors import PortTaken, ProjectFolderInvalid, ServiceEnded
from cohort_pipelines.processes import HOST, Child, answers, only_one, start_guarded, stop_all, told_to_stop, watch
from cohort_pipelines.standins.settings import Addresses, Settings

_DAGSTER = "dagster"
_STANDINS = "stand-ins"
_DEAD_RUNS = "cohort_pipelines.orchestration.dead_runs"


def run_dev(project: Path, *, standins: bool, port: int) -> None:
    """Serve ``project``, a folder with dagster.yaml and workspace.yaml, at ``port`` until told to stop.

    With ``standins`` the three services listen at the ports after that, and the declarations' variables name them.

    Raises:
        ProjectFolderInvalid: the folder is no project, or is being served already.
        PortTaken: something else listens at one of the ports.
        ServiceEnded: a child ended by itself; the others were stopped.
    """
    project = project.resolve()
    if not (project / "workspace.yaml").is_file() or not (project / "dagster.yaml").is_file():
        raise ProjectFolderInvalid(project, "has no dagster.yaml and workspace.yaml", "Make one: cohort-pipelines init")
    for needed in range(port, port + (4 if standins else 1)):
        if answers(needed):
            raise PortTaken(needed)
    environment = {**os.environ, "DAGSTER_HOME": str(project)}
    with ExitStack() as stack:
        lock = stack.enter_context(only_one(project))
        stopped = stack.enter_context(told_to_stop())
        children: dict[str, Child] = {}
        stack.callback(stop_all, children)  # Dagster first: its runs may be talking to the stand-ins
        if standins:
            children[_STANDINS] = _start_standins(project, port + 1)
            environment |= _addresses(children[_STANDINS]).environment()
        _end_dead_runs(project, environment)
        typer.echo("Starting Dagster")
        children[_DAGSTER] = start_guarded(_dagster(port), folder=project, environment=environment, keep_open=lock)
        watch(children, until=lambda: stopped() or answers(port))
        if not stopped():
            typer.echo(f"Dagster answers at http://{HOST}:{port} (Ctrl-C stops everything)")
        watch(children, until=stopped)
        typer.echo("Stopping")


def _dagster(port: int) -> list[str]:
    quiet = "ignore:Function `dev_command` is superseded:FutureWarning"  # `dg dev` is in a package for developers
    command = [sys.executable, "-W", quiet, "-m", "dagster", "dev", "--workspace", "workspace.yaml"]
    return [*command, "--log-level", "warning", "--host", HOST, "--port", str(port)]


def _start_standins(project: Path, port: int) -> Child:
    """Start the stand-ins as the demo's declarations want them; they need no guard."""
    settings = Settings(
        id_merge="simplified",
        apptimize_region="na",
        mixpanel_port=port,
        taplytics_port=port + 1,
        apptimize_port=port + 2,
        state_file=str(project / "data" / "standins.msgpack"),
    )
    return subprocess.Popen(  # noqa: S603  our own module
        [sys.executable, "-m", "cohort_pipelines.standins", json.dumps(asdict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )


def _addresses(standins: Child) -> Addresses:
    assert standins.stdout is not None  # noqa: S101  a pipe was asked for
    with standins.stdout as lines:
        line = lines.readline()
    if not line:
        raise ServiceEnded(_STANDINS, standins.wait())
    return msgspec.json.decode(line, type=Addresses)


def _end_dead_runs(project: Path, environment: Mapping[str, str]) -> None:
    command = [sys.executable, "-m", _DEAD_RUNS]
    ended = subprocess.run(  # noqa: S603  our own module
        command, cwd=project, env=environment, check=False, start_new_session=True
    )
    if ended.returncode:
        raise ServiceEnded(_DEAD_RUNS, ended.returncode)

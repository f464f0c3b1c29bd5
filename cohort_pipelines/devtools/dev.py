"""Dagster's UI and daemon over a project, and the stand-ins if wanted, as one thing to start and to stop.

Dagster itself is one child, `dagster dev`: its UI and daemon share a code server, so that a reload in the UI reaches
the schedules too. A Ctrl-C, a SIGTERM, a closed terminal, the end of any child and even the killing of this process
end them all, run workers included.
"""

import json
import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from shlex import quote

import msgspec
import typer

from cohort_pipelines.core.errors import PortTaken, ProjectFolderInvalid, ServiceEnded
from cohort_pipelines.core.http import direct_to
from cohort_pipelines.core.settings import HOME, data_root, in_project
from cohort_pipelines.devtools.processes import (
    HOST,
    Child,
    answers,
    only_one,
    start_guarded,
    stop_all,
    told_to_stop,
    watch,
)
from cohort_pipelines.devtools.standins.kept import environment_file, keep, kept_settings, require_unset
from cohort_pipelines.devtools.standins.settings import Addresses

_DAGSTER = "dagster"
_STANDINS = "stand-ins"
_DEAD_RUNS = "cohort_pipelines.orchestration.dead_runs"
_END_DEAD_RUNS = (  # its package imports it, so that it cannot be run by `-m`; an interrupt ends it without a traceback
    f"import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); from {_DEAD_RUNS} import main; main()"
)
_WARNS_OF_ITSELF = (  # Dagster 1.13 of its own calls, and of `dg dev`, which comes in a package for developers
    "ignore:Function `dev_command` is superseded,"
    "ignore:Parameter `execution_type` of function `AssetsDefinition.__init__`"
)


def run_dev(project: Path, *, standins: bool, port: int) -> None:
    """Serve ``project``, a folder with dagster.yaml and workspace.yaml, at ``port`` until told to stop.

    With ``standins`` the three services run too, as the demo left them, and the declarations' variables name them.

    Raises:
        ProjectFolderInvalid: the folder is no project, or is being served already; or its .env leads elsewhere than to
            the stand-ins.
        EnvironmentFileInvalid: its .env cannot be read.
        PortTaken: something else listens at one of the ports.
        ServiceEnded: a child ended by itself; the others were stopped.
    """
    project = project.resolve()
    if not (project / "workspace.yaml").is_file() or not (project / "dagster.yaml").is_file():
        raise ProjectFolderInvalid(project, "has no dagster.yaml and workspace.yaml", "Make one: cohort-pipelines init")
    _require_free(port)
    with ExitStack() as stack:
        stack.enter_context(in_project(project))
        lock = stack.enter_context(only_one(project))
        stopped = stack.enter_context(told_to_stop())
        children: dict[str, Child] = {}
        stack.callback(stop_all, children)  # Dagster first: its runs may be talking to the stand-ins
        _serve(project, children, stopped, standins=standins, port=port, lock=lock)
        typer.echo("Stopping")


def _serve(
    project: Path, children: dict[str, Child], stopped: Callable[[], bool], *, standins: bool, port: int, lock: int
) -> None:
    """Start the children one after another and watch them, until ``stopped``."""
    environment = {"PYTHONWARNINGS": _WARNS_OF_ITSELF, **os.environ, HOME: str(project)}
    if standins:
        addresses = _start_standins(children, stopped)
        if addresses is None:
            return
        variables = addresses.environment() | direct_to(HOST)
        require_unset(project, variables)
        environment |= variables
    start = partial(start_guarded, folder=project, environment=environment, keep_open=lock)
    _end_dead_runs(start, children, stopped)
    if stopped():
        return
    typer.echo("Starting Dagster")
    children[_DAGSTER] = start(_dagster(port))
    watch(children, until=lambda: stopped() or answers(port))
    if not stopped():
        typer.echo("Schedules that are not turned off deliver in their next window.")
        typer.echo(f"Dagster answers at http://{HOST}:{port} (Ctrl-C stops everything)")
    watch(children, until=stopped)


def _dagster(port: int) -> list[str]:
    command = [sys.executable, "-m", "dagster", "dev", "--workspace", "workspace.yaml", "--log-level", "warning"]
    return [*command, "--host", HOST, "--port", str(port)]


def _start_standins(children: dict[str, Child], stopped: Callable[[], bool]) -> Addresses | None:
    """Start the stand-ins, and return their addresses; None where ``stopped`` came first."""
    data = Path(data_root())
    settings = kept_settings(data)
    for port in (settings.mixpanel_port, settings.taplytics_port, settings.apptimize_port):
        _require_free(port)
    standins = children[_STANDINS] = subprocess.Popen(  # noqa: S603  our own module; it ends with its standard input
        [sys.executable, "-m", "cohort_pipelines.devtools.standins", json.dumps(asdict(settings))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert standins.stdout is not None  # noqa: S101  a pipe was asked for
    lines = standins.stdout
    watch({}, until=lambda: stopped() or bool(select.select([lines], [], [], 0)[0]))
    if stopped():
        return None
    with lines:
        line = lines.readline()
    if not line:
        raise ServiceEnded(_STANDINS, standins.wait())
    addresses = msgspec.json.decode(line, type=Addresses)
    keep(data, settings, addresses)
    typer.echo(f"For commands in another shell: . {quote(str(environment_file(data)))}")
    return addresses


def _require_free(port: int) -> None:
    if answers(port):
        raise PortTaken(port)


def _end_dead_runs(
    start: Callable[[list[str]], Child], children: dict[str, Child], stopped: Callable[[], bool]
) -> None:
    others = dict(children)
    ending = children[_DEAD_RUNS] = start([sys.executable, "-c", _END_DEAD_RUNS])
    watch(others, until=lambda: stopped() or ending.poll() is not None)
    if ending.returncode:
        raise ServiceEnded(_DEAD_RUNS, ending.returncode)
    if ending.returncode == 0:
        stop_all({_DEAD_RUNS: children.pop(_DEAD_RUNS)})

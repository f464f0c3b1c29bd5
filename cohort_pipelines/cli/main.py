"""The `cohort-pipelines` command. Each command imports what it needs, so that `--help` answers at once."""

import sys
from pathlib import Path
from shlex import quote
from typing import Annotated, Literal

import typer

from cohort_pipelines import __version__
from cohort_pipelines.cli import looking, operations
from cohort_pipelines.cli.options import SUPERSEDED, PlainTextConsole, ProjectFolder, console, delivered, fail, text
from cohort_pipelines.core.errors import CohortPipelinesError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,
    help="Mixpanel cohorts to Taplytics segments and Apptimize groups, as Dagster assets.",
)

Members = Annotated[int, typer.Option(min=0, max=1_000_000, help="Members of the cohort Beta Users.")]


def main() -> None:
    """Run the command line; an error of ours is one sentence on stderr and exit code 1."""
    try:
        app(prog_name="cohort-pipelines")
    except CohortPipelinesError as error:
        console(stderr=True).print(f"{type(error).__name__}: ", style="bold red", end="")
        console(stderr=True).print(str(error))
        sys.exit(1)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True)] = False,
) -> None:
    """Mixpanel cohorts to Taplytics segments and Apptimize groups, as Dagster assets."""


@app.command()
def demo(
    members: Members = 10_000,
    sync: Annotated[str | None, typer.Option(callback=text, help="Run only this one of the demo's syncs.")] = None,
    folder: Annotated[
        Path | None,
        typer.Option(callback=text, help="Where to run; this folder if it has a dagster.yaml, else ./cohort-demo."),
    ] = None,
) -> None:
    """Run the main job against local stand-ins of Mixpanel, Taplytics and Apptimize, and prove what arrived."""
    from cohort_pipelines.devtools.demo import run_demo

    chosen = folder or (Path() if Path("dagster.yaml").is_file() else Path("cohort-demo"))
    held = run_demo(chosen, members=members, only=sync, console=PlainTextConsole())
    raise typer.Exit(0 if held else 1)


@app.command()
def dev(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="The UI's port.")] = 3000,
    standins: Annotated[bool, typer.Option(help="Start the stand-ins too, as the demo left them.")] = False,
    project: ProjectFolder = Path(),
) -> None:
    """Start the Dagster UI and daemon over a project, and the stand-ins if wanted; Ctrl-C stops them together."""
    from cohort_pipelines.devtools.dev import run_dev

    run_dev(project, standins=standins, port=port)


@app.command()
def standins(
    members: Members = 10_000,
    id_merge: Annotated[
        Literal["original", "simplified"], typer.Option(help="Mixpanel's ID-merge system.")
    ] = "original",
    page_size: Annotated[int, typer.Option(min=1, help="Members on a page of engage.")] = 1000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same cohort.")] = 1,
) -> None:
    """Serve the stand-ins alone, until Ctrl-C, and print their addresses and credentials."""
    from cohort_pipelines.devtools.standins.server import serve
    from cohort_pipelines.devtools.standins.settings import Settings

    serve(Settings(members=members, id_merge=id_merge, page_size=page_size, seed=seed))


@app.command()
def check(project: ProjectFolder = Path()) -> None:
    """Say for each connection and each sync: Connected, or why not. Each Mixpanel project costs one query."""
    from cohort_pipelines.orchestration import launch

    findings = []
    for finding in launch.check(project):
        style = "yellow" if finding.warning else None if finding.connected else "red"
        console().print(f"{finding.name}: {finding.text}", style=style)
        findings.append(finding)
    raise typer.Exit(0 if all(finding.connected for finding in findings) else 1)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="A new or empty folder.")]) -> None:
    """Write a project of your own: connections, one sync of each type, and the files to run it."""
    from cohort_pipelines.devtools.scaffold import init_project

    for path in init_project(folder):
        console().print(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


@app.command()
def export(
    sync: Annotated[str, typer.Argument(callback=text, help="A sync of type one_time.")],
    name: Annotated[
        str | None, typer.Option(callback=text, help="The export's name; the current moment by default.")
    ] = None,
    project: ProjectFolder = Path(),
) -> None:
    """Make a one-time export now, in this process, and record it as a partition of the sync."""
    from cohort_pipelines.orchestration import launch

    with launch.opened(project) as opened:
        outcome = launch.export(opened, sync, name)
    if outcome.error:
        raise fail(outcome.error)
    if not outcome.upload:
        console().print(SUPERSEDED)
        console().print(
            f"To put a delivered export back: cohort-pipelines restore {sync} {quote(outcome.partition_key)}"
        )
    else:
        console().print(delivered(outcome.upload))
        console().print(f"Partition {outcome.partition_key}, run {outcome.run_id}.")
    raise typer.Exit(0 if outcome.upload else 1)


app.add_typer(looking.app)
app.add_typer(operations.app)

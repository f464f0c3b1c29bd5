"""Commands that look and change nothing: what the next delivery would do, and what became of the windows."""

import dataclasses
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cohort_pipelines.cli.options import AsJson, ProjectFolder, Sync, console

if TYPE_CHECKING:
    from cohort_pipelines.orchestration import Plan

app = typer.Typer()


@app.command("plan")
def show_plan(
    sync: Sync,
    sealed: Annotated[
        bool, typer.Option("--sealed", help="Plan from the newest sealed payload, without a query.")
    ] = False,
    as_json: AsJson = False,
    project: ProjectFolder = Path(),
) -> None:
    """Show what the next delivery would do. It reads Mixpanel once (one query), and neither records nor sends anything.

    The exit code is 1 where nothing would be sent: a gate holds it, the sync is paused, the target is not its own.
    """
    from cohort_pipelines.orchestration import launch, planning

    with launch.declared(project) as declared:
        planned = planning.plan(declared, sync, sealed=sealed)
    if as_json:
        typer.echo(json.dumps(_plain(planned), default=_as_text))
    else:
        print_plan(planned)
    raise typer.Exit(1 if planned.preview.held or planned.preview.obstacles else 0)


@app.command("history")
def show_history(
    sync: Sync,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="How many of the newest.")] = 30,
    as_json: AsJson = False,
    project: ProjectFolder = Path(),
) -> None:
    """List every overwrite and every window that came to none, newest first; `--json` has all the numbers."""
    from cohort_pipelines.cli.tables import history_lines, history_table
    from cohort_pipelines.orchestration import fitting_ledger, launch
    from cohort_pipelines.reporting import entries

    with launch.within(project) as package:
        ledger = fitting_ledger()
        known = launch.sync_called(sync, package)  # one that is declared no more has a history all the same
        scheduled = known.open_window("") if known and known.cadence else None
        listed = entries(ledger, sync, limit, before=scheduled) if ledger else []
        if not listed:
            launch.require_known(sync, package, ledger)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(entry) for entry in listed], default=_as_text))
        return
    if not listed:
        console().print("No window of this sync was begun yet.")
        return
    console().print(history_table(listed))
    for line in history_lines(listed):
        console().print(line)


def print_plan(planned: "Plan") -> None:
    """Print a plan as a table of two columns, with what stands in its way below."""
    from cohort_pipelines.cli.tables import plan_table

    console().print(plan_table(planned))
    for obstacle in planned.preview.obstacles:
        console().print(obstacle, style="red")
    for verdict in planned.preview.verdicts:
        if verdict.held:
            by = f" Released by {planned.preview.approved}." if planned.preview.approved else f" {verdict.remedy}"
            style = "yellow" if planned.preview.approved else "red"
            console().print(f"Held by the gate {verdict.name}: {verdict.finding}.{by}", style=style)


def _plain(planned: "Plan") -> dict[str, Any]:
    about = {field.name: getattr(planned, field.name) for field in dataclasses.fields(planned)}
    return about | {"budget": dataclasses.asdict(planned.budget), "preview": planned.preview.as_dict()}


def _as_text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)

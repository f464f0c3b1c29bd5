"""The main job, end to end, against the stand-ins: one cohort, two partners, two windows, real HTTP.

Each sync runs twice. The first run happens one window back, by a clock that is set to that window's start; the second
in the window that is open now, after the cohort has changed. What arrived is read from the stand-ins' own state.
"""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urljoin

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from cohort_pipelines import history
from cohort_pipelines.core import clock, http, progress, settings
from cohort_pipelines.core.errors import ProjectFolderInvalid, SyncUnknown
from cohort_pipelines.core.files import Stage
from cohort_pipelines.devtools.processes import HOST, only_one
from cohort_pipelines.devtools.scaffold import write_instance_files
from cohort_pipelines.devtools.standins.kept import FOLDER, keep, kept_settings, require_unset
from cohort_pipelines.devtools.standins.server import running
from cohort_pipelines.devtools.standins.settings import Addresses
from cohort_pipelines.history import History
from cohort_pipelines.identity import Reason
from cohort_pipelines.orchestration import ResolvedSync, launch

CHURN = 0.01


@dataclass(frozen=True, slots=True)
class Delivered:
    """What one run of one sync did, and whether the partner's own state equals the payload afterwards."""

    sync: str
    window: str
    receipt: dict[str, Any]
    excluded_by_reason: dict[str, int]
    members: int
    error: str
    agrees: bool


def run_demo(folder: Path, *, members: int, only: str | None, console: Console) -> bool:
    """Run the main job in ``folder`` and print what happened; return whether all of it held.

    Raises:
        ProjectFolderInvalid: the folder is a project of its own, is being served, or holds data that no demo wrote.
        SyncUnknown: ``only`` is not one of the demo's syncs.
    """
    names = launch.sync_names(launch.DEMO)
    if only is not None and only not in names:
        raise SyncUnknown(only, tuple(names))
    data = _prepare(folder)
    wanted = kept_settings(data, members=members)
    with running(wanted) as addresses:
        keep(data, wanted, addresses)
        variables = addresses.environment() | http.direct_to(HOST) | _places(data)
        require_unset(Path.cwd(), variables)
        os.environ.update(variables)
        with launch.opened(Path()) as project:
            held = _two_windows(project, [only] if only else names, addresses, console)
    _say_where(folder, addresses, console)
    return held


def _prepare(folder: Path) -> Path:
    """Change into ``folder``, made ready for a new demo; return its data folder."""
    folder.mkdir(parents=True, exist_ok=True)
    remedy = "Choose another --folder for the demo."
    if (folder / "dagster.yaml").exists() and launch.package_of(folder) != launch.DEMO:
        raise ProjectFolderInvalid(folder.resolve(), "is a project of its own", remedy)
    data = folder.resolve() / "data"
    if data.exists():
        if not (data / FOLDER).is_dir():
            raise ProjectFolderInvalid(data, "holds data that no demo wrote", remedy)
        with only_one(folder.resolve()):
            shutil.rmtree(data)
    write_instance_files(folder)
    os.chdir(folder)
    return data


def _places(data: Path) -> dict[str, str]:
    """Return the variables that keep a demo in its folder, whatever else the environment names."""
    ledger = f"sqlite:///{data / 'ledger.sqlite'}"
    return {settings.DATA: str(data), settings.LEDGER: ledger, settings.HOME: str(data.parent)}


def _two_windows(project: launch.OpenProject, names: list[str], addresses: Addresses, console: Console) -> bool:
    syncs = [project.sync(name) for name in names]
    console.print("\n[bold]One window back[/] (the clock is set to that window's start): the first overwrite, in full.")
    first = [_deliver(project, sync, 1, addresses, console) for sync in syncs]
    _print_table(first, console)
    joined, left = asyncio.run(_change_cohort(addresses))
    console.print(f"\n[bold]The current window[/]: {joined:,} have joined the cohort, {left:,} have left it.")
    second = [_deliver(project, sync, 0, addresses, console) for sync in syncs]
    _print_table(second, console)
    held = all(done.agrees for done in first + second)
    if only_difference := all(_only_the_difference(done, joined, left) for done in second):
        console.print("Only the difference was sent, and the few users whose turn it is to be sent again (reconciled).")
    else:
        console.print("[bold red]More than the difference was sent.[/]")
    return held and only_difference


def _deliver(
    project: launch.OpenProject, sync: ResolvedSync, windows_back: int, addresses: Addresses, console: Console
) -> Delivered:
    cadence = sync.cadence
    assert cadence is not None, "the demo declares scheduled syncs"  # noqa: S101  for the type checker
    now = clock.now()
    window = cadence.window_at(now - windows_back * cadence.value)
    assert window.opens is not None, "scheduled windows open at a moment"  # noqa: S101  for the type checker
    with clock.shifted(window.opens - now), _progress_bars(console):
        outcome = launch.run_sync(project, sync.name, window.key)
    if outcome.error:
        console.print(f"[red]{sync.name}[/]: {escape(outcome.error)}")
        return Delivered(sync.name, window.key, {}, {}, 0, outcome.error, agrees=False)
    receipt = {str(name): value for name, value in history.receipts(sync.name).iloc[-1].items()}
    excluded = history.read(sync.name, Stage.EXCLUDED, window.key)
    agrees = asyncio.run(_same(_ids_in(_state_url(sync, addresses)), _payload_ids(sync.name, window.key)))
    return Delivered(
        sync.name,
        window.key,
        receipt,
        {str(reason): int(count) for reason, count in excluded["reason"].value_counts().items()},
        int(receipt["users"]) + len(excluded),
        "",
        agrees,
    )


def _only_the_difference(done: Delivered, joined: int, left: int) -> bool:
    """Say whether only joiners, leavers and a small reconciled slice were sent; not everybody has a partner id."""
    if done.error:
        return False
    joiners, leavers, reconciled = (int(done.receipt[name]) for name in ("joiners", "leavers", "reconciled"))
    changed_only = int(done.receipt["planned"]) == joiners + leavers + reconciled
    return changed_only and joiners <= joined and leavers <= left and reconciled <= int(done.receipt["users"]) / 20


def _state_url(sync: ResolvedSync, addresses: Addresses) -> str:
    if sync.partner_kind == "taplytics":
        return f"{addresses.taplytics_url}/standin/state?field={quote(sync.target)}"
    return urljoin(addresses.apptimize_url, f"/standin/state?group={quote(sync.target)}")


async def _ids_in(url: str) -> AsyncIterator[str]:
    async with http.client(connections=1) as client, client.stream("GET", url) as answer:
        async for line in answer.aiter_lines():
            yield json.loads(line)


def _payload_ids(sync: str, window: str) -> Iterator[str]:
    files = History(settings.history_root())
    for batch in files.batches(files.versions(sync, Stage.PARTNER_PAYLOAD, window)[-1]):
        for user in batch.column("partner_user_id"):
            yield str(user)


async def _same(held: AsyncIterator[str], expected: Iterator[str]) -> bool:
    """Compare two sorted streams of ids, one at a time, so that a million cost no memory."""
    async for user in held:
        if next(expected, None) != user:
            return False
    return next(expected, None) is None


async def _change_cohort(addresses: Addresses) -> tuple[int, int]:
    async with http.client(addresses.mixpanel_url, connections=1) as client:
        answer = (await client.post("/standin/churn", json={"fraction": CHURN})).json()
    return answer["joined"], answer["left"]


@contextmanager
def _progress_bars(console: Console) -> Iterator[None]:
    columns = (TextColumn("{task.description:<48}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as shown:

        def update(sync: str, stage: str, done: int, total: int) -> None:
            name = f"{sync}/{stage}"
            if name not in bars:
                bars[name] = shown.add_task(name)
            shown.update(bars[name], completed=done, total=total)

        with progress.listening(update):
            yield


def _print_table(delivered: list[Delivered], console: Console) -> None:
    table = Table("", *(done.sync for done in delivered))
    for name in ("window", "members", "identified"):
        table.add_row(name, *(_cell(done, name) for done in delivered))
    for reason in sorted({reason for done in delivered for reason in done.excluded_by_reason}):
        table.add_row(f"excluded: {reason}", *(f"{done.excluded_by_reason.get(reason, 0):,}" for done in delivered))
    for name in ("delivered", "joiners", "leavers", "reconciled", "requests", "seconds"):
        table.add_row(name, *(_cell(done, name) for done in delivered))
    table.add_row(
        "the partner holds the payload",
        *("[green]yes, exactly[/]" if done.agrees else "[bold red]NO[/]" for done in delivered),
    )
    for column in table.columns[1:]:
        column.justify = "right"
    console.print(table)


def _cell(done: Delivered, name: str) -> str:
    if name == "window":
        return done.window
    if done.error:
        return ""
    if name == "members":
        return f"{done.members:,}"
    if name == "identified":
        unidentified = sum(
            done.excluded_by_reason.get(reason, 0) for reason in (Reason.ANONYMOUS, Reason.MALFORMED_MEMBER)
        )
        return f"{done.members - unidentified:,}"
    value = done.receipt["users" if name == "delivered" else name]
    return f"{value:.1f}" if name == "seconds" else f"{int(value):,}"


def _say_where(folder: Path, addresses: Addresses, console: Console) -> None:
    where = "" if folder == Path() else f" --project {folder}"
    command = "make dev" if Path("Makefile").is_file() else f"cohort-pipelines dev --standins{where}"
    console.print(
        "\nTo look at it in Dagster (http://127.0.0.1:3000), with the partners as this run left them:\n"
        f"  {command}\n"
        "and, while that runs:\n"
        f"  Taplytics, Segment editor   {addresses.taplytics_url}/segments/Beta%20Users\n"
        f"  Apptimize, Groups           {addresses.groups_url}",
        highlight=False,
        soft_wrap=True,
    )
